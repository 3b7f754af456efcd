//! `application/x-www-form-urlencoded` (WHATWG URL, 5.1) into pairs, and pairs into a type. Strict: percent signs
//! must be followed by two digits, the text must be UTF-8 without NUL (PostgreSQL has none in text), each name occurs
//! once, and the type refuses names that it does not have.

use std::fmt::Display;
use std::str::FromStr;

use serde::de::value::MapDeserializer;
use serde::de::{DeserializeOwned, Deserializer, Error as _, IntoDeserializer, Visitor};

/// More parameters than any route has.
const PAIRS_MAX: usize = 64;

type Failure = serde::de::value::Error;

/// What is wrong, and of which parameter (empty: of the whole).
#[derive(Debug, PartialEq, Eq)]
pub struct BadForm {
    pub name: String,
    pub detail: String,
}

impl BadForm {
    fn new(name: &str, detail: impl Display) -> Self {
        Self { name: name.to_owned(), detail: detail.to_string() }
    }
}

/// The decoded pairs, in order.
pub fn pairs(text: &[u8]) -> Result<Vec<(String, String)>, BadForm> {
    let parts = text.split(|byte| *byte == b'&').filter(|part| !part.is_empty());
    let mut pairs: Vec<(String, String)> = Vec::new();
    for part in parts {
        if pairs.len() == PAIRS_MAX {
            return Err(BadForm::new("", format_args!("more than {PAIRS_MAX} parameters")));
        }
        let at = part.iter().position(|byte| *byte == b'=').unwrap_or(part.len());
        let name = decode(&part[..at]).ok_or_else(|| BadForm::new("", "a name is not percent-encoded UTF-8"))?;
        let value = decode(part.get(at + 1..).unwrap_or_default())
            .ok_or_else(|| BadForm::new(&name, "not percent-encoded UTF-8 without NUL"))?;
        if pairs.iter().any(|(known, _)| *known == name) {
            return Err(BadForm::new(&name, "given more than once"));
        }
        pairs.push((name, value));
    }
    Ok(pairs)
}

/// Makes a `T` of pairs.
pub fn read<T: DeserializeOwned>(pairs: Vec<(String, String)>) -> Result<T, BadForm> {
    let pairs = pairs.into_iter().map(|(name, value)| (name, Text(value)));
    serde_path_to_error::deserialize(MapDeserializer::<_, Failure>::new(pairs)).map_err(|error| {
        let name = error.path().to_string();
        BadForm::new(if name == "." { "" } else { &name }, error.into_inner())
    })
}

fn decode(text: &[u8]) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => 16 * digit(*rest.next()?)? + digit(*rest.next()?)?,
            plain => *plain,
        });
    }
    String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// A value: text, and whatever can be parsed of it.
struct Text(String);

impl Text {
    fn parse<T: FromStr>(&self, what: &str) -> Result<T, Failure> {
        self.0.parse().map_err(|_| Failure::custom(format_args!("not {what}")))
    }
}

impl IntoDeserializer<'_, Failure> for Text {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

macro_rules! parsed {
    ($($method:ident, $visit:ident, $what:literal;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
            visitor.$visit(self.parse($what)?)
        }
    )*};
}

impl<'de> Deserializer<'de> for Text {
    type Error = Failure;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_string(self.0)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failure> {
        visitor.visit_enum(self.0.into_deserializer())
    }

    parsed! {
        deserialize_bool, visit_bool, "true or false";
        deserialize_i8, visit_i8, "a whole number in its range";
        deserialize_i16, visit_i16, "a whole number in its range";
        deserialize_i32, visit_i32, "a whole number in its range";
        deserialize_i64, visit_i64, "a whole number in its range";
        deserialize_u8, visit_u8, "a whole number in its range";
        deserialize_u16, visit_u16, "a whole number in its range";
        deserialize_u32, visit_u32, "a whole number in its range";
        deserialize_u64, visit_u64, "a whole number in its range";
        deserialize_f64, visit_f64, "a number";
    }

    serde::forward_to_deserialize_any! {
        f32 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Asked {
        limit: Option<u32>,
        name: Option<String>,
        order: Option<Order>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "snake_case")]
    enum Order {
        Asc,
    }

    fn ask(text: &str) -> Result<Asked, BadForm> {
        pairs(text.as_bytes()).and_then(read)
    }

    #[test]
    fn good_ones() {
        assert_eq!(ask(""), Ok(Asked { limit: None, name: None, order: None }));
        let expected = Asked { limit: Some(7), name: Some("a b&ü".to_owned()), order: Some(Order::Asc) };
        assert_eq!(ask("limit=7&name=a+b%26%C3%bc&order=asc"), Ok(expected));
    }

    #[test]
    fn bad_ones_are_named() {
        for (text, name) in [
            ("limit=x", "limit"),
            ("limit=-1", "limit"),
            ("limit=1&limit=1", "limit"),
            ("name=%0", "name"),
            ("name=%zz", "name"),
            ("name=%ff", "name"),
            ("name=a%00", "name"),
            ("order=up", "order"),
            ("page=1", "page"),
        ] {
            assert_eq!(ask(text).map_err(|bad| bad.name), Err(name.to_owned()), "{text}");
        }
    }
}
