//! How fresh is what we believe of the change log? Proved by a write of our own on the connection that reads the log,
//! followed by a read of it, and aged from the moment the write was sent: an old primary that nobody follows answers
//! reads for as long as it likes, but commits nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::domain::time::{Boottime, Clock};

/// A replica whose last proof is older than this is blind.
pub const BLIND_AFTER: Duration = Duration::from_secs(10);

/// Clones share the proof.
#[derive(Clone, Debug)]
pub struct Freshness(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    clock: Clock,
    origin: Boottime,
    /// Microseconds from `origin` to the send time of the last proof, plus one; 0: never proved.
    proved: AtomicU64,
}

impl Freshness {
    /// Nothing proved yet.
    pub fn new(clock: Clock) -> Self {
        let origin = clock.boottime();
        Self(Arc::new(Inner { clock, origin, proved: AtomicU64::new(0) }))
    }

    /// Is the last proof younger than [`BLIND_AFTER`]?
    pub fn is_fresh(&self) -> bool {
        self.0.proved.load(Ordering::SeqCst) != 0 && self.blind_for() < BLIND_AFTER
    }

    /// Time since the last proof was sent; since the start, if there is none.
    pub fn blind_for(&self) -> Duration {
        let proved = Duration::from_micros(self.0.proved.load(Ordering::SeqCst).saturating_sub(1));
        self.0.clock.boottime().since(self.0.origin.plus(proved))
    }

    /// A tick that was sent at `sent` has come back, and the log was read and applied after it.
    pub fn prove(&self, sent: Boottime) {
        let micros = u64::try_from(sent.since(self.0.origin).as_micros()).unwrap_or(u64::MAX - 1);
        self.0.proved.fetch_max(micros + 1, Ordering::SeqCst);
    }

    /// What was proved is worth nothing: another timeline.
    pub fn forget(&self) {
        self.0.proved.store(0, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_ages_from_its_send_time() {
        let clock = Clock::manual(5_000_000);
        let fresh = Freshness::new(clock.clone());
        assert!(!fresh.is_fresh(), "nothing is proved at the start");
        let sent = clock.boottime();
        clock.advance(Duration::from_secs(4));
        fresh.prove(sent);
        assert_eq!(fresh.blind_for(), Duration::from_secs(4));
        assert!(fresh.is_fresh());
        clock.advance(Duration::from_secs(6));
        assert!(!fresh.is_fresh());
        fresh.prove(clock.boottime());
        fresh.prove(sent);
        assert!(fresh.is_fresh(), "an older proof takes nothing away");
        fresh.forget();
        assert!(!fresh.is_fresh());
    }
}
