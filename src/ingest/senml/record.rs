//! One record as it was written: its fields, each of the type that RFC 8428, 4.3 gives it.

use std::borrow::Cow;

use super::number::Number;
use crate::ingest::decode::DecodeError;
use crate::ingest::item::METRIC_NAME_MAX_CHARS;

/// The version of RFC 8428 (4.1).
const VERSION: i128 = 10;
/// Of a name or a unit. Longer ones make no metric's name; the limit keeps a base field from being copied at length
/// into each of many records.
const PART_MAX_BYTES: usize = 256;

/// The fields that the RFC defines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Label {
    Version,
    BaseName,
    BaseTime,
    BaseUnit,
    BaseValue,
    BaseSum,
    Name,
    Unit,
    Value,
    StringValue,
    BooleanValue,
    Sum,
    Time,
    UpdateTime,
    DataValue,
}

impl Label {
    /// Tables 1 and 4 of the RFC.
    const ALL: [(Self, &str, i128); 15] = [
        (Self::Version, "bver", -1),
        (Self::BaseName, "bn", -2),
        (Self::BaseTime, "bt", -3),
        (Self::BaseUnit, "bu", -4),
        (Self::BaseValue, "bv", -5),
        (Self::BaseSum, "bs", -6),
        (Self::Name, "n", 0),
        (Self::Unit, "u", 1),
        (Self::Value, "v", 2),
        (Self::StringValue, "vs", 3),
        (Self::BooleanValue, "vb", 4),
        (Self::Sum, "s", 5),
        (Self::Time, "t", 6),
        (Self::UpdateTime, "ut", 7),
        (Self::DataValue, "vd", 8),
    ];

    /// `None`: it is to be ignored (RFC 8428, 4.4).
    ///
    /// # Errors
    /// It must be understood.
    pub fn of_text(text: &str) -> Result<Option<Self>, DecodeError> {
        match Self::ALL.iter().find(|(_, name, _)| *name == text) {
            Some((label, ..)) => Ok(Some(*label)),
            None if text.ends_with('_') => Err(DecodeError::SenmlExtension { label: quoted(text) }),
            None => Ok(None),
        }
    }

    /// CBOR's. The RFC defines no others, and says that there will be none.
    pub fn of_number(number: i128) -> Option<Self> {
        Self::ALL.iter().find(|(.., known)| *known == number).map(|(label, ..)| *label)
    }

    pub fn as_str(self) -> &'static str {
        Self::ALL[self as usize].1
    }

    fn is_base(self) -> bool {
        self.as_str().starts_with('b')
    }
}

/// A label for the sender's eyes.
fn quoted(label: &str) -> Box<str> {
    let shown: String = label.chars().take(METRIC_NAME_MAX_CHARS).filter(|c| !c.is_control()).collect();
    format!("{shown:?}").into()
}

/// The value of a field as the encoding has it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Scalar<'a> {
    Number(Number),
    Text(Cow<'a, str>),
    Bytes(Cow<'a, [u8]>),
    Bool(bool),
    /// None of these; what is wrong with it.
    Unfit(&'static str),
}

impl<'a> Scalar<'a> {
    fn number(self) -> Result<Number, &'static str> {
        match self {
            Self::Number(number) => Ok(number),
            Self::Unfit(what) => Err(what),
            _ => Err("must be a number"),
        }
    }

    fn text(self) -> Result<Cow<'a, str>, &'static str> {
        match self {
            Self::Text(text) => Ok(text),
            Self::Unfit(what) => Err(what),
            _ => Err("must be a text"),
        }
    }

    /// Of a name or a unit.
    fn part(self) -> Result<Cow<'a, str>, &'static str> {
        self.text().and_then(|text| if text.len() > PART_MAX_BYTES { Err("more than 256 bytes") } else { Ok(text) })
    }

    fn bool(self) -> Result<bool, &'static str> {
        match self {
            Self::Bool(yes) => Ok(yes),
            Self::Unfit(what) => Err(what),
            _ => Err("must be true or false"),
        }
    }

    fn bytes(self) -> Result<Cow<'a, [u8]>, &'static str> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Unfit(what) => Err(what),
            _ => Err("must be a byte string"),
        }
    }
}

/// What was measured.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Measured<'a> {
    Number(Number),
    Text(Cow<'a, str>),
    Bool(bool),
    Data(Cow<'a, [u8]>),
}

/// A base field of one record.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) enum Base<T> {
    #[default]
    Absent,
    Is(T),
    /// It is there and cannot be used, so that nothing is known for those who build on it.
    Broken,
}

#[derive(Debug, Default)]
pub(super) struct Bases<'a> {
    pub name: Base<Cow<'a, str>>,
    pub time: Base<Number>,
    pub unit: Base<Cow<'a, str>>,
    pub value: Base<Number>,
    pub sum: Base<Number>,
}

#[derive(Debug, Default)]
pub(super) struct Record<'a> {
    pub bases: Bases<'a>,
    pub version: Option<i128>,
    pub name: Option<Cow<'a, str>>,
    pub unit: Option<Cow<'a, str>>,
    pub value: Option<Measured<'a>>,
    pub sum: Option<Number>,
    pub time: Option<Number>,
    /// It has a field that is none of the base fields: it measures something.
    pub measures: bool,
    /// The first fault: the record is not stored. Its good base fields count all the same.
    pub fault: Option<String>,
    seen: u16,
}

impl<'a> Record<'a> {
    /// A record that is none.
    pub fn unfit(what: &str) -> Self {
        Self { fault: Some(what.to_owned()), ..Self::default() }
    }

    pub fn fail(&mut self, label: Label, what: &str) {
        self.fault.get_or_insert_with(|| format!("/{}: {what}", label.as_str()));
    }

    /// Takes a field.
    ///
    /// # Errors
    /// A version that is not ours: the pack is not ours to read.
    pub fn set(&mut self, label: Label, scalar: Scalar<'a>) -> Result<(), DecodeError> {
        if label == Label::Version {
            return self.set_version(&scalar);
        }
        let bit = 1 << label as u16;
        let scalar = if self.seen & bit == 0 { scalar } else { Scalar::Unfit("occurs twice") };
        self.seen |= bit;
        self.measures |= !label.is_base();
        if let Err(what) = self.fill(label, scalar) {
            self.fail(label, what);
        }
        Ok(())
    }

    fn set_version(&mut self, scalar: &Scalar<'a>) -> Result<(), DecodeError> {
        let Scalar::Number(Number::Whole(version @ 1..=VERSION)) = *scalar else {
            return Err(DecodeError::SenmlVersion);
        };
        match self.version.replace(version) {
            Some(other) if other != version => Err(DecodeError::SenmlVersions),
            _ => Ok(()),
        }
    }

    fn fill(&mut self, label: Label, scalar: Scalar<'a>) -> Result<(), &'static str> {
        match label {
            // It has gone another way.
            Label::Version => Ok(()),
            Label::BaseName => base(&mut self.bases.name, scalar.part()),
            Label::BaseTime => base(&mut self.bases.time, scalar.number()),
            Label::BaseUnit => base(&mut self.bases.unit, scalar.part()),
            Label::BaseValue => base(&mut self.bases.value, scalar.number()),
            Label::BaseSum => base(&mut self.bases.sum, scalar.number()),
            Label::Name => scalar.part().map(|name| self.name = Some(name)),
            Label::Unit => scalar.part().map(|unit| self.unit = Some(unit)),
            Label::Sum => scalar.number().map(|sum| self.sum = Some(sum)),
            Label::Time => scalar.number().map(|time| self.time = Some(time)),
            // A promise of the sensor's, and no measurement: checked and not kept.
            Label::UpdateTime => scalar.number().map(|_| ()),
            Label::Value => self.measured(scalar.number().map(Measured::Number)),
            Label::StringValue => self.measured(scalar.text().map(Measured::Text)),
            Label::BooleanValue => self.measured(scalar.bool().map(Measured::Bool)),
            Label::DataValue => self.measured(scalar.bytes().map(Measured::Data)),
        }
    }

    fn measured(&mut self, value: Result<Measured<'a>, &'static str>) -> Result<(), &'static str> {
        match self.value.replace(value?) {
            Some(_) => Err("is a second value; a record has one of v, vs, vb and vd"),
            None => Ok(()),
        }
    }
}

fn base<T>(slot: &mut Base<T>, value: Result<T, &'static str>) -> Result<(), &'static str> {
    match value {
        Ok(value) => {
            *slot = Base::Is(value);
            Ok(())
        }
        Err(what) => {
            *slot = Base::Broken;
            Err(what)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_stand_in_their_order() {
        for (position, (label, text, number)) in Label::ALL.into_iter().enumerate() {
            assert_eq!((label as usize, label.as_str()), (position, text));
            assert_eq!(Label::of_text(text), Ok(Some(label)));
            assert_eq!(Label::of_number(number), Some(label));
        }
        assert_eq!(Label::of_number(9), None);
        assert_eq!(Label::of_text("x"), Ok(None));
        assert_eq!(Label::of_text("\u{7}x\"_"), Err(DecodeError::SenmlExtension { label: r#""x\"_""#.into() }));
    }
}
