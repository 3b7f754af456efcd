//! What ingest accepts, and how much of it may wait.

use std::time::Duration;

/// What a batch may be.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Of one body, after decompression. Too small: devices that were away for long need many requests.
    /// Too large: a few bodies fill the memory.
    pub body_max_bytes: usize,
    pub items_max: usize,
    /// Readings older than this are rejected: they would be dropped at once, and have no partition.
    pub retention: Duration,
    /// How far a device's clock may be ahead. Too large: a device with a wrong year makes partitions nobody needs.
    pub future_max: Duration,
}

#[derive(Clone, Debug)]
pub struct IngestSettings {
    pub limits: Limits,
    /// Rows that one commit gathers (one request more may be in it). Too small: more commits than the standby's round
    /// trip allows. Too large: one commit takes long, and everybody in it waits for the last row.
    pub commit_rows_max: usize,
    /// Each holds a connection.
    pub commits_in_flight_max: usize,
    /// Rows that may wait for a commit; more are refused at once. At least `items_max`.
    pub queue_rows_max: usize,
    /// Requests that may wait for a commit.
    pub queue_requests_max: usize,
}

impl IngestSettings {
    /// # Errors
    /// One sentence for each setting that cannot be.
    pub fn check(&self) -> Result<(), Vec<String>> {
        let mut errors = Vec::new();
        let positive = [
            ("body_max_bytes", self.limits.body_max_bytes),
            ("items_max", self.limits.items_max),
            ("commit_rows_max", self.commit_rows_max),
            ("commits_in_flight_max", self.commits_in_flight_max),
            ("queue_requests_max", self.queue_requests_max),
        ];
        errors.extend(positive.iter().filter(|(_, n)| *n == 0).map(|(name, _)| format!("{name} must be positive")));
        if self.queue_rows_max < self.limits.items_max {
            errors.push("queue_rows_max must be at least items_max, or a full batch never fits".to_owned());
        }
        if self.queue_rows_max > u32::MAX as usize >> 3 {
            errors.push("queue_rows_max is too large".to_owned());
        }
        if self.limits.retention.is_zero() {
            errors.push("retention must be positive".to_owned());
        }
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }
}
