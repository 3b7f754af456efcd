//! A reading and its identity.
//!
//! Two readings are the same when device, `ts` and *digest* agree. The digest is the first 64 bits of a SHA-256 over
//! the device's own `id` for the reading or, without one, over its content; the two have domains of their own, so no
//! `id` can be made to meet a content. *Content* is canonical: names sorted, numbers by value (1, 1.0 and 10e-1 are
//! one number, -0 is 0), so neither the order of keys nor white space nor escapes make a second reading of one.
//!
//! The encodings are versioned and golden-tested: a change of them would store every retried reading twice.
//! Deliberately absent: the metrics' meaning. Units and types belong to whoever reads them.

use std::fmt::Write;

use aws_lc_rs::digest::{SHA256, digest};

use super::ids::DeviceId;

const ID_DOMAIN: &[u8] = b"everbeat/reading/id/v1\0";
const CONTENT_DOMAIN: &[u8] = b"everbeat/reading/content/v1\0";

/// A measured value: number, boolean or text. Equal numbers are equal values, however they were written.
#[derive(Clone, Debug, PartialEq)]
pub struct Value(Kind);

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    Bool(bool),
    /// Every integer from -2^63 to 2^64 - 1, whether it was written with a fraction or without.
    Integer(i128),
    /// Finite, and no integer of that range.
    Float(f64),
    Text(Box<str>),
}

/// The integer of 64 bits, signed or not, that this number is.
#[expect(clippy::cast_possible_truncation, reason = "the range is checked, and the fraction is zero")]
pub fn integer_of(number: f64) -> Option<i128> {
    const LOWEST: f64 = -9_223_372_036_854_775_808.0;
    const ABOVE: f64 = 18_446_744_073_709_551_616.0;
    (number.fract() == 0.0 && (LOWEST..ABOVE).contains(&number)).then_some(number as i128)
}

impl Value {
    /// The number; `None` if it is infinite or not a number.
    pub fn float(number: f64) -> Option<Self> {
        match integer_of(number) {
            Some(integer) => Some(Self(Kind::Integer(integer))),
            None => number.is_finite().then_some(Self(Kind::Float(number))),
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match &self.0 {
            Kind::Bool(yes) => out.extend([b'b', u8::from(*yes)]),
            Kind::Integer(number) => {
                out.push(b'i');
                out.extend(number.to_be_bytes());
            }
            Kind::Float(number) => {
                out.push(b'f');
                out.extend(number.to_bits().to_be_bytes());
            }
            Kind::Text(text) => {
                out.push(b's');
                encode_text(text, out);
            }
        }
    }

    fn write_json(&self, out: &mut String) {
        // Writing into a String does not fail.
        let _ = match &self.0 {
            Kind::Bool(yes) => write!(out, "{yes}"),
            Kind::Integer(number) => write!(out, "{number}"),
            // Debug: the shortest text that reads back as the same number, with an exponent where it is long.
            Kind::Float(number) => write!(out, "{number:?}"),
            Kind::Text(text) => {
                write_json_text(text, out);
                Ok(())
            }
        };
    }
}

impl From<bool> for Value {
    fn from(yes: bool) -> Self {
        Self(Kind::Bool(yes))
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self(Kind::Integer(number.into()))
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self(Kind::Integer(number.into()))
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self(Kind::Text(text.into()))
    }
}

/// The metrics of one reading, sorted by name, each name once.
#[derive(Clone, Debug, PartialEq)]
pub struct Values(Vec<(Box<str>, Value)>);

impl Values {
    /// # Errors
    /// A name that occurs twice.
    pub fn new(mut metrics: Vec<(Box<str>, Value)>) -> Result<Self, Box<str>> {
        metrics.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        match metrics.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            Some(pair) => Err(pair[0].0.clone()),
            None => Ok(Self(metrics)),
        }
    }

    /// The digest of the canonical content.
    pub fn content(&self) -> i64 {
        let mut bytes = Vec::with_capacity(CONTENT_DOMAIN.len() + 32 * self.0.len());
        bytes.extend(CONTENT_DOMAIN);
        for (name, value) in &self.0 {
            encode_text(name, &mut bytes);
            value.encode(&mut bytes);
        }
        truncated(&bytes)
    }

    /// JSON in canonical form: integers exact, other numbers in their shortest form.
    pub fn to_json(&self) -> String {
        let mut out = String::with_capacity(2 + 24 * self.0.len());
        out.push('{');
        for (position, (name, value)) in self.0.iter().enumerate() {
            if position > 0 {
                out.push(',');
            }
            write_json_text(name, &mut out);
            out.push(':');
            value.write_json(&mut out);
        }
        out.push('}');
        out
    }
}

/// A row of readings. `(device, ts_us, digest)` is its key; the order is the key's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    pub device: DeviceId,
    /// Microseconds since 1970.
    pub ts_us: i64,
    pub digest: i64,
    /// The digest of the values: tells a duplicate from a conflict.
    pub content: i64,
    /// JSON.
    pub values: Box<str>,
}

impl Reading {
    /// `id`: the device's own name for this reading.
    pub fn new(device: DeviceId, ts_us: i64, id: Option<&str>, values: &Values) -> Self {
        let content = values.content();
        let digest = id.map_or(content, id_digest);
        Self { device, ts_us, digest, content, values: values.to_json().into() }
    }

    pub fn key(&self) -> (DeviceId, i64, i64) {
        (self.device, self.ts_us, self.digest)
    }
}

fn id_digest(id: &str) -> i64 {
    truncated(&[ID_DOMAIN, id.as_bytes()].concat())
}

fn truncated(bytes: &[u8]) -> i64 {
    let hash = digest(&SHA256, bytes);
    hash.as_ref().iter().take(8).fold(0, |sum, byte| sum << 8 | i64::from(*byte))
}

/// Length first, so that no two lists of texts run into each other.
fn encode_text(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u64).to_be_bytes());
    out.extend(text.as_bytes());
}

fn write_json_text(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c < ' ' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn values(metrics: &[(&str, Value)]) -> Values {
        Values::new(metrics.iter().map(|(name, value)| ((*name).into(), value.clone())).collect()).unwrap()
    }

    fn number(number: f64) -> Value {
        Value::float(number).unwrap()
    }

    #[test]
    fn golden_digests() {
        let device = DeviceId(uuid::Uuid::from_u128(1));
        let all = values(&[
            ("t", number(21.5)),
            ("n", Value::from(-3_i64)),
            ("big", Value::from(u64::MAX)),
            ("on", Value::from(true)),
            ("s", Value::from("a\"ü")),
        ]);
        assert_eq!(all.to_json(), r#"{"big":18446744073709551615,"n":-3,"on":true,"s":"a\"ü","t":21.5}"#);
        let by_content = Reading::new(device, 7, None, &all);
        assert_eq!((by_content.digest, by_content.content), (GOLDEN_CONTENT, GOLDEN_CONTENT));
        let by_id = Reading::new(device, 7, Some("r-1"), &all);
        assert_eq!((by_id.digest, by_id.content), (GOLDEN_ID, GOLDEN_CONTENT));
        assert_eq!(values(&[]).content(), GOLDEN_EMPTY);
    }

    // Computed independently, with Python's hashlib.
    const GOLDEN_CONTENT: i64 = -5_924_045_651_580_160_554;
    const GOLDEN_ID: i64 = -3_976_481_842_052_039_907;
    const GOLDEN_EMPTY: i64 = 3_823_283_895_831_877_823;

    #[test]
    fn numbers_are_what_they_are_worth() {
        let pairs = [
            (number(1.0), Value::from(1_u64)),
            (number(-0.0), Value::from(0_i64)),
            (number(1e19), Value::from(10_000_000_000_000_000_000_u64)),
            (number(-9_223_372_036_854_775_808.0), Value::from(i64::MIN)),
            (Value::from(5_i64), Value::from(5_u64)),
        ];
        for (one, other) in pairs {
            assert_eq!(values(&[("a", one.clone())]).content(), values(&[("a", other.clone())]).content(), "{one:?}");
        }
        assert_ne!(values(&[("a", number(0.5))]).content(), values(&[("a", number(0.25))]).content());
        assert_ne!(values(&[("a", Value::from(1_i64))]).content(), values(&[("a", Value::from(true))]).content());
        assert_ne!(values(&[("a", Value::from(1_i64))]).content(), values(&[("a", Value::from("1"))]).content());
        assert_eq!(number(1e300).0, Kind::Float(1e300));
        assert_eq!(Value::float(f64::NAN), None);
        assert_eq!(Value::float(f64::INFINITY), None);
    }

    #[test]
    fn a_name_occurs_once_and_lists_do_not_run_together() {
        let twice = vec![("a".into(), Value::from(true)), ("b".into(), number(1.5)), ("a".into(), Value::from(true))];
        assert_eq!(Values::new(twice), Err("a".into()));
        let one = values(&[("a", Value::from("bs")), ("c", Value::from("d"))]);
        let other = values(&[("a", Value::from("b")), ("sc", Value::from("d"))]);
        assert_ne!(one.content(), other.content());
    }

    proptest! {
        #[test]
        fn the_json_says_what_the_value_was(name in "\\PC{1,8}", number in any::<f64>(), text in any::<String>()) {
            prop_assume!(number.is_finite());
            let metrics = vec![(name.as_str().into(), Value::float(number).unwrap())];
            let json: serde_json::Value = serde_json::from_str(&Values::new(metrics).unwrap().to_json()).unwrap();
            prop_assert!((json[&name].as_f64().unwrap() - number).abs() == 0.0);
            let metrics = vec![(name.as_str().into(), Value::from(text.as_str()))];
            let json: serde_json::Value = serde_json::from_str(&Values::new(metrics).unwrap().to_json()).unwrap();
            prop_assert_eq!(json[&name].as_str().unwrap(), text);
        }
    }
}
