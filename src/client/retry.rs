//! When a failed call is tried again, where, and after how long. Pure but for the clock.
//!
//! Two brakes, for two dangers. Full jitter spreads the retries of many clients over time; the budget bounds how many
//! there are at all: a service that refuses everything sees a tenth more calls, not six times as many.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use time::OffsetDateTime;

use super::error::ClientError;
use super::settings::RetrySettings;
use crate::domain::random::Random;
use crate::domain::time::{Boottime, Clock};
use crate::wire::problem::Slug;

/// A bucket of retries: calls and time fill it, each retry takes one.
#[derive(Debug)]
pub struct Budget {
    per_call: f64,
    per_second: f64,
    max: f64,
    clock: Clock,
    state: Mutex<(f64, Boottime)>,
}

impl Budget {
    /// Begins full.
    pub fn new(settings: &RetrySettings, clock: Clock) -> Self {
        let state = Mutex::new((settings.budget_max, clock.boottime()));
        Self {
            per_call: settings.budget_per_call,
            per_second: settings.budget_per_second,
            max: settings.budget_max,
            clock,
            state,
        }
    }

    /// A call begins.
    pub fn deposit(&self) {
        self.change(|tokens| (tokens + self.per_call, ()));
    }

    /// May one retry be made? If so, it is counted.
    pub fn withdraw(&self) -> bool {
        self.change(|tokens| if tokens >= 1.0 { (tokens - 1.0, true) } else { (tokens, false) })
    }

    fn change<T>(&self, step: impl FnOnce(f64) -> (f64, T)) -> T {
        let now = self.clock.boottime();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let grown = (state.0 + now.since(state.1).as_secs_f64() * self.per_second).min(self.max);
        let (tokens, result) = step(grown);
        *state = (tokens.min(self.max), now);
        result
    }
}

/// What to do after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    GiveUp,
    /// Another endpoint, at once: this one did not take the request.
    Failover,
    /// Wait at least this long, and jitter on top.
    Wait {
        at_least: Duration,
        elsewhere: bool,
    },
}

/// Judges a failure. `untried`: endpoints that this call has not asked yet.
pub fn next(error: &ClientError, untried: usize, settings: &RetrySettings) -> Next {
    let wait = |elsewhere| Next::Wait { at_least: Duration::ZERO, elsewhere };
    match error {
        ClientError::Refused(refusal) if error.is_retryable() => {
            // A draining replica is no sign of load: the others can be asked at once.
            if refusal.slug == Some(Slug::Draining) && untried > 0 {
                return Next::Failover;
            }
            let at_least = refusal.retry_after.unwrap_or_default().min(settings.retry_after_max);
            // 429 is about this caller, wherever it calls; the others are about that replica.
            Next::Wait { at_least, elsewhere: refusal.status != 429 }
        }
        // Waiting does not make a certificate right, but another replica may have a right one.
        ClientError::Connect { .. } | ClientError::Broken { .. } | ClientError::Untrusted { .. } if untried > 0 => {
            Next::Failover
        }
        ClientError::Connect { .. } | ClientError::Broken { .. } | ClientError::Timeout { .. } => wait(true),
        _ => Next::GiveUp,
    }
}

/// How long to wait before attempt number `attempt` (the first retry is 0).
pub fn pause(at_least: Duration, attempt: u32, settings: &RetrySettings, random: &Random) -> Duration {
    at_least + random.full_jitter(settings.backoff_base, settings.backoff_max, attempt)
}

/// `Retry-After` (RFC 9110, 10.2.3): seconds, or a date in the preferred format.
pub fn retry_after(text: &str, now: OffsetDateTime) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse::<u32>() {
        return Some(Duration::from_secs(seconds.into()));
    }
    let form = time::macros::format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    let at = time::PrimitiveDateTime::parse(text, form).ok()?.assume_utc();
    Some(Duration::try_from(at - now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::error::Refusal;
    use super::super::settings::ClientSettings;
    use super::*;

    fn settings() -> RetrySettings {
        ClientSettings::device().retry
    }

    fn refused(status: u16, slug: Option<Slug>, retry_after_s: u64) -> ClientError {
        let mut refusal = Refusal::read("https://a", status, Some(Duration::from_secs(retry_after_s)), b"");
        refusal.slug = slug;
        ClientError::Refused(Box::new(refusal))
    }

    #[test]
    fn what_is_tried_again_and_where() {
        let s = settings();
        let wait = |seconds, elsewhere| Next::Wait { at_least: Duration::from_secs(seconds), elsewhere };
        let text = || (String::new(), String::new());
        let connect = || ClientError::Connect { endpoint: text().0, cause: text().1 };
        let untrusted = || ClientError::Untrusted { endpoint: text().0, cause: text().1 };
        for (error, untried, expected) in [
            (refused(429, None, 3), 2, wait(3, false)),
            (refused(503, Some(Slug::Overloaded), 3), 2, wait(3, true)),
            (refused(503, Some(Slug::Draining), 3), 2, Next::Failover),
            (refused(503, Some(Slug::Draining), 3), 0, wait(3, true)),
            (refused(503, None, 100_000), 0, Next::Wait { at_least: s.retry_after_max, elsewhere: true }),
            (refused(502, None, 0), 0, wait(0, true)),
            (refused(504, None, 0), 0, wait(0, true)),
            (connect(), 1, Next::Failover),
            (connect(), 0, wait(0, true)),
            (untrusted(), 1, Next::Failover),
            (untrusted(), 0, Next::GiveUp),
        ] {
            assert_eq!(next(&error, untried, &s), expected, "{error} with {untried} untried");
        }
        for status in [400, 401, 403, 404, 408, 409, 412, 413, 415, 422, 431, 500, 501] {
            assert_eq!(next(&refused(status, None, 1), 2, &s), Next::GiveUp, "{status}");
        }
    }

    #[test]
    fn a_service_that_refuses_everything_sees_a_tenth_more() {
        let mut s = settings();
        s.budget_per_second = 0.0;
        let budget = Budget::new(&s, Clock::manual(0));
        while budget.withdraw() {}
        let retries = (0..1000)
            .filter(|_| {
                budget.deposit();
                budget.withdraw()
            })
            .count();
        assert!((95..=100).contains(&retries), "{retries}");
    }

    #[test]
    fn time_earns_retries_but_no_storm() {
        let clock = Clock::manual(0);
        let budget = Budget::new(&settings(), clock.clone());
        let drawn = || std::iter::from_fn(|| budget.withdraw().then_some(())).count();
        assert_eq!(drawn(), 10);
        clock.advance(Duration::from_secs(4));
        assert_eq!(drawn(), 2);
        clock.advance(Duration::from_hours(24));
        assert_eq!(drawn(), 10, "a quiet day does not save up more");
    }

    #[test]
    fn retry_after_in_both_forms() {
        let now = crate::domain::time::parse_rfc3339("1994-11-06T08:49:07Z").unwrap();
        assert_eq!(retry_after(" 120 ", now), Some(Duration::from_mins(2)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:37 GMT", now), Some(Duration::from_secs(30)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:00:00 GMT", now), Some(Duration::ZERO));
        for bad in ["", "-1", "1.5", "soon", "1994-11-06T08:49:37Z"] {
            assert_eq!(retry_after(bad, now), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn a_pause_keeps_its_bounds(at_least_ms in 0_u64..60_000, attempt in 0_u32..100, seed: u64) {
            let s = settings();
            let at_least = Duration::from_millis(at_least_ms);
            let pause = pause(at_least, attempt, &s, &Random::seeded(seed));
            prop_assert!(pause >= at_least && pause <= at_least + s.backoff_max);
        }
    }
}
