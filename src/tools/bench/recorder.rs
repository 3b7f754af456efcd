//! What became of each request, second by second. Latency counts from the moment at which the request was due, not from
//! the one at which it was sent: a service that stands still is charged for all who would have come meanwhile.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Latencies from 1 µs to two minutes, with two digits: the histogram of one second takes 20 KB.
const LATENCY_MAX_US: u64 = 120_000_000;
const DIGITS: u8 = 2;
/// Fewer callers wait for one another then.
const SHARDS: usize = 16;

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// 2xx.
    Good,
    /// 429.
    Limited,
    /// 503.
    Shed,
    /// Any other 4xx.
    Refused,
    /// Any other 5xx.
    Broken,
    /// No answer.
    Failed,
    /// The device had been told to stay away (`Retry-After`), and did.
    HeldBack,
    /// The generator had too many waiting for this device.
    NotSent,
}

impl End {
    pub const ALL: [Self; 8] = [
        Self::Good,
        Self::Limited,
        Self::Shed,
        Self::Refused,
        Self::Broken,
        Self::Failed,
        Self::HeldBack,
        Self::NotSent,
    ];

    pub fn of(status: u16) -> Self {
        match status {
            200..=299 => Self::Good,
            429 => Self::Limited,
            503 => Self::Shed,
            400..=499 => Self::Refused,
            _ => Self::Broken,
        }
    }

    /// Did the service say anything, good or not?
    pub fn is_answer(self) -> bool {
        match self {
            Self::Good | Self::Limited | Self::Shed | Self::Refused | Self::Broken => true,
            Self::Failed | Self::HeldBack | Self::NotSent => false,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Limited => "429",
            Self::Shed => "503",
            Self::Refused => "other 4xx",
            Self::Broken => "other 5xx",
            Self::Failed => "no answer",
            Self::HeldBack => "held back",
            Self::NotSent => "not sent",
        }
    }
}

/// Requests that were due in one second, or in all of them.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    ends: [u64; End::ALL.len()],
    /// Of good answers; `None` before the first.
    good: Option<Histogram<u64>>,
}

impl Tally {
    fn add(&mut self, end: End, latency: Duration) {
        self.ends[end as usize] += 1;
        if end == End::Good {
            let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).max(1);
            // The bounds are constants that it takes.
            self.good = self.good.take().or_else(|| Histogram::new_with_bounds(1, LATENCY_MAX_US, DIGITS).ok());
            self.good.iter_mut().for_each(|good| good.saturating_record(us));
        }
    }

    fn merge(&mut self, other: &Self) {
        for (sum, more) in self.ends.iter_mut().zip(other.ends) {
            *sum += more;
        }
        match (&mut self.good, &other.good) {
            // Both have the same bounds.
            (Some(good), Some(more)) => drop(good.add(more)),
            (good @ None, Some(more)) => *good = Some(more.clone()),
            (_, None) => {}
        }
    }

    pub fn count(&self, end: End) -> u64 {
        self.ends[end as usize]
    }

    pub fn total(&self) -> u64 {
        self.ends.iter().sum()
    }

    pub fn answered(&self) -> u64 {
        End::ALL.into_iter().filter(|end| end.is_answer()).map(|end| self.count(end)).sum()
    }

    /// The latency of good answers that `share` (0 to 1) of them kept, in microseconds.
    pub fn quantile_us(&self, share: f64) -> Option<u64> {
        self.good.as_ref().map(|good| good.value_at_quantile(share))
    }
}

/// Takes what callers report.
pub struct Recorder {
    shards: Vec<Mutex<Vec<Tally>>>,
}

impl Recorder {
    pub fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }

    /// `due`: from the beginning. `caller`: spreads the callers.
    pub fn add(&self, caller: usize, due: Duration, end: End, latency: Duration) {
        let second = usize::try_from(due.as_secs()).unwrap_or(usize::MAX).min(86_400);
        let shard = &self.shards[caller % SHARDS];
        let mut seconds = shard.lock().unwrap_or_else(PoisonError::into_inner);
        if seconds.len() <= second {
            seconds.resize_with(second + 1, Tally::default);
        }
        seconds[second].add(end, latency);
    }

    /// One second.
    pub fn second(&self, second: usize) -> Tally {
        let mut all = Tally::default();
        for shard in &self.shards {
            let seconds = shard.lock().unwrap_or_else(PoisonError::into_inner);
            seconds.get(second).into_iter().for_each(|more| all.merge(more));
        }
        all
    }

    /// Second by second.
    pub fn seconds(&self) -> Vec<Tally> {
        let length = |shard: &Mutex<Vec<Tally>>| shard.lock().unwrap_or_else(PoisonError::into_inner).len();
        let length = self.shards.iter().map(length).max().unwrap_or(0);
        (0..length).map(|second| self.second(second)).collect()
    }
}

/// All of some seconds together.
pub fn together<'a>(seconds: impl IntoIterator<Item = &'a Tally>) -> Tally {
    let mut all = Tally::default();
    for second in seconds {
        all.merge(second);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_count_where_they_were_due() {
        let recorder = Recorder::new();
        let ms = Duration::from_millis;
        for caller in 0..40 {
            recorder.add(caller, ms(500), End::Good, ms(10));
            recorder.add(caller, ms(2_100), End::of(503), ms(1));
        }
        recorder.add(3, ms(2_200), End::Good, ms(4_000));
        recorder.add(4, ms(2_300), End::HeldBack, ms(0));
        let seconds = recorder.seconds();
        assert_eq!(seconds.iter().map(Tally::total).collect::<Vec<_>>(), [40, 0, 42]);
        assert_eq!((seconds[2].count(End::Shed), seconds[2].count(End::Good)), (40, 1));
        let close = |value: Option<u64>, to: u64| value.is_some_and(|value| value.abs_diff(to) * 100 <= to);
        assert!(close(seconds[0].quantile_us(0.99), 10_000), "refusals are no latencies of the service");
        assert_eq!(seconds[1].quantile_us(0.5), None);
        let all = together(&seconds);
        assert!(close(all.quantile_us(0.5), 10_000) && close(all.quantile_us(1.0), 4_000_000));
        assert_eq!((all.total(), all.answered()), (82, 81));
    }
}
