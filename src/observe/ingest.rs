//! Readings, from the request to the commit.

use std::time::Duration;

use super::{Metric, counter, gauge, seconds, sizes};

pub const READINGS: &str = "everbeat_ingest_readings_total";
const COMMIT_ROWS: &str = "everbeat_ingest_commit_rows";
const COMMIT: &str = "everbeat_ingest_commit_seconds";
const QUEUE_ROWS: &str = "everbeat_ingest_queue_rows";
const QUEUE_REQUESTS: &str = "everbeat_ingest_queue_requests";
const REFUSALS: &str = "everbeat_ingest_queue_refusals_total";
const SPLITS: &str = "everbeat_ingest_commit_splits_total";
const DEGRADED: &str = "everbeat_ingest_degraded_total";
const PARTITIONS: &str = "everbeat_ingest_partitions_made_total";

pub(super) const METRICS: &[Metric] = &[
    counter(READINGS, "Readings that were answered for, by outcome."),
    sizes(COMMIT_ROWS, "Readings gathered for one commit."),
    seconds(COMMIT, "Time from the start of a commit to its outcome, retries included, by outcome."),
    gauge(QUEUE_ROWS, "Readings that wait for a commit."),
    gauge(QUEUE_REQUESTS, "Requests that wait for a commit."),
    counter(REFUSALS, "Requests refused because the queue was full."),
    counter(DEGRADED, "Readings acknowledged that no synchronous standby was known to have."),
    counter(SPLITS, "Halvings of a commit that the database refused."),
    counter(PARTITIONS, "Partitions of readings made on demand."),
];

/// What became of a reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Stored,
    Duplicate,
    RejectedInvalid,
    RejectedConflict,
    RejectedRefused,
    /// 503: not stored, or unknown.
    Failed,
}

impl Outcome {
    const ALL: [Self; 6] = [
        Self::Stored,
        Self::Duplicate,
        Self::RejectedInvalid,
        Self::RejectedConflict,
        Self::RejectedRefused,
        Self::Failed,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Duplicate => "duplicate",
            Self::RejectedInvalid => "rejected_invalid",
            Self::RejectedConflict => "rejected_conflict",
            Self::RejectedRefused => "rejected_refused",
            Self::Failed => "failed",
        }
    }
}

pub(super) fn zero() {
    for outcome in Outcome::ALL {
        metrics::counter!(READINGS, "outcome" => outcome.as_str()).absolute(0);
    }
    for counter in [REFUSALS, SPLITS, PARTITIONS, DEGRADED] {
        metrics::counter!(counter).absolute(0);
    }
    metrics::gauge!(QUEUE_ROWS).set(0.0);
    metrics::gauge!(QUEUE_REQUESTS).set(0.0);
}

pub fn readings(outcome: Outcome, count: u64) {
    if count > 0 {
        metrics::counter!(READINGS, "outcome" => outcome.as_str()).increment(count);
    }
}

/// A commit has ended. `outcome`: `ok` or the fault's name.
#[expect(clippy::cast_precision_loss, reason = "counts of rows are far below 2^52")]
pub fn commit(rows: usize, outcome: &'static str, took: Duration) {
    metrics::histogram!(COMMIT_ROWS).record(rows as f64);
    metrics::histogram!(COMMIT, "outcome" => outcome).record(took.as_secs_f64());
}

#[expect(clippy::cast_precision_loss, reason = "the queue's bounds are far below 2^52")]
pub fn queue(rows: usize, requests: usize) {
    metrics::gauge!(QUEUE_ROWS).set(rows as f64);
    metrics::gauge!(QUEUE_REQUESTS).set(requests as f64);
}

pub fn queue_full() {
    metrics::counter!(REFUSALS).increment(1);
}

/// Acknowledged under the policy `accept` without a synchronous standby.
pub fn degraded(count: u64) {
    metrics::counter!(DEGRADED).increment(count);
}

pub fn split() {
    metrics::counter!(SPLITS).increment(1);
}

pub fn partition_made() {
    metrics::counter!(PARTITIONS).increment(1);
}
