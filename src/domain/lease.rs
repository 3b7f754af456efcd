//! Who may do a singleton duty: the nouns, and the state machine of one candidate for one duty. The machine has no
//! clock and no connection: it is told what happened and when, and says what to do next.
//!
//! Invariants (held by the properties below):
//! - **Belief ends by itself**: at the time the last answered campaign or renewal was *sent*, plus ⅔ of the TTL, on
//!   CLOCK_BOOTTIME. An error extends nothing; an answer that arrives after the end extends nothing either.
//! - Only [`Next::Hold`] goes with belief. Every other step says that belief has ended, so whoever acts on a step
//!   may close the session: closing frees the advisory lock, and a follower wins within a second.
//! - Tokens grow: a won campaign whose token is not above every token seen before is not believed.
//! - A lease may be taken as stale on one's own clock only after its row was seen unchanged for a full TTL.
//!
//! Absent on purpose: back-off times and jitter (the caller draws them), and anything about the database's clock.

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

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    Opened,
    OpenFailed,
    /// A campaign sent at `sent` won.
    Won {
        sent: Boottime,
        fence: Fence,
    },
    /// A campaign lost; the row as it was then.
    Lost(Option<Seen>),
    /// A campaign failed or was not answered. `usable`: the session can be used again.
    CampaignFailed {
        usable: bool,
    },
    /// A renewal sent at `sent` was answered with success.
    Renewed {
        sent: Boottime,
    },
    RenewalVoid,
    /// A renewal failed, or was not answered: it extends nothing.
    RenewalFailed,
    Deposed,
    SessionClosed,
    PrimaryChanged,
    Drain,
    /// The lease was given back, or could not be.
    Resigned,
    /// Time has passed.
    Tick,
}

/// How long to wait before a campaign. A ring of the doorbell ends any of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    Not,
    Poll,
    /// With full jitter, after this many failures in a row.
    BackOff(u32),
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Close the session, if there is one, and open one to the primary, after a back-off for this many failures.
    Connect {
        failures: u32,
    },
    Campaign(Wait),
    /// Do the duty; renew at `renew_at`.
    Hold {
        belief: Belief,
        renew_at: Boottime,
    },
    /// Give the lease back.
    Resign(Fence),
    /// Nothing is left to do.
    Stop,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Apart,
    Following,
    Holding { belief: Belief, renew_at: Boottime },
    Resigning,
    Stopped,
}

/// One candidate for one duty.
#[derive(Debug)]
pub struct Machine {
    terms: Terms,
    phase: Phase,
    /// What the last lost campaigns saw, and since when they saw it unchanged.
    observed: Option<(Seen, Boottime)>,
    highest: Option<Token>,
    failures: u32,
    ended: Option<(Belief, BeliefEnd)>,
}

impl Machine {
    pub fn new(terms: Terms) -> Self {
        Self { terms, phase: Phase::Apart, observed: None, highest: None, failures: 0, ended: None }
    }

    /// The first step.
    pub fn start(&self) -> Next {
        Next::Connect { failures: 0 }
    }

    /// What may be relied on at `now`.
    pub fn belief(&self, now: Boottime) -> Option<Belief> {
        match self.phase {
            Phase::Holding { belief, .. } if belief.holds_at(now) => Some(belief),
            _ => None,
        }
    }

    /// The belief that the last step ended, and why.
    pub fn take_ended(&mut self) -> Option<(Belief, BeliefEnd)> {
        self.ended.take()
    }

    /// The row that a campaign sent at `now` may call stale: seen unchanged for a full TTL on one's own clock.
    pub fn stale(&self, now: Boottime) -> Option<Seen> {
        self.observed.and_then(|(seen, since)| (now.since(since) >= self.terms.ttl).then_some(seen))
    }

    /// Takes in what happened at `now`, and says what to do next.
    pub fn step(&mut self, now: Boottime, input: Input) -> Next {
        match self.phase {
            Phase::Stopped => Next::Stop,
            Phase::Resigning => self.stop(),
            Phase::Holding { belief, renew_at } => self.holding(now, input, belief, renew_at),
            Phase::Apart | Phase::Following => self.without(now, input),
        }
    }

    fn holding(&mut self, now: Boottime, input: Input, belief: Belief, renew_at: Boottime) -> Next {
        match input {
            Input::Drain => {
                self.end(belief, BeliefEnd::Drain, Phase::Resigning);
                Next::Resign(belief.fence)
            }
            _ if !belief.holds_at(now) => self.leave(belief, BeliefEnd::TrustEnded),
            Input::Renewed { sent } => {
                self.failures = 0;
                self.hold(
                    Belief { trust_until: belief.trust_until.max(sent.plus(self.terms.trust())), ..belief },
                    sent.plus(self.terms.renew).max(renew_at),
                )
            }
            Input::RenewalFailed => self.hold(belief, now.plus(self.terms.renew / 4)),
            Input::RenewalVoid => {
                self.end(belief, BeliefEnd::RenewalVoid, Phase::Following);
                Next::Campaign(Wait::Not)
            }
            // Somebody else holds the fence: to campaign at once would at best take it back.
            Input::Deposed => {
                self.end(belief, BeliefEnd::Deposed, Phase::Following);
                Next::Campaign(Wait::Poll)
            }
            Input::SessionClosed => self.leave(belief, BeliefEnd::SessionClosed),
            Input::PrimaryChanged => self.leave(belief, BeliefEnd::PrimaryChanged),
            Input::Tick
            | Input::Opened
            | Input::OpenFailed
            | Input::Won { .. }
            | Input::Lost(_)
            | Input::CampaignFailed { .. }
            | Input::Resigned => self.hold(belief, renew_at),
        }
    }

    fn without(&mut self, now: Boottime, input: Input) -> Next {
        match input {
            Input::Won { sent, fence } => self.won(now, sent, fence),
            Input::Lost(seen) => {
                self.observe(now, seen);
                self.failures = 0;
                self.follow(Wait::Poll)
            }
            Input::Opened => self.follow(Wait::Not),
            Input::CampaignFailed { usable: true } => {
                self.failures = self.failures.saturating_add(1);
                self.follow(Wait::BackOff(self.failures))
            }
            Input::CampaignFailed { usable: false } | Input::OpenFailed | Input::SessionClosed => {
                self.failures = self.failures.saturating_add(1);
                self.connect()
            }
            Input::PrimaryChanged => self.connect(),
            Input::Drain => self.stop(),
            Input::Tick
            | Input::Renewed { .. }
            | Input::RenewalVoid
            | Input::RenewalFailed
            | Input::Deposed
            | Input::Resigned => match self.phase {
                Phase::Following => self.follow(Wait::Poll),
                _ => self.connect(),
            },
        }
    }

    fn won(&mut self, now: Boottime, sent: Boottime, fence: Fence) -> Next {
        if self.highest.is_some_and(|highest| fence.token() <= highest) {
            self.failures = self.failures.saturating_add(1);
            return self.connect();
        }
        self.highest = Some(fence.token());
        self.observed = None;
        self.failures = 0;
        let belief = Belief { fence, trust_until: sent.plus(self.terms.trust()) };
        if belief.holds_at(now) {
            self.hold(belief, sent.plus(self.terms.renew))
        } else {
            // The answer came too late to be relied on. The row is mine, so the next campaign wins.
            self.follow(Wait::Not)
        }
    }

    fn observe(&mut self, now: Boottime, seen: Option<Seen>) {
        self.observed = match (seen, self.observed) {
            (Some(seen), Some((before, since))) if seen == before => Some((before, since)),
            (seen, _) => seen.map(|seen| (seen, now)),
        };
    }

    fn hold(&mut self, belief: Belief, renew_at: Boottime) -> Next {
        self.phase = Phase::Holding { belief, renew_at };
        Next::Hold { belief, renew_at }
    }

    fn end(&mut self, belief: Belief, why: BeliefEnd, phase: Phase) {
        self.ended = Some((belief, why));
        self.phase = phase;
    }

    /// Steps down and gives the session up.
    fn leave(&mut self, belief: Belief, why: BeliefEnd) -> Next {
        self.end(belief, why, Phase::Apart);
        self.connect()
    }

    fn follow(&mut self, wait: Wait) -> Next {
        self.phase = Phase::Following;
        Next::Campaign(wait)
    }

    fn connect(&mut self) -> Next {
        self.phase = Phase::Apart;
        Next::Connect { failures: self.failures }
    }

    fn stop(&mut self) -> Next {
        self.phase = Phase::Stopped;
        Next::Stop
    }
}

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
