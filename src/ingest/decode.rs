//! A body becomes a [`ReadingBatch`]: readings that the database will take, and the reasons why the rest is not
//! among them. Two faults, two reaches: what breaks the body as a whole is a [`DecodeError`]; what is wrong within an
//! item (an NDJSON line is one) is that item's, and its neighbours go on.

use std::time::Duration;

use uuid::{Uuid, Variant};

use super::item::{self, Item};
use super::scan::{self, Broken};
use super::senml;
use super::settings::Limits;
use crate::domain::ids::DeviceId;
use crate::domain::reading::Reading;
use crate::domain::time::{from_unix_us, rfc3339};
use crate::observe;
use crate::observe::ingest::Outcome;
use crate::wire::device::RejectedItem;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `application/json`: an object or an array of them.
    Json,
    /// `application/x-ndjson`: an object a line.
    Ndjson,
    /// `application/senml+json` (RFC 8428, 5).
    SenmlJson,
    /// `application/senml+cbor` (RFC 8428, 6).
    SenmlCbor,
}

/// Whose body it is.
#[derive(Clone, Copy, Debug)]
pub struct Sender<'a> {
    pub id: DeviceId,
    /// Its name in its fleet, which SenML's names may begin with. Empty: none.
    pub name: &'a str,
}

impl From<DeviceId> for Sender<'_> {
    fn from(id: DeviceId) -> Self {
        Self { id, name: "" }
    }
}

/// The body as a whole is not acceptable. `Display` may be shown to the sender.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("the body is not UTF-8")]
    NotUtf8,
    #[error("the body begins with a byte order mark; send JSON without it")]
    ByteOrderMark,
    #[error("the body is not JSON: fault at byte {at}")]
    Syntax { at: usize },
    #[error("more than 32 brackets are open at byte {at}")]
    TooDeep { at: usize },
    #[error("the body is neither an object nor an array")]
    NotReadings,
    /// 413.
    #[error("more than {items_max} items; send them in several requests")]
    TooManyItems { items_max: usize },
    /// 413. Counted after decompression.
    #[error("more than {bytes_max} bytes after decompression; send them in several requests")]
    TooLarge { bytes_max: usize },
    #[error("the compressed body is broken, cut short, or followed by other bytes")]
    Compression,
    #[error("a SenML pack is an array of records")]
    NotAPack,
    #[error("the body is not CBOR: fault at byte {at}")]
    Cbor { at: usize },
    #[error("more than 32 arrays, maps and tags are open at byte {at} of the body")]
    CborTooDeep { at: usize },
    #[error("bver must be a whole number from 1 to 10, the version of RFC 8428; nothing of the pack was stored")]
    SenmlVersion,
    #[error("bver must be the same for all records of a pack (RFC 8428, 4.4); nothing of it was stored")]
    SenmlVersions,
    #[error(
        "the field {label} must be understood (its label ends in _; RFC 8428, 4.4) and is not: nothing of the body \
         was stored; send the pack without it"
    )]
    SenmlExtension { label: Box<str> },
}

/// A valid reading and its place in the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchItem {
    pub index: usize,
    pub reading: Reading,
}

/// The readings of one request, valid by construction, and its rejected items.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadingBatch {
    pub(super) device: DeviceId,
    pub(super) items: Vec<BatchItem>,
    pub(super) rejected: Vec<RejectedItem>,
}

impl ReadingBatch {
    /// Without any check: for tests of what the database refuses.
    #[doc(hidden)]
    pub fn unchecked(device: DeviceId, readings: Vec<Reading>) -> Self {
        let items = readings.into_iter().enumerate().map(|(index, reading)| BatchItem { index, reading }).collect();
        Self { device, items, rejected: Vec::new() }
    }

    pub(super) fn empty(device: DeviceId) -> Self {
        Self { device, items: Vec::new(), rejected: Vec::new() }
    }

    pub fn device(&self) -> DeviceId {
        self.device
    }

    /// Readings to store.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Nothing to store; there may be rejected items all the same.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub fn rejected(&self) -> &[RejectedItem] {
        &self.rejected
    }

    pub fn into_items(self) -> Vec<BatchItem> {
        self.items
    }
}

/// Decodes a body (decompressed already) at `now_us`, which is also the time of readings that bring none.
pub fn decode<'s>(
    format: Format,
    body: &[u8],
    sender: impl Into<Sender<'s>>,
    limits: &Limits,
    now_us: i64,
) -> Result<ReadingBatch, DecodeError> {
    if body.len() > limits.body_max_bytes {
        return Err(DecodeError::TooLarge { bytes_max: limits.body_max_bytes });
    }
    let (sender, window) = (sender.into(), Window::around(now_us, limits));
    let batch = match format {
        Format::Json | Format::Ndjson => plain(format, text(body)?, sender.id, limits, &window)?,
        Format::SenmlJson => senml::json(text(body)?, sender, limits, &window)?,
        Format::SenmlCbor => senml::cbor(body, sender, limits, &window)?,
    };
    let conflicts = batch.rejected.iter().filter(|item| item.kind == CONFLICT).count();
    observe::ingest::readings(Outcome::RejectedConflict, conflicts as u64);
    observe::ingest::readings(Outcome::RejectedInvalid, (batch.rejected.len() - conflicts) as u64);
    Ok(batch)
}

/// JSON is UTF-8 without a mark (RFC 8259, 8.1).
fn text(body: &[u8]) -> Result<&str, DecodeError> {
    let text = std::str::from_utf8(body).map_err(|_| DecodeError::NotUtf8)?;
    if text.starts_with('\u{feff}') { Err(DecodeError::ByteOrderMark) } else { Ok(text) }
}

fn plain(
    format: Format,
    text: &str,
    device: DeviceId,
    limits: &Limits,
    window: &Window,
) -> Result<ReadingBatch, DecodeError> {
    let items = match format {
        Format::Ndjson => lines(text, limits.items_max)?,
        _ => scan::items(text, limits.items_max).map_err(|fault| whole(fault, limits))?,
    };
    let mut batch = ReadingBatch::empty(device);
    batch.items.reserve(items.len());
    for (index, text) in items.into_iter().enumerate() {
        // An array's items are JSON; that of a line is still to be shown.
        let line = if format == Format::Ndjson { scan::single(text).map_err(broken_line) } else { Ok(()) };
        match line.and_then(|()| item::parse(text)).and_then(|item| reading(device, &item, window)) {
            Ok(reading) => batch.items.push(BatchItem { index, reading }),
            Err(detail) => batch.rejected.push(rejection(index, INVALID, detail)),
        }
    }
    Ok(batch)
}

/// What is wrong with the item itself.
pub(super) const INVALID: &str = "invalid";
/// It says what another item says, in another way.
pub(super) const CONFLICT: &str = "conflict";

pub(super) fn rejection(index: usize, kind: &str, detail: String) -> RejectedItem {
    RejectedItem { index: index as u64, kind: kind.to_owned(), detail }
}

pub(super) fn whole(fault: Broken, limits: &Limits) -> DecodeError {
    match fault {
        Broken::Syntax { at } => DecodeError::Syntax { at },
        Broken::TooDeep { at } => DecodeError::TooDeep { at },
        Broken::Scalar => DecodeError::NotReadings,
        Broken::TooMany => DecodeError::TooManyItems { items_max: limits.items_max },
    }
}

fn broken_line(fault: Broken) -> String {
    match fault {
        Broken::TooDeep { .. } => "more than 32 brackets are open".to_owned(),
        Broken::Syntax { at } => format!("the line is not JSON: fault at its byte {at}"),
        Broken::Scalar | Broken::TooMany => "the line is not an object".to_owned(),
    }
}

/// The lines that are not blank.
fn lines(text: &str, items_max: usize) -> Result<Vec<&str>, DecodeError> {
    let mut lines = Vec::new();
    for line in text.split('\n').filter(|line| !line.trim_ascii().is_empty()) {
        if lines.len() == items_max {
            return Err(DecodeError::TooManyItems { items_max });
        }
        lines.push(line);
    }
    Ok(lines)
}

fn reading(device: DeviceId, item: &Item, window: &Window) -> Result<Reading, String> {
    let from_id = || item.id.as_deref().and_then(time_of_uuid);
    let ts_us = item.ts_us.or_else(from_id).unwrap_or(window.now);
    window
        .admit(ts_us)
        .map_err(|sentence| format!("{}: {sentence}", if item.ts_us.is_some() { "/ts" } else { "/id" }))?;
    Ok(Reading::new(device, ts_us, item.id.as_deref(), &item.values))
}

/// The time in a UUIDv7 (RFC 9562, 5.7) in canonical form, in microseconds since 1970.
fn time_of_uuid(id: &str) -> Option<i64> {
    let uuid = (id.len() == uuid::fmt::Hyphenated::LENGTH).then(|| Uuid::try_parse(id).ok()).flatten()?;
    let (version, variant) = (uuid.get_version_num(), uuid.get_variant());
    let milliseconds = i64::try_from(uuid.as_u128() >> 80).ok()?;
    (version == 7 && variant == Variant::RFC4122).then_some(milliseconds * 1_000)
}

/// The times that readings may have: strictly between two points. Microseconds since 1970.
pub(super) struct Window {
    after: i64,
    before: i64,
    pub now: i64,
}

impl Window {
    pub fn around(now_us: i64, limits: &Limits) -> Self {
        let micros = |span: Duration| i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
        Self {
            after: now_us.saturating_sub(micros(limits.retention)),
            before: now_us.saturating_add(micros(limits.future_max)),
            now: now_us,
        }
    }

    pub fn admit(&self, ts_us: i64) -> Result<(), String> {
        if ts_us > self.after && ts_us < self.before && from_unix_us(ts_us).is_some() {
            return Ok(());
        }
        let text = |micros| from_unix_us(micros).map_or_else(|| "the end of time".to_owned(), rfc3339);
        Err(format!("the time must lie between {} and {}", text(self.after), text(self.before)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: i64 = 1_795_428_000_000_000;

    fn limits() -> Limits {
        Limits {
            body_max_bytes: 1 << 20,
            items_max: 5,
            retention: Duration::from_hours(1),
            future_max: Duration::from_mins(1),
        }
    }

    fn run(format: Format, body: impl AsRef<[u8]>) -> Result<ReadingBatch, DecodeError> {
        decode(format, body.as_ref(), DeviceId(Uuid::from_u128(7)), &limits(), NOW)
    }

    fn one(item: &str) -> Reading {
        let batch = run(Format::Json, item).unwrap();
        assert_eq!(batch.rejected, []);
        batch.items.into_iter().next().unwrap().reading
    }

    #[test]
    fn bodies_that_are_broken_as_a_whole() {
        let table: &[(&[u8], DecodeError)] = &[
            (b"", DecodeError::Syntax { at: 0 }),
            (b"{", DecodeError::Syntax { at: 1 }),
            (b"[{\"values\":{\"a\":1}},{broken}]", DecodeError::Syntax { at: 21 }),
            (b"[{\"values\":{\"a\":1}},]", DecodeError::Syntax { at: 20 }),
            (b"{\"values\":{\"a\":1}}{}", DecodeError::Syntax { at: 18 }),
            (b"{\"values\":{\"a\":NaN}}", DecodeError::Syntax { at: 15 }),
            (b"{\"values\":{\"a\":\"\0\"}}", DecodeError::Syntax { at: 16 }),
            (b"3", DecodeError::NotReadings),
            (b"\xef\xbb\xbf{}", DecodeError::ByteOrderMark),
            (b"\xff", DecodeError::NotUtf8),
            (b"[1,1,1,1,1,1]", DecodeError::TooManyItems { items_max: 5 }),
        ];
        for (body, expected) in table {
            assert_eq!(run(Format::Json, body), Err(expected.clone()), "{}", String::from_utf8_lossy(body));
        }
        assert_eq!(run(Format::Json, "[".repeat(1 << 20)), Err(DecodeError::TooDeep { at: 32 }));
        assert_eq!(run(Format::Json, "[".repeat(2 << 20)), Err(DecodeError::TooLarge { bytes_max: 1 << 20 }));
        assert_eq!(run(Format::Ndjson, "1\n".repeat(6)), Err(DecodeError::TooManyItems { items_max: 5 }));
    }

    #[test]
    fn the_faults_of_an_item_are_its_own() {
        let body = r#"[{"values":{"a":1}}, 3, {"values":{"a":1e999}}, {"values":{"b":"x"}}]"#;
        let batch = run(Format::Json, body).unwrap();
        assert_eq!(batch.items.iter().map(|item| item.index).collect::<Vec<_>>(), [0, 3]);
        assert_eq!(batch.rejected.iter().map(|item| item.index).collect::<Vec<_>>(), [1, 2]);
        assert!(batch.rejected.iter().all(|item| item.kind == "invalid" && !item.detail.is_empty()));
        assert!(run(Format::Json, "[]").unwrap().is_empty());
    }

    #[test]
    fn lines() {
        let body = "{\"values\":{\"a\":1}}\r\n\n  \n{broken\n{\"values\":{\"a\":2}}";
        let batch = run(Format::Ndjson, body).unwrap();
        assert_eq!(batch.items.iter().map(|item| item.index).collect::<Vec<_>>(), [0, 2]);
        assert_eq!(batch.rejected.len(), 1);
        assert_eq!(batch.rejected[0].index, 1);
        assert_eq!(run(Format::Ndjson, format!("{body}\n")).unwrap(), batch);
        assert!(run(Format::Ndjson, "").unwrap().is_empty());
        let deep = run(Format::Ndjson, format!("{}\n{{\"values\":{{\"a\":2}}}}", "[".repeat(1_000_000))).unwrap();
        assert_eq!((deep.len(), deep.rejected.len()), (1, 1));
    }

    #[test]
    fn where_the_time_comes_from() {
        let stamped = Uuid::from_u128((u128::from(1_795_427_999_123_u64) << 80) | (7 << 76) | (2 << 62) | 5);
        assert_eq!(one(r#"{"values":{"a":1}}"#).ts_us, NOW);
        assert_eq!(one(&format!(r#"{{"id":"{stamped}","values":{{"a":1}}}}"#)).ts_us, 1_795_427_999_123_000);
        assert_eq!(one(&format!(r#"{{"ts":1795428000001,"id":"{stamped}","values":{{"a":1}}}}"#)).ts_us, NOW + 1_000);
        assert_eq!(one(&format!(r#"{{"id":"{}","values":{{"a":1}}}}"#, stamped.simple())).ts_us, NOW);
        let version_4 = "0192f6d0-7b7a-4c3e-9d5e-0123456789ab";
        assert_eq!(one(&format!(r#"{{"id":"{version_4}","values":{{"a":1}}}}"#)).ts_us, NOW);
    }

    #[test]
    fn the_window_is_open_at_both_ends() {
        let at = |ts_us: i64| {
            let ts = from_unix_us(ts_us).map(rfc3339).unwrap();
            run(Format::Json, format!(r#"{{"ts":"{ts}","values":{{"a":1}}}}"#)).unwrap()
        };
        let (first, last) = (NOW - 3_600_000_000 + 1, NOW + 60_000_000 - 1);
        assert_eq!((at(first).len(), at(last).len()), (1, 1));
        assert_eq!((at(first - 1).len(), at(last + 1).len()), (0, 0));
        let detail = &at(last + 1).rejected[0].detail;
        assert_eq!(
            detail,
            "/ts: the time must lie between 2026-11-23T09:00:00.000000Z and 2026-11-23T10:01:00.000000Z"
        );
        let far = run(Format::Json, r#"{"ts":9223372036854775,"values":{"a":1}}"#).unwrap();
        assert_eq!(far.rejected.len(), 1);
    }

    #[test]
    fn one_content_in_many_spellings_is_one_reading() {
        let same = [
            r#"{"ts":1795428000000,"values":{"a":1,"b":"ü/"}}"#,
            r#"{ "values" : {"b":"\u00fc\/", "a":1.0}, "ts":"2026-11-23T11:00:00+01:00" }"#,
            r#"{"ts":1795428000000,"values":{"\u0062":"ü/","a":10e-1}}"#,
        ];
        assert!(same.iter().all(|item| one(item) == one(same[0])));
        let others = [
            r#"{"ts":1795428000000,"values":{"a":2,"b":"ü/"}}"#,
            r#"{"ts":1795428000000,"values":{"a":"1","b":"ü/"}}"#,
            r#"{"ts":1795428000000,"id":"a","values":{"a":1,"b":"ü/"}}"#,
        ];
        assert!(others.iter().all(|item| one(item).digest != one(same[0]).digest));
    }

    proptest! {
        #[test]
        fn any_bytes_get_an_answer(body in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = run(Format::Json, &body);
            let _ = run(Format::Ndjson, &body);
        }

        #[test]
        fn nearly_json_gets_an_answer(body in "(\\[|\\{|\\}|\\]|\"values\":|\"ts\":|\"id\":|\"a\"|,|:|1|-1e9|null){0,40}") {
            let _ = run(Format::Json, &body);
            if let Ok(batch) = run(Format::Ndjson, &body) {
                prop_assert!(batch.len() + batch.rejected.len() <= 1);
            }
        }

        #[test]
        fn stored_values_sent_again_are_the_same_reading(
            metrics in proptest::collection::btree_map("[a-z\"\\\\é]{1,6}", any::<f64>().prop_filter("finite", |n| n.is_finite()), 1..8),
        ) {
            let sent = serde_json::to_string(&serde_json::json!({ "values": metrics })).unwrap();
            let first = one(&sent);
            let second = one(&format!("{{\"values\":{}}}", first.values));
            prop_assert_eq!(first, second);
        }
    }
}
