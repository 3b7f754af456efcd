//! One item of a batch: `{"ts"?, "id"?, "values": {…}}`. Its text is JSON of bounded depth already ([`super::scan`]);
//! every fault found here is the item's own.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, Visitor};

use crate::domain::reading::{Value, Values};
use crate::domain::time::{parse_rfc3339, unix_us};
use crate::wire::whole;

pub(super) const METRICS_MAX: usize = 64;
pub(super) const METRIC_NAME_MAX_CHARS: usize = 64;
const ID_MAX_CHARS: usize = 128;
pub(super) const TEXT_MAX_CHARS: usize = 1024;

/// What an item says.
#[derive(Debug, PartialEq)]
pub(super) struct Item {
    /// Microseconds since 1970.
    pub ts_us: Option<i64>,
    pub id: Option<Box<str>>,
    pub values: Values,
}

/// Reads one item.
///
/// # Errors
/// A sentence that begins with a JSON pointer to the fault.
pub(super) fn parse(text: &str) -> Result<Item, String> {
    let mut pointer = String::new();
    let mut reader = serde_json::Deserializer::from_str(text);
    reader.deserialize_map(ItemVisitor { pointer: &mut pointer }).map_err(|error| {
        let error = error.to_string();
        // serde_json adds the position within the item, which the sender cannot see.
        let sentence = error.rfind(" at line ").map_or(error.as_str(), |end| &error[..end]);
        if pointer.is_empty() { sentence.to_owned() } else { format!("{pointer}: {sentence}") }
    })
}

struct ItemVisitor<'p> {
    /// Where the reader is, for the error's sake.
    pointer: &'p mut String,
}

impl<'de> Visitor<'de> for ItemVisitor<'_> {
    type Value = Item;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with `values`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Item, A::Error> {
        let (mut ts_us, mut id, mut values) = (None, None, None);
        while let Some(field) = map.next_key::<Box<str>>()? {
            descend(self.pointer, &field);
            match &*field {
                "ts" => once(&mut ts_us, map.next_value_seed(TsSeed)?)?,
                "id" => once(&mut id, map.next_value_seed(IdSeed)?)?,
                "values" => once(&mut values, map.next_value_seed(ValuesSeed { pointer: self.pointer })?)?,
                _ => return Err(A::Error::custom("unknown field; an item has ts, id and values")),
            }
            self.pointer.clear();
        }
        let values = values.ok_or_else(|| A::Error::custom("/values: is missing"))?;
        Ok(Item { ts_us, id, values })
    }
}

fn once<T, E: Error>(field: &mut Option<T>, value: T) -> Result<(), E> {
    if field.replace(value).is_some() { Err(E::custom("occurs twice")) } else { Ok(()) }
}

/// Appends a reference token (RFC 6901), cut to a sane length.
fn descend(pointer: &mut String, name: &str) {
    pointer.push('/');
    for c in name.chars().take(METRIC_NAME_MAX_CHARS) {
        match c {
            '~' => pointer.push_str("~0"),
            '/' => pointer.push_str("~1"),
            c if c.is_control() => pointer.push('\u{fffd}'),
            c => pointer.push(c),
        }
    }
}

struct TsSeed;

impl<'de> DeserializeSeed<'de> for TsSeed {
    type Value = i64;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<i64, D::Error> {
        from.deserialize_any(self)
    }
}

impl Visitor<'_> for TsSeed {
    type Value = i64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an RFC 3339 time or an integer of Unix milliseconds")
    }

    fn visit_i64<E: Error>(self, ms: i64) -> Result<i64, E> {
        ms.checked_mul(1_000).ok_or_else(|| E::custom("no such time"))
    }

    fn visit_u64<E: Error>(self, ms: u64) -> Result<i64, E> {
        i64::try_from(ms).map_err(|_| E::custom("no such time")).and_then(|ms| self.visit_i64(ms))
    }

    fn visit_f64<E: Error>(self, ms: f64) -> Result<i64, E> {
        let whole = whole::of(ms).ok_or_else(|| E::custom("not a whole number of milliseconds"))?;
        self.visit_i64(whole)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<i64, E> {
        parse_rfc3339(text).map(unix_us).ok_or_else(|| E::custom("not an RFC 3339 time"))
    }
}

struct IdSeed;

impl<'de> DeserializeSeed<'de> for IdSeed {
    type Value = Box<str>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Box<str>, D::Error> {
        from.deserialize_str(self)
    }
}

impl Visitor<'_> for IdSeed {
    type Value = Box<str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a string of 1 to {ID_MAX_CHARS} characters")
    }

    fn visit_str<E: Error>(self, id: &str) -> Result<Box<str>, E> {
        named(id, ID_MAX_CHARS)?;
        Ok(id.into())
    }
}

fn named<E: Error>(text: &str, max: usize) -> Result<(), E> {
    name(text, max).map_err(E::custom)
}

/// 1 to `max` characters, none of them a control character.
pub(super) fn name(text: &str, max: usize) -> Result<(), String> {
    // A character has at most four bytes: long texts need not be counted.
    if text.is_empty() || text.len() > 4 * max || text.chars().count() > max {
        return Err(format!("must have 1 to {max} characters"));
    }
    if text.chars().any(char::is_control) {
        return Err("must not hold control characters".to_owned());
    }
    Ok(())
}

/// A text as a metric's value.
pub(super) fn text(text: &str) -> Result<Value, String> {
    // A character has at most four bytes: long texts need not be counted.
    if text.len() > TEXT_MAX_CHARS && (text.len() > 4 * TEXT_MAX_CHARS || text.chars().count() > TEXT_MAX_CHARS) {
        return Err(format!("more than {TEXT_MAX_CHARS} characters of text"));
    }
    if text.contains('\0') {
        return Err("must not hold NUL".to_owned());
    }
    Ok(text.into())
}

struct ValuesSeed<'p> {
    pointer: &'p mut String,
}

impl<'de> DeserializeSeed<'de> for ValuesSeed<'_> {
    type Value = Values;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Values, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for ValuesSeed<'_> {
    type Value = Values;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of metric names and values")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Values, A::Error> {
        let mut metrics = Vec::new();
        while let Some(name) = map.next_key::<Box<str>>()? {
            if metrics.len() == METRICS_MAX {
                return Err(A::Error::custom(format_args!("more than {METRICS_MAX} metrics")));
            }
            let value = named(&name, METRIC_NAME_MAX_CHARS).and_then(|()| map.next_value_seed(ValueSeed));
            match value {
                Ok(value) => metrics.push((name, value)),
                Err(error) => {
                    descend(self.pointer, &name);
                    return Err(error);
                }
            }
        }
        if metrics.is_empty() {
            return Err(A::Error::custom("must hold a metric"));
        }
        Values::new(metrics).map_err(|name| {
            descend(self.pointer, &name);
            A::Error::custom("occurs twice")
        })
    }
}

struct ValueSeed;

impl<'de> DeserializeSeed<'de> for ValueSeed {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl Visitor<'_> for ValueSeed {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, a boolean or a string")
    }

    fn visit_bool<E: Error>(self, yes: bool) -> Result<Value, E> {
        Ok(yes.into())
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Value, E> {
        Value::float(number).ok_or_else(|| E::custom("not a finite number"))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        self::text(text).map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_an_item() {
        let item = parse(r#"{"ts":"2026-11-23T12:00:00+02:00","id":"x","values":{"b":1.0,"a":"\u00fc","c":false}}"#);
        let item = item.unwrap();
        assert_eq!(item.ts_us, Some(1_795_428_000_000_000));
        assert_eq!(item.id.as_deref(), Some("x"));
        assert_eq!(item.values.to_json(), r#"{"a":"ü","b":1,"c":false}"#);
        assert_eq!(parse(r#"{"ts":-1,"values":{"a":1}}"#).unwrap().ts_us, Some(-1_000));
    }

    #[test]
    fn says_where_the_fault_is() {
        let table = [
            ("3", "an object with `values`"),
            ("[]", "an object with `values`"),
            ("{}", "/values: is missing"),
            (r#"{"values":{}}"#, "/values: must hold a metric"),
            (r#"{"values":[]}"#, "/values: invalid type: sequence"),
            (r#"{"values":{"a":null}}"#, "/values/a: invalid type: null, expected a number"),
            (r#"{"values":{"a":{"b":1}}}"#, "/values/a: invalid type: map"),
            (r#"{"values":{"a/b":1e400}}"#, "/values/a~1b: number out of range"),
            (r#"{"values":{"a":-1e400}}"#, "/values/a: number out of range"),
            (r#"{"values":{"a":"\u0000"}}"#, "/values/a: must not hold NUL"),
            (r#"{"values":{"a":"\ud800"}}"#, "/values/a: "),
            (r#"{"values":{"a\u0000":1}}"#, "control characters"),
            (r#"{"values":{"\ud800":1}}"#, "/values: "),
            (r#"{"values":{"":1}}"#, "/values/: must have 1 to 64"),
            (r#"{"values":{"a":1,"b":2,"a":1}}"#, "/values/a: occurs twice"),
            (r#"{"values":{"a":1,"b":2,"\u0061":1}}"#, "/values/a: occurs twice"),
            (r#"{"values":{"a":1},"values":{"a":1}}"#, "/values: occurs twice"),
            (r#"{"values":{"a":1},"valeus":1}"#, "/valeus: unknown field"),
            (r#"{"ts":null,"values":{"a":1}}"#, "/ts: invalid type: null"),
            (r#"{"ts":1.5,"values":{"a":1}}"#, "/ts: not a whole number"),
            (r#"{"ts":18446744073709551615,"values":{"a":1}}"#, "/ts: no such time"),
            (r#"{"ts":"2026-13-01T00:00:00Z","values":{"a":1}}"#, "/ts: not an RFC 3339 time"),
            (r#"{"id":"","values":{"a":1}}"#, "/id: must have 1 to 128"),
            (r#"{"id":7,"values":{"a":1}}"#, "/id: invalid type: integer"),
        ];
        for (text, expected) in table {
            let fault = parse(text).unwrap_err();
            assert!(fault.contains(expected), "{text}: {fault}");
            assert!(!fault.contains(" line "), "{fault}");
        }
    }

    #[test]
    fn limits_hold_at_their_edges() {
        let metrics = |n: usize| (0..n).map(|i| format!("\"m{i}\":{i}")).collect::<Vec<_>>().join(",");
        let table = [
            (format!("{{\"values\":{{{}}}}}", metrics(64)), true),
            (format!("{{\"values\":{{{}}}}}", metrics(65)), false),
            (format!("{{\"values\":{{\"{}\":1}}}}", "é".repeat(64)), true),
            (format!("{{\"values\":{{\"{}\":1}}}}", "é".repeat(65)), false),
            (format!("{{\"values\":{{\"a\":\"{}\"}}}}", "x".repeat(1024)), true),
            (format!("{{\"values\":{{\"a\":\"{}\"}}}}", "x".repeat(1025)), false),
            (format!("{{\"id\":\"{}\",\"values\":{{\"a\":1}}}}", "x".repeat(128)), true),
            (format!("{{\"id\":\"{}\",\"values\":{{\"a\":1}}}}", "x".repeat(129)), false),
        ];
        for (text, accepted) in table {
            assert_eq!(parse(&text).is_ok(), accepted, "{text}");
        }
    }
}
