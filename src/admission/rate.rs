//! Token buckets, one for each caller: the generic cell rate algorithm (ITU-T I.371), which keeps a single number for
//! a bucket, the time at which it will be full again.

use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use moka::sync::Cache;

use crate::domain::time::Boottime;

/// How often a caller may come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Requests per second in the long run. Zero: as often as it likes.
    pub per_second: f64,
    /// So many at once after a rest. At least 1.
    pub burst: u32,
}

impl Rate {
    pub fn is_limited(&self) -> bool {
        self.per_second > 0.0
    }

    /// The time that one request costs, in microseconds.
    fn cost_us(&self) -> f64 {
        1e6 / self.per_second
    }

    /// From empty to full.
    pub fn refill(&self) -> Duration {
        Duration::try_from_secs_f64(f64::from(self.burst) / self.per_second).unwrap_or(Duration::MAX)
    }
}

/// What a bucket holds after a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Left {
    pub rate: Rate,
    /// So many more may come at once.
    pub requests: u32,
    /// Until it is full again, if nobody comes.
    pub full_in: Duration,
}

impl Left {
    fn of(full_at_us: u64, now_us: u64, rate: Rate) -> Self {
        let full_in = Duration::from_micros(full_at_us.saturating_sub(now_us));
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "`as` saturates, and none is negative"
        )]
        let taken = full_in.as_secs_f64().mul_add(rate.per_second, -1e-6).ceil() as u32;
        Self { rate, requests: rate.burst.saturating_sub(taken), full_in }
    }
}

/// Takes one from a bucket that is full again at `full_at_us`: when it will be full then, or how long to wait.
fn take(full_at_us: u64, now_us: u64, rate: Rate) -> Result<u64, Duration> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates, and none is negative")]
    let (cost, depth) = (rate.cost_us() as u64, (rate.cost_us() * f64::from(rate.burst)) as u64);
    let next = full_at_us.max(now_us).saturating_add(cost);
    let allowed = now_us.saturating_add(depth.max(cost));
    if next > allowed { Err(Duration::from_micros(next - allowed)) } else { Ok(next) }
}

/// Buckets of all callers of one kind. Whoever rested until its bucket was full is forgotten, and nothing with it.
#[derive(Clone)]
pub struct Buckets<K> {
    rate: Rate,
    full_at_us: Cache<K, Arc<AtomicU64>>,
}

impl<K: Hash + Eq + Send + Sync + 'static> Buckets<K> {
    /// `callers_max`: of those who come most often; the rest have a full bucket each time.
    pub fn new(rate: Rate, callers_max: u64) -> Self {
        let full_at_us = Cache::builder().max_capacity(callers_max);
        let full_at_us = if rate.is_limited() {
            // Not shorter than the cache's own coarse clock.
            full_at_us.time_to_idle(rate.refill().clamp(Duration::from_secs(1), Duration::from_hours(1)))
        } else {
            full_at_us
        };
        Self { rate, full_at_us: full_at_us.build() }
    }

    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// One request of `caller`, and what is left to it; `None` without a limit.
    ///
    /// # Errors
    /// How long it has to wait.
    pub fn take(&self, caller: K, now: Boottime) -> Result<Option<Left>, Duration> {
        if !self.rate.is_limited() {
            return Ok(None);
        }
        let bucket = self.full_at_us.get_with(caller, Arc::default);
        let taken = |full_at_us| take(full_at_us, now.as_us(), self.rate);
        let mut full_at_us = bucket.load(Ordering::Relaxed);
        loop {
            let next = taken(full_at_us)?;
            match bucket.compare_exchange_weak(full_at_us, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(Some(Left::of(next, now.as_us(), self.rate))),
                Err(changed) => full_at_us = changed,
            }
        }
    }

    /// Would [`Self::take`] give one? Takes none, and remembers nobody.
    ///
    /// # Errors
    /// As there.
    pub fn look(&self, caller: &K, now: Boottime) -> Result<(), Duration> {
        let Some(bucket) = self.full_at_us.get(caller).filter(|_| self.rate.is_limited()) else { return Ok(()) };
        take(bucket.load(Ordering::Relaxed), now.as_us(), self.rate).map(drop)
    }

    /// How many callers are remembered, more or less.
    pub fn callers(&self) -> u64 {
        self.full_at_us.entry_count()
    }

    /// Does at once what the cache does now and then: drops what is over or too many.
    #[cfg(test)]
    pub fn settle(&self) {
        self.full_at_us.run_pending_tasks();
    }
}

#[cfg(test)]
#[expect(clippy::cast_precision_loss, reason = "spans of a few minutes")]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::domain::time::Clock;

    #[test]
    fn a_burst_and_then_the_rate() {
        let clock = Clock::manual(1_700_000_000_000_000);
        let buckets = Buckets::new(Rate { per_second: 10.0, burst: 3 }, 100);
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        for _ in 0..3 {
            assert_eq!(buckets.take(one, clock.boottime()).map(drop), Ok(()));
        }
        assert_eq!(buckets.take(one, clock.boottime()), Err(Duration::from_millis(100)));
        assert_eq!(buckets.take(other, clock.boottime()).map(drop), Ok(()), "each has a bucket of its own");
        clock.advance(Duration::from_millis(60));
        assert_eq!(buckets.take(one, clock.boottime()), Err(Duration::from_millis(40)), "a refusal costs nothing");
        clock.advance(Duration::from_millis(40));
        assert_eq!(buckets.take(one, clock.boottime()).map(drop), Ok(()));
        clock.advance(Duration::from_secs(9));
        for _ in 0..3 {
            assert_eq!(buckets.take(one, clock.boottime()).map(drop), Ok(()), "no more than the burst is saved");
        }
        assert!(buckets.take(one, clock.boottime()).is_err());
        let free = Buckets::new(Rate { per_second: 0.0, burst: 1 }, 100);
        assert!((0..1_000).all(|_| free.take(one, clock.boottime()).is_ok()));
    }

    proptest! {
        #[test]
        fn never_more_than_burst_and_rate(
            per_second in 0.1_f64..2_000.0, burst in 1_u32..50, gaps_us in prop::collection::vec(0_u64..200_000, 1..400)) {
            let rate = Rate { per_second, burst };
            let (mut now_us, mut full_at_us, mut taken) = (1_000_000_u64, 0, 0_u32);
            let begun = now_us;
            for gap in gaps_us {
                now_us += gap;
                match take(full_at_us, now_us, rate) {
                    Ok(next) => (full_at_us, taken) = (next, taken + 1),
                    Err(wait) => {
                        let later = now_us + u64::try_from(wait.as_micros()).unwrap();
                        prop_assert!(take(full_at_us, later, rate).is_ok(), "whoever waits as told is let in");
                        prop_assert!(take(full_at_us, later - 1, rate).is_err(), "and not sooner");
                    }
                }
                let seconds = (now_us - begun) as f64 / 1e6;
                // Microseconds are cut off from each cost.
                let most = f64::from(burst) + seconds * 1e6 / (1e6 / per_second).floor().max(1.0) + 1.0;
                prop_assert!(f64::from(taken) <= most, "{taken} of {most}");
            }
        }
    }
}
