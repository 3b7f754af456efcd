//! Records in CBOR (RFC 8428, 6). What is not well-formed breaks the pack: past the fault nobody knows where an item
//! begins. Half, single and double floats, decimal fractions (tag 4) and indefinite lengths are taken; text labels in
//! place of the numbers, too, since encoders that know nothing of SenML write those.

use std::borrow::Cow;

use minicbor::data::{IanaTag, Type};
use minicbor::decode::{Decoder, Error};

use super::number::Number;
use super::record::{Label, Record, Scalar};
use crate::ingest::decode::DecodeError;
use crate::ingest::scan::DEPTH_MAX;

/// What the pack and a record hold open.
const IN_RECORD: u32 = 2;

pub(super) struct Reader<'a> {
    input: Decoder<'a>,
    left: Left,
    items_max: usize,
    count: usize,
}

/// How many items of an array or a map are to come.
#[derive(Clone, Copy)]
enum Left {
    Counted(u64),
    /// As many as there are before a break.
    Open,
}

impl From<Option<u64>> for Left {
    fn from(count: Option<u64>) -> Self {
        count.map_or(Self::Open, Self::Counted)
    }
}

impl<'a> Reader<'a> {
    /// Begins a pack. One that says it has too many records is refused unread.
    pub fn open(body: &'a [u8], items_max: usize) -> Result<Self, DecodeError> {
        let mut reader = Self { input: Decoder::new(body), left: Left::Open, items_max, count: 0 };
        let kind = reader.kind()?;
        if !matches!(kind, Type::Array | Type::ArrayIndef) {
            reader.skip(0)?;
            return Err(DecodeError::NotAPack);
        }
        reader.left = reader.take(Decoder::array)?.into();
        match reader.left {
            Left::Counted(count) if count > items_max as u64 => Err(DecodeError::TooManyItems { items_max }),
            _ => Ok(reader),
        }
    }

    /// The next record; `None` after the last one, which is where the body must end.
    pub fn read(&mut self) -> Result<Option<Record<'a>>, DecodeError> {
        let mut left = self.left;
        let another = self.another(&mut left)?;
        self.left = left;
        if !another {
            let whole = self.input.position() == self.input.input().len();
            return if whole { Ok(None) } else { Err(self.broken()) };
        }
        if self.count == self.items_max {
            return Err(DecodeError::TooManyItems { items_max: self.items_max });
        }
        self.count += 1;
        self.record().map(Some)
    }

    fn record(&mut self) -> Result<Record<'a>, DecodeError> {
        if !matches!(self.kind()?, Type::Map | Type::MapIndef) {
            self.skip(1)?;
            return Ok(Record::unfit("a record is a map"));
        }
        let mut left = self.take(Decoder::map)?.into();
        let mut record = Record::default();
        while self.another(&mut left)? {
            match self.label(&mut record)? {
                Some(label) => record.set(label, self.scalar()?)?,
                None => self.skip(IN_RECORD)?,
            }
        }
        Ok(record)
    }

    /// Is there one more? If so it is counted.
    fn another(&mut self, left: &mut Left) -> Result<bool, DecodeError> {
        match left {
            Left::Counted(0) => Ok(false),
            Left::Counted(count) => {
                *count -= 1;
                Ok(true)
            }
            Left::Open if self.kind()? == Type::Break => {
                self.input.set_position(self.input.position() + 1);
                *left = Left::Counted(0);
                Ok(false)
            }
            Left::Open => Ok(true),
        }
    }

    fn label(&mut self, record: &mut Record<'a>) -> Result<Option<Label>, DecodeError> {
        match self.kind()? {
            Type::String | Type::StringIndef => Label::of_text(&self.text()?),
            kind if is_integer(kind) => Ok(Label::of_number(self.take(Decoder::int)?.into())),
            _ => {
                record.fault.get_or_insert_with(|| "a label is an integer or a text".to_owned());
                self.skip(IN_RECORD)?;
                Ok(None)
            }
        }
    }

    fn scalar(&mut self) -> Result<Scalar<'a>, DecodeError> {
        Ok(match self.kind()? {
            Type::Bool => Scalar::Bool(self.take(Decoder::bool)?),
            Type::F16 | Type::F32 | Type::F64 => number(Number::float(self.take(Decoder::f64)?)),
            Type::String | Type::StringIndef => Scalar::Text(self.text()?),
            Type::Bytes | Type::BytesIndef => Scalar::Bytes(self.bytes()?),
            Type::Tag => self.fraction()?,
            kind if is_integer(kind) => Scalar::Number(Number::whole(self.take(Decoder::int)?.into())),
            kind => {
                self.skip(IN_RECORD)?;
                Scalar::Unfit(match kind {
                    Type::Null | Type::Undefined => "must not be null; leave the field out",
                    Type::Array | Type::ArrayIndef | Type::Map | Type::MapIndef => "must not be an array or a map",
                    _ => "is of no type that SenML has",
                })
            }
        })
    }

    /// A decimal fraction (RFC 8949, 3.4.4), the only tag that the RFC allows.
    fn fraction(&mut self) -> Result<Scalar<'a>, DecodeError> {
        let begin = self.input.position();
        self.skip(IN_RECORD)?;
        let end = self.input.position();
        // It is well-formed. Whether it is a fraction is the record's matter.
        let mut inside = Decoder::new(self.input.input().get(begin..end).unwrap_or_default());
        Ok(match decimal(&mut inside) {
            Ok(text) if inside.position() == end - begin => number(Number::parse(&text)),
            _ => Scalar::Unfit("has a tag, and is not a decimal fraction (tag 4) of an exponent and a mantissa"),
        })
    }

    fn text(&mut self) -> Result<Cow<'a, str>, DecodeError> {
        if self.kind()? == Type::String {
            return self.take(Decoder::str).map(Cow::Borrowed);
        }
        self.take(|input| input.str_iter()?.collect::<Result<String, _>>()).map(Cow::Owned)
    }

    fn bytes(&mut self) -> Result<Cow<'a, [u8]>, DecodeError> {
        if self.kind()? == Type::Bytes {
            return self.take(Decoder::bytes).map(Cow::Borrowed);
        }
        // As one: a million empty parts are a megabyte of input.
        self.take(|input| {
            input.bytes_iter()?.try_fold(Vec::new(), |mut all, part| {
                all.extend_from_slice(part?);
                Ok(all)
            })
        })
        .map(Cow::Owned)
    }

    /// Passes over one item. `open`: how many arrays, maps and tags it stands in.
    fn skip(&mut self, open: u32) -> Result<(), DecodeError> {
        let kind = self.kind()?;
        let (mut left, each) = match kind {
            Type::Array | Type::ArrayIndef => (self.take(Decoder::array)?.into(), 1),
            Type::Map | Type::MapIndef => (self.take(Decoder::map)?.into(), 2),
            Type::Tag => {
                self.take(Decoder::tag)?;
                (Left::Counted(1), 1)
            }
            _ => return self.skip_plain(kind),
        };
        if open == DEPTH_MAX {
            return Err(DecodeError::CborTooDeep { at: self.input.position() });
        }
        while self.another(&mut left)? {
            for _ in 0..each {
                self.skip(open + 1)?;
            }
        }
        Ok(())
    }

    fn skip_plain(&mut self, kind: Type) -> Result<(), DecodeError> {
        match kind {
            Type::String | Type::StringIndef => self.text().map(|_| ()),
            Type::Bytes | Type::BytesIndef => self.bytes().map(|_| ()),
            Type::Bool => self.take(Decoder::bool).map(|_| ()),
            Type::Null => self.take(Decoder::null),
            Type::Undefined => self.take(Decoder::undefined),
            Type::Simple => self.take(Decoder::simple).map(|_| ()),
            Type::F16 | Type::F32 | Type::F64 => self.take(Decoder::f64).map(|_| ()),
            kind if is_integer(kind) => self.take(Decoder::int).map(|_| ()),
            _ => Err(self.broken()),
        }
    }

    fn kind(&self) -> Result<Type, DecodeError> {
        self.input.datatype().map_err(|_| self.broken())
    }

    fn take<T>(&mut self, read: impl FnOnce(&mut Decoder<'a>) -> Result<T, Error>) -> Result<T, DecodeError> {
        read(&mut self.input).map_err(|_| self.broken())
    }

    fn broken(&self) -> DecodeError {
        DecodeError::Cbor { at: self.input.position() }
    }
}

fn is_integer(kind: Type) -> bool {
    matches!(
        kind,
        Type::U8 | Type::U16 | Type::U32 | Type::U64 | Type::I8 | Type::I16 | Type::I32 | Type::I64 | Type::Int
    )
}

fn number(number: Option<Number>) -> Scalar<'static> {
    number.map_or(Scalar::Unfit("is not a finite number"), Scalar::Number)
}

/// As JSON writes it: the nearest double is found where JSON's is.
fn decimal(input: &mut Decoder<'_>) -> Result<String, Error> {
    if input.tag()? != IanaTag::Decimal {
        return Err(Error::message("another tag"));
    }
    let length = input.array()?;
    let exponent = i64::try_from(input.int()?).map_err(|_| Error::message("no exponent"))?;
    let mantissa = input.i128()?;
    if length.is_none() {
        // The break.
        input.set_position(input.position() + 1);
    } else if length != Some(2) {
        return Err(Error::message("not a pair"));
    }
    Ok(format!("{mantissa}e{exponent}"))
}
