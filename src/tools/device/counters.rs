//! What a simulated fleet has done so far, for a display.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts that only grow, but `online`.
#[derive(Debug, Default)]
pub struct Counters {
    online: AtomicU64,
    enrolled: AtomicU64,
    heartbeats: AtomicU64,
    readings: AtomicU64,
    errors: AtomicU64,
}

/// The counts of one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Devices whose last heartbeat was answered.
    pub online: u64,
    /// Devices that have an identity.
    pub enrolled: u64,
    /// Heartbeats answered.
    pub heartbeats: u64,
    /// Readings acknowledged: stored, or stored before.
    pub readings: u64,
    /// Calls that failed after their retries, and readings refused or dropped.
    pub errors: u64,
}

impl Counters {
    pub fn snapshot(&self) -> Snapshot {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Snapshot {
            online: read(&self.online),
            enrolled: read(&self.enrolled),
            heartbeats: read(&self.heartbeats),
            readings: read(&self.readings),
            errors: read(&self.errors),
        }
    }

    pub(super) fn online(&self, is: bool) {
        if is {
            self.online.fetch_add(1, Ordering::Relaxed);
        } else {
            self.online.fetch_sub(1, Ordering::Relaxed);
        }
    }

    pub(super) fn enrolled(&self) {
        self.enrolled.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn heartbeat(&self) {
        self.heartbeats.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn readings(&self, count: u64) {
        self.readings.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn errors(&self, count: u64) {
        self.errors.fetch_add(count, Ordering::Relaxed);
    }
}
