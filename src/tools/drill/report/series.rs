//! What clients saw over time, in steps of half a second. Probes are left out.

use serde::{Deserialize, Serialize};

use crate::tools::drill::evidence::{Attempt, Call, Evidence};
use crate::tools::drill::figures::{by_clients, is_error};

pub const STEP_US: u64 = 500_000;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Series {
    pub step_us: u64,
    pub moments: Vec<Moment>,
}

/// One step; requests count in the step in which they ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// Acknowledged.
    pub readings: u64,
    pub heartbeats: u64,
    /// Requests that failed by the service's fault, or unanswered.
    pub errors: u64,
    /// Latency of those that were acknowledged.
    pub p50_us: Option<u64>,
    pub p99_us: Option<u64>,
}

impl Series {
    pub fn of(evidence: &Evidence) -> Self {
        let steps = evidence.ended_us.saturating_sub(evidence.started_us).div_ceil(STEP_US);
        let steps = usize::try_from(steps).unwrap_or(usize::MAX);
        let mut buckets: Vec<Vec<&Attempt>> = vec![Vec::new(); steps];
        for attempt in by_clients(evidence) {
            let step = attempt.done_us.checked_sub(evidence.started_us).map(|since| since / STEP_US);
            if let Some(bucket) = step.and_then(|step| buckets.get_mut(usize::try_from(step).ok()?)) {
                bucket.push(attempt);
            }
        }
        Self { step_us: STEP_US, moments: buckets.iter().map(|bucket| moment(bucket)).collect() }
    }
}

fn moment(bucket: &[&Attempt]) -> Moment {
    let acknowledged = || bucket.iter().filter(|attempt| attempt.outcome.is_acknowledged());
    let mut latencies: Vec<u64> =
        acknowledged().map(|attempt| attempt.done_us.saturating_sub(attempt.sent_us)).collect();
    latencies.sort_unstable();
    let readings = acknowledged().map(|attempt| match &attempt.call {
        Call::Readings { items, .. } => items.len() as u64,
        _ => 0,
    });
    Moment {
        readings: readings.sum(),
        heartbeats: acknowledged().filter(|attempt| matches!(attempt.call, Call::Heartbeat)).count() as u64,
        errors: bucket.iter().filter(|attempt| is_error(&attempt.outcome)).count() as u64,
        p50_us: quantile(&latencies, 50),
        p99_us: quantile(&latencies, 99),
    }
}

/// The smallest value that so many percent of all do not exceed.
fn quantile(sorted: &[u64], percent: usize) -> Option<u64> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.checked_sub(1)?).copied()
}
