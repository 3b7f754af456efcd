//! How long a fault was felt, measured from the evidence, and compared with what the scenario allows. Pure.

mod errors;
mod spans;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::errors::{by_clients, is_error};
use super::evidence::Evidence;
use super::scenario::Bounds;

/// What is measured of every run. Times are microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Figure {
    /// The longest span between two acknowledged readings that overlaps the time from the first fault until
    /// everything is well again.
    WriteGap,
    /// From the fault to another replica's belief that it leads.
    Takeover,
    /// From the end of the write gap to a leader that runs.
    LeaderAfterWrites,
    /// From the first request that met the fault to the last one that failed.
    ErrorWindow,
    /// Requests that failed twice in a row: what a client sees that retries once. A count.
    FailedAfterOneRetry,
}

impl Figure {
    pub const ALL: [Self; 5] =
        [Self::WriteGap, Self::Takeover, Self::LeaderAfterWrites, Self::ErrorWindow, Self::FailedAfterOneRetry];

    pub fn title(self) -> &'static str {
        match self {
            Self::WriteGap => "no write acknowledged",
            Self::Takeover => "leader take-over",
            Self::LeaderAfterWrites => "leader works after writes do",
            Self::ErrorWindow => "clients saw errors",
            Self::FailedAfterOneRetry => "requests failed after one retry",
        }
    }

    /// A count; all others are times.
    pub fn is_count(self) -> bool {
        matches!(self, Self::FailedAfterOneRetry)
    }

    fn bound(self, bounds: &Bounds) -> Option<u64> {
        let time = |limit: Option<Duration>| limit.map(|limit| u64::try_from(limit.as_micros()).unwrap_or(u64::MAX));
        match self {
            Self::WriteGap => time(bounds.write_gap),
            Self::Takeover => time(bounds.takeover),
            Self::LeaderAfterWrites => time(bounds.leader_after_writes),
            Self::ErrorWindow => time(bounds.error_window),
            Self::FailedAfterOneRetry => bounds.failed_after_one_retry,
        }
    }
}

/// The figures of one run. A time that is not there did not happen: nobody took over, nothing failed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    pub values: BTreeMap<Figure, u64>,
    /// Failed requests by what went wrong, the most frequent kinds.
    pub errors: BTreeMap<String, u64>,
    /// Those of them that failed after one retry, by what went wrong with the retry.
    #[serde(default)]
    pub failed_retries: BTreeMap<String, u64>,
    pub requests: u64,
    pub failed: u64,
}

/// A figure beside its bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FigureVerdict {
    pub figure: Figure,
    pub value: Option<u64>,
    pub bound: Option<u64>,
    pub held: bool,
}

impl Figures {
    pub fn of(evidence: &Evidence) -> Self {
        let failed_retries = errors::failed_after_one_retry(evidence);
        let measured = [
            (Figure::WriteGap, spans::write_gap(evidence).map(|(from, until)| until - from)),
            (Figure::Takeover, spans::takeover(evidence)),
            (Figure::LeaderAfterWrites, spans::leader_after_writes(evidence)),
            (Figure::ErrorWindow, errors::window(evidence)),
            (Figure::FailedAfterOneRetry, Some(failed_retries.len() as u64)),
        ];
        let values = measured.into_iter().filter_map(|(figure, value)| Some((figure, value?))).collect();
        let failed = by_clients(evidence).filter(|attempt| is_error(&attempt.outcome)).count() as u64;
        let requests = by_clients(evidence).count() as u64;
        let errors = errors::by_class(by_clients(evidence));
        Self { values, errors, failed_retries: errors::by_class(failed_retries), requests, failed }
    }

    /// One line for each figure. Without a bound it is only reported. A bound on what has to happen (a take-over, a
    /// leader) is broken when it did not happen; one on what should not, is kept.
    pub fn judge(&self, bounds: &Bounds) -> Vec<FigureVerdict> {
        let line = |figure: Figure| {
            let (value, bound) = (self.values.get(&figure).copied(), figure.bound(bounds));
            let held = match (value, bound) {
                (_, None) => true,
                (Some(value), Some(bound)) => value <= bound,
                (None, Some(_)) => matches!(figure, Figure::ErrorWindow | Figure::FailedAfterOneRetry),
            };
            FigureVerdict { figure, value, bound, held }
        };
        Figure::ALL.into_iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests;
