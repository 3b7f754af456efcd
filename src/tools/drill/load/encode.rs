//! One batch, many bodies: every retry is written differently and means the same. A service that told readings apart
//! by their bytes would store them twice.

use std::fmt::Write as _;
use std::io::Write as _;

use bytes::Bytes;

use super::reading::{Metric, Reading};
use crate::client::exchange::Call;
use crate::domain::random::Random;
use crate::domain::time::{from_unix_us, rfc3339};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Container {
    /// Of a single reading only.
    Object,
    Array,
    Ndjson,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Coding {
    Identity,
    Gzip,
    /// Two gzip members, one after the other.
    GzipTwice,
    Zstd,
}

/// How the body as a whole is written. Order, numbers, times and escapes are drawn for each reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Form {
    pub container: Container,
    pub coding: Coding,
}

impl Form {
    pub fn draw(count: usize, random: &Random) -> Self {
        let containers = [Container::Array, Container::Ndjson, Container::Object];
        let codings = [Coding::Identity, Coding::Gzip, Coding::GzipTwice, Coding::Zstd];
        let possible = if count == 1 { 3 } else { 2 };
        Self { container: containers[random.below(possible)], coding: codings[random.below(codings.len())] }
    }

    fn content_type(self) -> &'static str {
        if self.container == Container::Ndjson { "application/x-ndjson" } else { "application/json" }
    }

    fn content_encoding(self) -> Option<&'static str> {
        match self.coding {
            Coding::Identity => None,
            Coding::Gzip | Coding::GzipTwice => Some("gzip"),
            Coding::Zstd => Some("zstd"),
        }
    }
}

/// The request that sends the readings, in this form.
pub(super) fn call(readings: &[Reading], form: Form, random: &Random) -> Result<Call, std::io::Error> {
    Ok(Call {
        content_type: Some(form.content_type()),
        content_encoding: form.content_encoding(),
        ..Call::post("/v1/readings", pack(text(readings, form.container, random).as_bytes(), form.coding)?)
    })
}

fn text(readings: &[Reading], container: Container, random: &Random) -> String {
    let items: Vec<String> = readings.iter().map(|reading| item(reading, random)).collect();
    match container {
        Container::Object => items.concat(),
        Container::Array => format!("[{}]", items.join(if random.chance(0.5) { "," } else { " ,\n" })),
        Container::Ndjson => items.iter().fold(String::new(), |all, item| all + item + "\n"),
    }
}

fn item(reading: &Reading, random: &Random) -> String {
    let values = reading.metrics.iter().map(|(name, metric)| (quoted(name, random), value(metric, random)));
    let members = vec![
        (quoted("ts", random), time(reading.ts_us, random)),
        (quoted("id", random), format!("\"{}\"", reading.id)),
        (quoted("values", random), object(values.collect(), random)),
    ];
    object(members, random)
}

/// The members in any order, with and without spaces; never a line break, which would end a line of NDJSON.
fn object(mut members: Vec<(String, String)>, random: &Random) -> String {
    let mut out = String::from("{");
    while !members.is_empty() {
        let (name, value) = members.swap_remove(random.below(members.len()));
        let space = if random.chance(0.3) { " " } else { "" };
        let end = if members.is_empty() { "" } else { "," };
        let _ = write!(out, "{space}{name}{space}:{space}{value}{end}");
    }
    out.push('}');
    out
}

fn value(metric: &Metric, random: &Random) -> String {
    match metric {
        // "000E-2" is no JSON.
        Metric::Whole(0) | Metric::Thousandths(0) => ["0", "0.0", "-0.0", "0e7"][random.below(4)].to_owned(),
        Metric::Whole(number) => match random.below(4) {
            0 => format!("{number}"),
            1 => format!("{number}.0"),
            2 => format!("{number}e0"),
            _ => format!("{number}00E-2"),
        },
        Metric::Thousandths(digits) => thousandths(*digits, random.below(4)),
        Metric::Flag(yes) => yes.to_string(),
        Metric::Text(text) => quoted(text, random),
    }
}

/// `digits` × 10^-3, in one of four spellings; `digits` is not 0.
fn thousandths(digits: i64, spelling: usize) -> String {
    let sign = if digits < 0 { "-" } else { "" };
    let (whole, rest) = (digits.unsigned_abs() / 1_000, digits.unsigned_abs() % 1_000);
    match spelling {
        0 => format!("{sign}{whole}.{rest:03}"),
        1 => format!("{sign}{whole}.{rest:03}000"),
        2 => format!("{digits}e-3"),
        _ => format!("{digits}0E-04"),
    }
}

fn time(ts_us: i64, random: &Random) -> String {
    let Some(at) = from_unix_us(ts_us) else { return ts_us.div_euclid(1_000).to_string() };
    let elsewhere = from_unix_us(ts_us + 7_200_000_000).map(rfc3339);
    match (random.below(3), elsewhere) {
        (0, _) if ts_us.rem_euclid(1_000) == 0 => (ts_us / 1_000).to_string(),
        (1, Some(elsewhere)) => format!("\"{}+02:00\"", elsewhere.trim_end_matches('Z')),
        _ => format!("\"{}\"", rfc3339(at)),
    }
}

/// A JSON string: as plain as may be, or with every character escaped.
fn quoted(text: &str, random: &Random) -> String {
    if random.chance(0.9) {
        return serde_json::Value::from(text).to_string();
    }
    let mut out = String::from("\"");
    for unit in text.encode_utf16() {
        let _ = write!(out, "\\u{unit:04x}");
    }
    out.push('"');
    out
}

fn pack(plain: &[u8], coding: Coding) -> Result<Bytes, std::io::Error> {
    let gzip = |part: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(part)?;
        encoder.finish()
    };
    Ok(match coding {
        Coding::Identity => plain.to_vec(),
        Coding::Gzip => gzip(plain)?,
        Coding::GzipTwice => {
            let (first, second) = plain.split_at(plain.len() / 2);
            [gzip(first)?, gzip(second)?].concat()
        }
        Coding::Zstd => zstd::encode_all(plain, 1)?,
    }
    .into())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::time::Duration;

    use super::*;
    use crate::domain::ids::DeviceId;
    use crate::domain::time::Clock;
    use crate::ingest::{Encoding, Format, Limits, decode, decompress};

    const NOW: i64 = 1_795_428_000_123_456;

    /// What the service makes of the body: its own decoder, under its own limits.
    fn stored(call: &Call) -> Vec<crate::domain::reading::Reading> {
        let limits = Limits {
            body_max_bytes: 1 << 20,
            items_max: 100,
            retention: Duration::from_hours(1),
            future_max: Duration::from_mins(1),
        };
        let body = match call.content_encoding {
            None => call.body.clone(),
            Some("gzip") => decompress(Encoding::Gzip, call.body.clone(), limits.body_max_bytes).unwrap(),
            Some(_) => decompress(Encoding::Zstd, call.body.clone(), limits.body_max_bytes).unwrap(),
        };
        let format = if call.content_type == Some("application/json") { Format::Json } else { Format::Ndjson };
        let batch = decode(format, &body, DeviceId(uuid::Uuid::nil()), &limits, NOW).unwrap();
        assert_eq!(batch.rejected(), [], "{}", String::from_utf8_lossy(&body));
        batch.into_items().into_iter().map(|item| item.reading).collect()
    }

    #[test]
    fn every_form_means_the_same_readings() {
        let (clock, random) = (Clock::manual(NOW), Random::seeded(11));
        let (mut forms, mut bodies) = (HashSet::new(), HashSet::new());
        for count in [1, 2, 7] {
            let readings: Vec<_> = (1..=count).map(|n| Reading::measure(n, &clock, &random)).collect();
            let plain = Form { container: Container::Array, coding: Coding::Identity };
            let expected = stored(&call(&readings, plain, &random).unwrap());
            assert_eq!(expected.len() as u64, count);
            for (row, reading) in expected.iter().zip(&readings) {
                assert_eq!(row.ts_us, reading.ts_us);
                let values: serde_json::Value = serde_json::from_str(&row.values).unwrap();
                assert_eq!(values["n"], reading.n, "the number that the checker looks for");
            }
            for _ in 0..200 {
                let form = Form::draw(readings.len(), &random);
                let call = call(&readings, form, &random).unwrap();
                // Equal in key, content digest and canonical values: nothing of the spelling is left.
                assert_eq!(stored(&call), expected, "{form:?}");
                forms.insert(form);
                bodies.insert(call.body);
            }
        }
        assert_eq!(forms.len(), 12, "three containers, four codings");
        assert!(bodies.len() > 580, "hardly two bodies are the same: {}", bodies.len());
    }

    #[test]
    fn spellings_of_a_number() {
        let random = Random::seeded(2);
        for zero in [Metric::Whole(0), Metric::Thousandths(0)] {
            let zeros = (0..50).map(|_| serde_json::from_str::<f64>(&value(&zero, &random)).unwrap());
            assert!(zeros.into_iter().all(|number| number == 0.0));
        }
        for digits in [7, -7, 21_500, -20_001, 999] {
            let numbers: Vec<f64> = (0..4).map(|s| serde_json::from_str(&thousandths(digits, s)).unwrap()).collect();
            assert!(numbers.iter().all(|number| number.total_cmp(&numbers[0]).is_eq()), "{digits}: {numbers:?}");
        }
    }
}
