//! A record in JSON (RFC 8428, 5). Its text is JSON of bounded depth already ([`scan`]), so each field is read where
//! it stands: what is wrong with one leaves the others readable, a base field above all.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::number::Number;
use super::record::{Label, Record, Scalar};
use crate::ingest::decode::DecodeError;
use crate::ingest::item::TEXT_MAX_CHARS;
use crate::ingest::scan;

pub(super) fn record(text: &str) -> Result<Record<'_>, DecodeError> {
    let Some(members) = scan::members(text) else {
        return Ok(Record::unfit("a record is an object"));
    };
    let mut record = Record::default();
    for (key, value) in members {
        match unquoted(key) {
            Ok(key) => {
                if let Some(label) = Label::of_text(&key)? {
                    record.set(label, scalar(label, value))?;
                }
            }
            Err(what) => {
                record.fault.get_or_insert_with(|| format!("a label is {what}"));
            }
        }
    }
    Ok(record)
}

fn scalar(label: Label, text: &str) -> Scalar<'_> {
    match text.as_bytes().first() {
        Some(b'"') => match unquoted(text) {
            Ok(text) if label == Label::DataValue => data(&text),
            Ok(text) => Scalar::Text(text),
            Err(what) => Scalar::Unfit(what),
        },
        Some(b't') => Scalar::Bool(true),
        Some(b'f') => Scalar::Bool(false),
        Some(b'n') => Scalar::Unfit("must not be null; leave the field out"),
        Some(b'[' | b'{') => Scalar::Unfit("must not be an array or an object"),
        _ => Number::parse(text).map_or(Scalar::Unfit("is not a finite number"), Scalar::Number),
    }
}

/// RFC 8428, 4.3: base64url without padding.
fn data(text: &str) -> Scalar<'static> {
    if text.len() > 4 * TEXT_MAX_CHARS {
        return Scalar::Unfit("is too long to be stored");
    }
    match URL_SAFE_NO_PAD.decode(text) {
        Ok(bytes) => Scalar::Bytes(Cow::Owned(bytes)),
        Err(_) => Scalar::Unfit("must be base64url without padding (RFC 4648, 5)"),
    }
}

/// A string without its quotes and escapes.
fn unquoted(text: &str) -> Result<Cow<'_, str>, &'static str> {
    if text.contains('\\') {
        // Half of a surrogate pair is JSON, and no text.
        return serde_json::from_str(text).map(Cow::Owned).map_err(|_| "not Unicode text");
    }
    let inner = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    Ok(Cow::Borrowed(inner.unwrap_or_default()))
}
