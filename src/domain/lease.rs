//! Who may do a singleton duty: the nouns. What a candidate does and may believe is in [`super::candidacy`].

use std::time::Duration;

use time::OffsetDateTime;
use uuid::Uuid;

use super::time::Boottime;

/// Work that one replica at a time does for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Duty {
    /// Turns silent devices suspect and offline.
    Sweeper,
    /// Makes and drops the partitions of readings, and trims what has a retention.
    Partitions,
}

impl Duty {
    pub const ALL: [Self; 2] = [Self::Sweeper, Self::Partitions];

    /// The `role` of its row in `leader_lease` and `leader_epoch`, and the metrics' label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sweeper => "sweeper",
            Self::Partitions => "partitions",
        }
    }
}

/// Orders leaders of one duty: the timeline first, since epochs that a failover lost may be drawn again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token {
    pub timeline: i32,
    pub epoch: i64,
}

/// What every effect of a duty carries in its own statement, to be compared with `leader_epoch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fence {
    pub role: &'static str,
    pub epoch: i64,
    pub timeline: i32,
}

impl Fence {
    pub fn token(&self) -> Token {
        Token { timeline: self.timeline, epoch: self.epoch }
    }
}

/// The part of a lease's row that changes with every campaign and renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub holder: Option<Uuid>,
    pub epoch: i64,
    pub renewed_at: OffsetDateTime,
}

/// The right to act, as far as its holder knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Belief {
    pub fence: Fence,
    /// At this moment it is over, whatever the lease's row says.
    pub trust_until: Boottime,
}

impl Belief {
    pub fn holds_at(&self, now: Boottime) -> bool {
        now < self.trust_until
    }
}

/// How long a lease lasts and when it is renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    pub ttl: Duration,
    pub renew: Duration,
}

impl Terms {
    /// How long after sending a campaign or a renewal its success may be relied on.
    pub fn trust(&self) -> Duration {
        self.ttl * 2 / 3
    }
}

/// Why belief ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BeliefEnd {
    /// No renewal was answered in time.
    TrustEnded,
    /// A renewal matched no row.
    RenewalVoid,
    /// An effect found another fence.
    Deposed,
    /// The lease session ended.
    SessionClosed,
    /// Another node, timeline or start of the primary.
    PrimaryChanged,
    Drain,
    Abort,
}

impl BeliefEnd {
    pub const ALL: [Self; 7] = [
        Self::TrustEnded,
        Self::RenewalVoid,
        Self::Deposed,
        Self::SessionClosed,
        Self::PrimaryChanged,
        Self::Drain,
        Self::Abort,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::TrustEnded => "trust_ended",
            Self::RenewalVoid => "renewal_void",
            Self::Deposed => "deposed",
            Self::SessionClosed => "session_closed",
            Self::PrimaryChanged => "primary_changed",
            Self::Drain => "drain",
            Self::Abort => "abort",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timeline_comes_before_the_epoch() {
        let token = |epoch, timeline| Fence { role: "sweeper", epoch, timeline }.token();
        assert!(token(1, 2) > token(9, 1));
        assert!(token(2, 1) > token(1, 1));
    }
}
