//! What we believe of a device, and why.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The belief. Stored as the small integer in [`State::code`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    NeverSeen,
    Online,
    Suspect,
    Offline,
}

impl State {
    pub const ALL: [Self; 4] = [Self::NeverSeen, Self::Online, Self::Suspect, Self::Offline];

    pub fn code(self) -> i16 {
        self as i16
    }

    pub fn from_code(code: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.code() == code)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::NeverSeen => "never_seen",
            Self::Online => "online",
            Self::Suspect => "suspect",
            Self::Offline => "offline",
        }
    }
}

/// Why the belief is what it is. Stored as the small integer in [`Cause::code`]; the list only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Enrolled, never heard of since.
    Enrolled,
    /// A contact arrived.
    Contact,
    /// Nothing arrived for the time that the promise allows.
    Silence,
    /// The device said goodbye.
    Goodbye,
}

impl Cause {
    pub const ALL: [Self; 4] = [Self::Enrolled, Self::Contact, Self::Silence, Self::Goodbye];

    pub fn code(self) -> i16 {
        self as i16
    }

    pub fn from_code(code: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| cause.code() == code)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enrolled => "enrolled",
            Self::Contact => "contact",
            Self::Silence => "silence",
            Self::Goodbye => "goodbye",
        }
    }
}

/// What a device says of itself in a heartbeat. Evidence for people: nothing is judged by it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// Its own counter, which resets at reboot.
    pub seq: Option<i64>,
    /// At most 256 characters, without NUL; an empty one takes the last one back.
    pub status: Option<Arc<str>>,
}

impl Said {
    /// What is known once both were heard, `self` before `later`.
    #[must_use]
    pub fn then(self, later: Self) -> Self {
        Self { seq: later.seq.or(self.seq), status: later.status.or(self.status) }
    }
}

/// How long after the last contact a belief changes, for a promised interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    pub suspect: Duration,
    pub offline: Duration,
}

impl Deadlines {
    /// `suspect` at 1.5 × the promised interval, `offline` at 3.3 × + 10 s. In whole milliseconds, so that the
    /// database, which applies the same formula, comes to the same result.
    pub fn of(promise: Duration) -> Self {
        let promise_ms = u64::try_from(promise.as_millis()).unwrap_or(u64::MAX / 64);
        Self {
            suspect: Duration::from_millis(promise_ms.saturating_mul(15) / 10),
            offline: Duration::from_millis((promise_ms.saturating_mul(33) / 10).saturating_add(10_000)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_positions_and_never_move() {
        assert_eq!(State::ALL.map(State::code), [0, 1, 2, 3]);
        assert_eq!(State::ALL.map(State::as_str), ["never_seen", "online", "suspect", "offline"]);
        assert_eq!(Cause::ALL.map(Cause::code), [0, 1, 2, 3]);
        assert_eq!(State::from_code(4), None);
    }

    #[test]
    fn the_formula() {
        let d = Deadlines::of(Duration::from_secs(30));
        assert_eq!((d.suspect, d.offline), (Duration::from_secs(45), Duration::from_secs(109)));
    }
}
