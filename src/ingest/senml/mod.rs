//! SenML (RFC 8428) in JSON and CBOR: a pack of records becomes readings. `docs/senml.md` is its page for users.
//!
//! ```text
//! json, cbor: one record after the other, without a tree
//!   -> record: fields of the right types      -> resolve: the base fields applied (RFC 8428, 4.6)
//!     -> pack: records of one time become one reading, and names and units become metrics
//! ```
//!
//! - Both encodings of a pack make the same readings, to the digest: all that follows the reading of a field is
//!   shared, and numbers are compared by value ([`number`]).
//! - A fault is its record's. If a base field is at fault, so is whoever builds on it, until the field is given again:
//!   a name or a time that was only half understood must not be stored.
//! - What breaks the pack as a whole: broken JSON or CBOR, another version, and a field that must be understood.
//!
//! Deliberately absent: the units' registry (a unit that we do not know is still the device's), and the streams of
//! RFC 8428, 4.8 (a body has an end).

mod cbor;
mod json;
mod number;
mod pack;
mod record;
mod resolve;

use super::decode::{DecodeError, ReadingBatch, Sender, Window, whole};
use super::scan;
use super::settings::Limits;
use pack::Pack;

pub(super) fn json(
    text: &str,
    sender: Sender<'_>,
    limits: &Limits,
    window: &Window,
) -> Result<ReadingBatch, DecodeError> {
    let items = scan::items(text, limits.items_max).map_err(|fault| match fault {
        scan::Broken::Scalar => DecodeError::NotAPack,
        fault => whole(fault, limits),
    })?;
    if !text.trim_ascii_start().starts_with('[') {
        return Err(DecodeError::NotAPack);
    }
    let mut pack = Pack::new(sender, window);
    for item in items {
        pack.add(json::record(item)?)?;
    }
    Ok(pack.into_batch())
}

pub(super) fn cbor(
    body: &[u8],
    sender: Sender<'_>,
    limits: &Limits,
    window: &Window,
) -> Result<ReadingBatch, DecodeError> {
    let mut records = cbor::Reader::open(body, limits.items_max)?;
    let mut pack = Pack::new(sender, window);
    while let Some(record) = records.read()? {
        pack.add(record)?;
    }
    Ok(pack.into_batch())
}

#[cfg(test)]
mod rfc_tests;
#[cfg(test)]
mod tests;
