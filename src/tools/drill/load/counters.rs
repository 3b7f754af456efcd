//! What the load did so far, for people who watch, and for a runner that waits for writes to be possible again.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

use crate::tools::drill::evidence::{Attempt, Call, Outcome};

/// Counts since the load began. Two of them, a second apart, give rates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Live {
    /// Requests that succeeded.
    pub acknowledged: u64,
    /// Readings that were acknowledged, those that were sent again included.
    pub readings: u64,
    pub refused: u64,
    /// Refusals to devices whose right to call operators take: they are meant to be.
    pub denied: u64,
    pub unknown: u64,
    pub not_sent: u64,
    /// Requests without an answer at this moment.
    pub in_flight: u64,
    /// Devices that were killed.
    pub silenced: u64,
}

impl Live {
    /// Attempts that should have been a success and were none.
    pub fn errors(&self) -> u64 {
        self.refused + self.unknown + self.not_sent
    }
}

#[derive(Debug)]
pub(super) struct Counters {
    acknowledged: AtomicU64,
    readings: AtomicU64,
    refused: AtomicU64,
    denied: AtomicU64,
    unknown: AtomicU64,
    not_sent: AtomicU64,
    in_flight: AtomicU64,
    pub silenced: AtomicU64,
    /// When the newest request was sent by which a reading was stored.
    stored: watch::Sender<u64>,
}

/// A request under way; counted until it is dropped.
pub(super) struct Flight<'c>(&'c AtomicU64);

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Counters {
    pub fn new() -> Self {
        let zero = AtomicU64::default;
        Self {
            acknowledged: zero(),
            readings: zero(),
            refused: zero(),
            denied: zero(),
            unknown: zero(),
            not_sent: zero(),
            in_flight: zero(),
            silenced: zero(),
            stored: watch::channel(0).0,
        }
    }

    pub fn flight(&self) -> Flight<'_> {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Flight(&self.in_flight)
    }

    pub fn count(&self, attempt: &Attempt, victim: bool) {
        let counter = match &attempt.outcome {
            Outcome::Acknowledged { stored, duplicates, .. } => {
                if matches!(attempt.call, Call::Readings { .. }) {
                    self.readings.fetch_add(stored + duplicates, Ordering::Relaxed);
                }
                // An answer that is all duplicates may follow an earlier commit.
                if *stored > 0 {
                    self.stored.send_if_modified(|newest| {
                        let newer = attempt.sent_us > *newest;
                        *newest = attempt.sent_us.max(*newest);
                        newer
                    });
                }
                &self.acknowledged
            }
            // Without a right to call there is no token, so what needs one is not even sent.
            Outcome::Refused { status: 401 | 403, .. } | Outcome::NotSent { .. } if victim => &self.denied,
            Outcome::Refused { .. } => &self.refused,
            Outcome::Unknown { .. } => &self.unknown,
            Outcome::NotSent { .. } => &self.not_sent,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub fn live(&self) -> Live {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Live {
            acknowledged: read(&self.acknowledged),
            readings: read(&self.readings),
            refused: read(&self.refused),
            denied: read(&self.denied),
            unknown: read(&self.unknown),
            not_sent: read(&self.not_sent),
            in_flight: read(&self.in_flight),
            silenced: read(&self.silenced),
        }
    }

    pub fn stored(&self) -> watch::Receiver<u64> {
        self.stored.subscribe()
    }
}
