//! The database's clock, as this replica knows it. All replicas judge the times of readings by this one clock, so that
//! a host whose wall clock is wrong takes and refuses what the others do.
//!
//! A sample is the database's time in an answer, put at the middle of its round trip; half the round trip is its
//! error. Between samples the boot clock counts on, which nobody sets. Nothing is asked for: whoever reads the
//! database's clock for a reason of its own hands the answer in.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use time::OffsetDateTime;

use super::time::{Boottime, Clock, from_unix_us, unix_us};

/// A boot clock and the database's run apart by one part in so many at most: a sample's error grows by as much.
const DRIFT_ONE_IN: u32 = 5_000;

#[derive(Clone, Copy, Debug)]
struct Sample {
    /// The database's time, in microseconds since 1970 …
    at_us: i64,
    /// … at this moment …
    moment: Boottime,
    /// … give or take this.
    error: Duration,
}

impl Sample {
    fn error_at(&self, moment: Boottime) -> Duration {
        self.error + moment.since(self.moment) / DRIFT_ONE_IN
    }

    fn at(&self, moment: Boottime) -> i64 {
        self.at_us.saturating_add(micros(moment.since(self.moment)))
    }

    /// A tighter one is better, and so is one that the old cannot be true beside: then the clock was set, or another
    /// database answers.
    fn gives_way_to(&self, new: &Self) -> bool {
        let error = self.error_at(new.moment);
        let apart = self.at(new.moment).abs_diff(new.at_us);
        new.error <= error || Duration::from_micros(apart) > error + new.error
    }
}

/// Clones share what is known.
#[derive(Clone, Debug)]
pub struct DatabaseClock {
    own: Clock,
    sample: Arc<Mutex<Option<Sample>>>,
}

impl DatabaseClock {
    /// Reads the replica's own clock until the first sample.
    pub fn new(own: Clock) -> Self {
        Self { own, sample: Arc::default() }
    }

    /// The replica's own clock.
    pub fn own(&self) -> &Clock {
        &self.own
    }

    /// The database said `at` in the answer, which is just here, to what was asked at `sent`.
    pub fn observe(&self, sent: Boottime, at: OffsetDateTime) {
        let error = self.own.boottime().since(sent) / 2;
        let new = Sample { at_us: unix_us(at), moment: sent.plus(error), error };
        let mut sample = self.sample();
        if sample.is_none_or(|old| old.gives_way_to(&new)) {
            *sample = Some(new);
        }
    }

    /// Microseconds since 1970-01-01T00:00:00Z.
    pub fn unix_us(&self) -> i64 {
        let sample = *self.sample();
        sample.map_or_else(|| self.own.unix_us(), |sample| sample.at(self.own.boottime()))
    }

    /// UTC, cut to microseconds.
    pub fn now(&self) -> OffsetDateTime {
        from_unix_us(self.unix_us()).unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }

    /// The database's clock less the replica's wall clock; zero before the first sample.
    pub fn offset(&self) -> time::Duration {
        time::Duration::microseconds(self.unix_us().saturating_sub(self.own.unix_us()))
    }

    fn sample(&self) -> MutexGuard<'_, Option<Sample>> {
        self.sample.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_US: i64 = 3_600_000_000;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// The replica's clock is an hour behind.
    fn clock() -> DatabaseClock {
        DatabaseClock::new(Clock::manual(1_000_000))
    }

    /// An answer after a round trip that took as long as this, by a database whose clock is ahead by `ahead_us`.
    fn answer(clock: &DatabaseClock, round_trip: Duration, ahead_us: i64) {
        let sent = clock.own().boottime();
        clock.own().advance(round_trip / 2);
        let at = from_unix_us(clock.own().unix_us() + ahead_us).unwrap();
        clock.own().advance(round_trip / 2);
        clock.observe(sent, at);
    }

    #[test]
    fn the_own_clock_counts_until_the_database_has_said_its_time() {
        let clock = clock();
        assert_eq!((clock.unix_us(), clock.offset()), (1_000_000, time::Duration::ZERO));
        answer(&clock, ms(10), HOUR_US);
        assert_eq!((clock.unix_us(), clock.offset()), (1_010_000 + HOUR_US, time::Duration::HOUR));
        clock.own().advance(ms(500));
        assert_eq!(clock.now(), from_unix_us(1_510_000 + HOUR_US).unwrap(), "counts on between two answers");
    }

    #[test]
    fn a_slow_answer_does_not_replace_a_quick_one_unless_the_clock_was_set() {
        let clock = clock();
        answer(&clock, ms(2), HOUR_US);
        answer(&clock, ms(400), HOUR_US + 150_000);
        assert_eq!(clock.offset(), time::Duration::HOUR, "within what the slow one may err");
        answer(&clock, ms(400), 5 * HOUR_US);
        assert_eq!(clock.offset(), time::Duration::hours(5), "another clock");
        answer(&clock, ms(2), 5 * HOUR_US + 1_000);
        assert_eq!(clock.offset(), time::Duration::hours(5) + time::Duration::milliseconds(1));
    }

    #[test]
    fn an_old_sample_gives_way_to_one_that_is_a_little_worse() {
        let clock = clock();
        answer(&clock, ms(2), HOUR_US);
        clock.own().advance(ms(100_000));
        answer(&clock, ms(20), HOUR_US + 5_000);
        assert_eq!(clock.offset(), time::Duration::HOUR + time::Duration::milliseconds(5));
    }
}
