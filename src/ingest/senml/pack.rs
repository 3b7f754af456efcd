//! Resolved records become readings: those of one time together, each under a metric's name.
//!
//! A metric is named by the record's name, without what names the sender itself, and its unit: `temp[Cel]`. The unit is
//! part of the name because it is part of what was measured: the RFC's own example (5.1.3) has three records of one
//! name and time that differ by nothing else, and a device that changes from Cel to K must not go on in one series.
//! A sum is in the unit multiplied by seconds (RFC 8428, 4.2), and so is its name: `power[W*s]`. Names cannot hold
//! brackets (RFC 8428, 4.5.1), so no two pairs of name and unit make one metric.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::record::{Measured, Record};
use super::resolve::{Resolved, Resolver};
use crate::domain::reading::{Reading, Value, Values};
use crate::ingest::decode::{BatchItem, CONFLICT, DecodeError, INVALID, ReadingBatch, Sender, Window, rejection};
use crate::ingest::item::{self, METRIC_NAME_MAX_CHARS, METRICS_MAX, TEXT_MAX_CHARS};

type Metric = (Box<str>, Value);

/// The records of one time.
struct Group {
    /// The index of its first record: it stands for the reading in answers.
    index: usize,
    ts_us: i64,
    metrics: Vec<Metric>,
}

/// Why a record is not among the readings.
struct Refusal {
    kind: &'static str,
    detail: String,
}

impl From<String> for Refusal {
    fn from(detail: String) -> Self {
        Self { kind: INVALID, detail }
    }
}

pub(super) struct Pack<'a> {
    window: &'a Window,
    own: OwnNames<'a>,
    resolver: Resolver<'a>,
    records: usize,
    groups: Vec<Group>,
    by_time: HashMap<i64, usize>,
    batch: ReadingBatch,
}

impl<'a> Pack<'a> {
    pub fn new(sender: Sender<'a>, window: &'a Window) -> Self {
        Self {
            window,
            own: OwnNames::of(sender),
            resolver: Resolver::new(window.now),
            records: 0,
            groups: Vec::new(),
            by_time: HashMap::new(),
            batch: ReadingBatch::empty(sender.id),
        }
    }

    /// Takes the next record.
    ///
    /// # Errors
    /// What makes the pack unacceptable as a whole.
    pub fn add(&mut self, record: Record<'a>) -> Result<(), DecodeError> {
        let index = self.records;
        self.records += 1;
        let outcome = match self.resolver.resolve(index, record)? {
            Ok(Some(resolved)) => self.place(index, &resolved),
            Ok(None) => Ok(()),
            Err(fault) => Err(fault.into()),
        };
        if let Err(Refusal { kind, detail }) = outcome {
            self.batch.rejected.push(rejection(index, kind, detail));
        }
        Ok(())
    }

    /// Puts a record among those of its time, as a whole or not at all.
    fn place(&mut self, index: usize, record: &Resolved<'_>) -> Result<(), Refusal> {
        self.window.admit(record.ts_us).map_err(|sentence| format!("/t: {sentence}"))?;
        let metrics = metrics(self.own.strip(&record.name), record)?;
        let Some(group) = self.by_time.get(&record.ts_us).and_then(|at| self.groups.get_mut(*at)) else {
            self.by_time.insert(record.ts_us, self.groups.len());
            self.groups.push(Group { index, ts_us: record.ts_us, metrics });
            return Ok(());
        };
        if let Some((name, _)) = metrics.iter().find(|(name, _)| group.metrics.iter().any(|(other, _)| other == name)) {
            let detail = format!("/n: the pack has {name:?} of this time already");
            return Err(Refusal { kind: CONFLICT, detail });
        }
        if group.metrics.len() + metrics.len() > METRICS_MAX {
            let detail = format!("more than {METRICS_MAX} metrics of one time; send the rest in another pack");
            return Err(detail.into());
        }
        group.metrics.extend(metrics);
        Ok(())
    }

    pub fn into_batch(self) -> ReadingBatch {
        let mut batch = self.batch;
        for Group { index, ts_us, metrics } in self.groups {
            match Values::new(metrics) {
                Ok(values) => {
                    batch.items.push(BatchItem { index, reading: Reading::new(batch.device, ts_us, None, &values) });
                }
                // Not reached: each metric was compared with the others of its group.
                Err(name) => batch.rejected.push(rejection(index, CONFLICT, format!("/n: {name:?} occurs twice"))),
            }
        }
        batch
    }
}

/// The one or two metrics of a record.
fn metrics(name: &str, record: &Resolved<'_>) -> Result<Vec<Metric>, String> {
    let mut metrics = Vec::with_capacity(1);
    if let Some(measured) = &record.value {
        metrics.push((metric(name, &record.unit)?, value(measured)?));
    }
    if let Some(sum) = record.sum {
        metrics.push((metric(name, &format!("{}*s", record.unit))?, sum.value().ok_or("/s: is not a finite number")?));
    }
    Ok(metrics)
}

fn metric(name: &str, unit: &str) -> Result<Box<str>, String> {
    let metric = if unit.is_empty() { name.to_owned() } else { format!("{name}[{unit}]") };
    item::name(&metric, METRIC_NAME_MAX_CHARS)
        .map_err(|what| format!("/n: the metric (the name, and the unit in brackets) {what}"))?;
    Ok(metric.into())
}

fn value(measured: &Measured<'_>) -> Result<Value, String> {
    match measured {
        Measured::Number(number) => number.value().ok_or_else(|| "/v: is not a finite number".to_owned()),
        Measured::Bool(yes) => Ok((*yes).into()),
        Measured::Text(text) => item::text(text).map_err(|what| format!("/vs: {what}")),
        Measured::Data(bytes) => data_url(bytes).map_err(|what| format!("/vd: {what}")),
    }
}

/// RFC 2397: a text that says by itself that it stands for bytes.
fn data_url(bytes: &[u8]) -> Result<Value, String> {
    const HEAD: &str = "data:application/octet-stream;base64,";
    const BYTES_MAX: usize = (TEXT_MAX_CHARS - HEAD.len()) / 4 * 3;
    if bytes.len() > BYTES_MAX {
        return Err(format!("more than {BYTES_MAX} bytes of data"));
    }
    item::text(&format!("{HEAD}{}", STANDARD.encode(bytes)))
}

/// The names that mean the sender itself: they say nothing that the reading does not say, and a metric that begins with
/// them could not be compared across devices.
struct OwnNames<'a> {
    whole: [String; 3],
    name: &'a str,
}

impl<'a> OwnNames<'a> {
    fn of(Sender { id, name }: Sender<'a>) -> Self {
        Self { whole: [id.urn(), format!("urn:uuid:{id}"), id.to_string()], name }
    }

    /// The name without the sender's before a separator; whole, if nothing else is left of it.
    fn strip<'n>(&self, name: &'n str) -> &'n str {
        let of_id = self.whole.iter().find_map(|own| name.strip_prefix(own.as_str()));
        let of_id = of_id.and_then(|rest| rest.strip_prefix([':', '/']));
        of_id.or_else(|| self.after_name(name)).filter(|rest| !rest.is_empty()).unwrap_or(name)
    }

    fn after_name<'n>(&self, name: &'n str) -> Option<&'n str> {
        if self.name.is_empty() {
            return None;
        }
        if let Some(urn) = name.strip_prefix("urn:dev:") {
            // RFC 9039: urn:dev:TYPE:ID, and its components after an underscore.
            let (_, id) = urn.split_once(':')?;
            return id.strip_prefix(self.name)?.strip_prefix([':', '/', '_']);
        }
        name.strip_prefix(self.name)?.strip_prefix([':', '/'])
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::ids::DeviceId;

    #[test]
    fn names_without_the_senders_own() {
        let id = DeviceId(Uuid::from_u128(0x0192_f6d0_7b7a_7c3e_9d5e_0123_4567_89ab));
        let own = OwnNames::of(Sender { id, name: "pump-1" });
        let table = [
            ("pump-1:temp", "temp"),
            ("pump-1/oil/temp", "oil/temp"),
            ("pump-1_temp", "pump-1_temp"),
            ("pump-1", "pump-1"),
            ("pump-1:", "pump-1:"),
            ("pump-11:temp", "pump-11:temp"),
            ("pump-2:temp", "pump-2:temp"),
            ("urn:dev:ops:pump-1:temp", "temp"),
            ("urn:dev:ops:pump-1_temp", "temp"),
            ("urn:dev:ops:pump-2_temp", "urn:dev:ops:pump-2_temp"),
            ("urn:dev:pump-1", "urn:dev:pump-1"),
            ("urn:everbeat:device:0192f6d0-7b7a-7c3e-9d5e-0123456789ab:temp", "temp"),
            ("urn:uuid:0192f6d0-7b7a-7c3e-9d5e-0123456789ab/temp", "temp"),
            ("0192f6d0-7b7a-7c3e-9d5e-0123456789ab:temp", "temp"),
        ];
        for (name, expected) in table {
            assert_eq!(own.strip(name), expected, "{name}");
        }
        assert_eq!(OwnNames::of(Sender::from(id)).strip(":temp"), ":temp");
    }

    #[test]
    fn data_fits_or_not() {
        assert_eq!(data_url(b"hi \n"), Ok("data:application/octet-stream;base64,aGkgCg==".into()));
        assert!(data_url(&[0; 738]).is_ok());
        assert!(data_url(&[0; 739]).is_err());
    }
}
