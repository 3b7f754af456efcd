//! The blind rule: heartbeats may be acknowledged from memory only while what was acknowledged reaches the database.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::domain::time::{Boottime, Clock};

pub(super) struct Health {
    clock: Clock,
    blind_max: Duration,
    state: Mutex<State>,
}

struct State {
    /// Everything acknowledged before this moment is in the database. `None`: nothing was flushed yet.
    flushed_through: Option<Boottime>,
    started: Boottime,
    /// Heartbeats were refused since, and no flush has recorded it yet.
    refused_since: Option<Boottime>,
    /// The flusher has ended: nothing may be acknowledged any more.
    closed: bool,
}

impl Health {
    pub(super) fn new(clock: Clock, blind_max: Duration) -> Self {
        let started = clock.boottime();
        let state = State { flushed_through: None, started, refused_since: None, closed: false };
        Self { clock, blind_max, state: Mutex::new(state) }
    }

    /// May a heartbeat be acknowledged whose fleet allows `limit` without a flush? Otherwise: blind for how long.
    pub(super) fn check(&self, limit: Duration) -> Result<(), Duration> {
        let age = self.age();
        let state = self.state();
        if state.closed || state.flushed_through.is_none() || age > limit { Err(age) } else { Ok(()) }
    }

    pub(super) fn is_blind(&self) -> bool {
        self.check(self.blind_max).is_err()
    }

    /// A third of the time before it is blind.
    pub(super) fn is_nearly_blind(&self) -> bool {
        self.check(self.blind_max * 2 / 3).is_err()
    }

    /// Since when the database is known to have everything.
    pub(super) fn age(&self) -> Duration {
        let state = self.state();
        self.clock.boottime().since(state.flushed_through.unwrap_or(state.started))
    }

    /// A flush that was begun at `through` has taken everything.
    pub(super) fn flushed(&self, through: Boottime) {
        let mut state = self.state();
        state.flushed_through = state.flushed_through.max(Some(through));
    }

    /// A heartbeat was refused.
    pub(super) fn refused(&self) {
        let now = self.clock.boottime();
        let mut state = self.state();
        state.refused_since = state.refused_since.or(Some(now));
    }

    /// What the next flush has to record; [`Health::still_refused`] gives it back if that fails.
    pub(super) fn take_refused(&self) -> Option<Boottime> {
        self.state().refused_since.take()
    }

    pub(super) fn still_refused(&self, since: Option<Boottime>) {
        let mut state = self.state();
        state.refused_since = match (state.refused_since, since) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }

    pub(super) fn close(&self) {
        self.state().closed = true;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Duration = Duration::from_secs(10);

    #[test]
    fn blind_without_flushes_and_well_again_by_itself() {
        let clock = Clock::manual(0);
        let health = Health::new(clock.clone(), MAX);
        assert!(health.is_blind(), "nothing is proved before the first flush");
        health.flushed(clock.boottime());
        assert!(!health.is_blind());
        clock.advance(Duration::from_secs(2));
        assert_eq!(health.check(Duration::from_secs(1)), Err(Duration::from_secs(2)), "a fleet of 1 s is blind first");
        assert_eq!(health.check(MAX), Ok(()));
        clock.advance(Duration::from_secs(8));
        assert!(!health.is_blind(), "ten seconds are allowed");
        clock.advance(Duration::from_millis(1));
        assert!(health.is_blind());
        health.flushed(clock.boottime());
        assert_eq!(health.check(Duration::from_secs(1)), Ok(()));
        health.close();
        assert!(health.is_blind());
    }

    #[test]
    fn a_flush_that_ends_late_proves_only_its_beginning() {
        let clock = Clock::manual(0);
        let health = Health::new(clock.clone(), MAX);
        let begun = clock.boottime();
        clock.advance(Duration::from_secs(11));
        health.flushed(begun);
        assert!(health.is_blind());
    }

    #[test]
    fn refusals_are_kept_until_they_are_recorded() {
        let clock = Clock::manual(0);
        let health = Health::new(clock.clone(), MAX);
        let first = clock.boottime();
        health.refused();
        clock.advance(MAX);
        health.refused();
        let taken = health.take_refused();
        assert_eq!(taken, Some(first));
        health.refused();
        health.still_refused(taken);
        assert_eq!(health.take_refused(), Some(first));
        assert_eq!(health.take_refused(), None);
    }
}
