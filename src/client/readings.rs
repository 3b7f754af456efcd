//! Readings on their way out. Each carries its time and an id of its own, so that sending it again stores nothing.

use std::io::Write;

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use uuid::Uuid;

use super::error::ClientError;
use super::transport::Call;
use crate::domain::time::{rfc3339, unix_us};

/// Below this, compressing costs more than it saves.
const GZIP_FROM_BYTES: usize = 1024;

/// One reading, ready to be sent as often as it takes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Reading {
    /// RFC 3339, microseconds.
    ts: String,
    id: Uuid,
    /// Metric name → number, boolean or string.
    values: Map<String, Value>,
}

impl Reading {
    /// `id` must be the same whenever this reading is sent, and another for every other reading of the device.
    pub fn new(ts: OffsetDateTime, id: Uuid, values: Map<String, Value>) -> Self {
        Self { ts: rfc3339(ts), id, values }
    }

    /// A reading made now: its id is a new UUIDv7 of its time.
    pub fn fresh(ts: OffsetDateTime, values: Map<String, Value>) -> Result<Self, ClientError> {
        let mut draw = [0; 10];
        aws_lc_rs::rand::fill(&mut draw).map_err(|_| ClientError::Crypto("no randomness".to_owned()))?;
        let millis = u64::try_from(unix_us(ts) / 1_000).unwrap_or(0);
        Ok(Self::new(ts, uuid::Builder::from_unix_timestamp_millis(millis, &draw).into_uuid(), values))
    }

    pub fn id(&self) -> Uuid {
        self.id
    }

    pub fn ts(&self) -> &str {
        &self.ts
    }

    /// Its share of a batch's body, uncompressed.
    pub fn bytes(&self) -> usize {
        serde_json::to_vec(self).map_or(0, |json| json.len() + 1)
    }
}

/// A body made once and sent unchanged at every attempt.
#[derive(Clone, Debug)]
pub struct Batch {
    body: Bytes,
    gzip: bool,
    count: u64,
}

impl Batch {
    /// A JSON array, compressed if it is worth it.
    pub fn new(readings: &[Reading]) -> Result<Self, ClientError> {
        let failed = |error: &dyn std::fmt::Display| ClientError::Input(format!("the batch: {error}"));
        let plain = serde_json::to_vec(readings).map_err(|error| failed(&error))?;
        let count = u64::try_from(readings.len()).unwrap_or(u64::MAX);
        if plain.len() < GZIP_FROM_BYTES {
            return Ok(Self { body: plain.into(), gzip: false, count });
        }
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let packed = encoder.write_all(&plain).and_then(|()| encoder.finish()).map_err(|error| failed(&error))?;
        Ok(Self { body: packed.into(), gzip: true, count })
    }

    /// How many readings are in it.
    pub fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn call(&self) -> Call {
        Call {
            content_type: Some("application/json"),
            content_encoding: self.gzip.then_some("gzip"),
            also: Some(422),
            ..Call::post("/v1/readings", self.body.clone())
        }
    }
}
