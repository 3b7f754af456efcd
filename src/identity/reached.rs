//! How far the change log was applied, for whoever checks this replica from outside.

use std::fmt;
use std::sync::{Mutex, PoisonError};

/// On this timeline, every change by a transaction with a lower id than `xmin` is in force. The default, `0:0`: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    pub timeline: i32,
    pub xmin: u64,
}

/// `<timeline>:<xmin>`
impl fmt::Display for Reached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.timeline, self.xmin)
    }
}

/// Both numbers at once: one timeline's transaction says nothing on another.
#[derive(Debug, Default)]
pub(super) struct Mark(Mutex<Reached>);

impl Mark {
    pub(super) fn get(&self) -> Reached {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set(&self, reached: Reached) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = reached;
    }
}
