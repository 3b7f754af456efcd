//! Should this replica get traffic? Each part answers for itself; all must say yes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The parts that can hold traffic back. `/readyz?verbose` prints one line for each; none names a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// The primary answers.
    Database,
    /// The schema is the one this binary was built for.
    Schema,
    /// The change log has been read within its bound, so that caches may be trusted.
    ChangeLog,
    /// This replica holds every key that the database calls active, and can sign what it is asked for.
    Keys,
    /// Heartbeats acknowledged from memory reach the database within their bound.
    Flush,
    /// The listeners accept and the process is not draining.
    Accepting,
}

impl Check {
    pub const ALL: [Self; 6] =
        [Self::Database, Self::Schema, Self::ChangeLog, Self::Keys, Self::Flush, Self::Accepting];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Database => "database",
            Self::Schema => "schema",
            Self::ChangeLog => "change_log",
            Self::Keys => "keys",
            Self::Flush => "flush",
            Self::Accepting => "accepting",
        }
    }
}

/// Clones share the state. Every check starts as not passed.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    checks: [AtomicBool; Check::ALL.len()],
    degraded: AtomicBool,
}

impl Readiness {
    pub fn set(&self, check: Check, passed: bool) {
        if self.0.checks[check as usize].swap(passed, Ordering::SeqCst) != passed {
            tracing::info!(check = check.as_str(), passed, "readiness changed");
        }
    }

    pub fn get(&self, check: Check) -> bool {
        self.0.checks[check as usize].load(Ordering::SeqCst)
    }

    /// Is there no synchronous standby where there ought to be one? Said by `/readyz?verbose`, and keeps no traffic
    /// out: heartbeats and reads do not need one, and every replica is in the same case.
    pub fn set_degraded(&self, degraded: bool) {
        self.0.degraded.store(degraded, Ordering::SeqCst);
    }

    pub fn is_degraded(&self) -> bool {
        self.0.degraded.load(Ordering::SeqCst)
    }

    pub fn is_ready(&self) -> bool {
        Check::ALL.into_iter().all(|check| self.get(check))
    }
}
