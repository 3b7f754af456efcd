//! The state machine of one candidate for one duty. It has no clock and no connection: it is told what happened and
//! when, and says what to do next.
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

use super::lease::{Belief, BeliefEnd, Fence, Seen, Terms, Token};
use super::time::Boottime;

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
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use time::OffsetDateTime;
    use uuid::Uuid;

    use super::*;
    use crate::domain::time::Clock;

    const TERMS: Terms = Terms { ttl: Duration::from_secs(9), renew: Duration::from_secs(2) };
    const MS: Duration = Duration::from_millis(1);

    fn fence(epoch: i64, timeline: i32) -> Fence {
        Fence { role: "sweeper", epoch, timeline }
    }

    fn seen(epoch: i64) -> Seen {
        Seen { holder: Some(Uuid::nil()), epoch, renewed_at: OffsetDateTime::UNIX_EPOCH }
    }

    /// A machine that won with epoch 1, by a campaign sent at the clock's present.
    fn holder() -> (Machine, Clock) {
        let clock = Clock::manual(1_000_000_000);
        let mut machine = Machine::new(TERMS);
        assert_eq!(machine.start(), Next::Connect { failures: 0 });
        assert_eq!(machine.step(clock.boottime(), Input::Opened), Next::Campaign(Wait::Not));
        let won = Input::Won { sent: clock.boottime(), fence: fence(1, 1) };
        assert!(matches!(machine.step(clock.boottime(), won), Next::Hold { .. }));
        (machine, clock)
    }

    #[test]
    fn trust_ends_two_thirds_of_a_ttl_after_the_last_answered_send() {
        let (mut machine, clock) = holder();
        let sent = clock.boottime();
        clock.advance(Duration::from_millis(5_999));
        assert!(machine.belief(clock.boottime()).is_some());
        clock.advance(MS);
        assert_eq!(machine.belief(clock.boottime()), None, "also before anybody has told the machine");
        let late = machine.step(clock.boottime(), Input::Renewed { sent: sent.plus(Duration::from_secs(2)) });
        assert_eq!(late, Next::Connect { failures: 0 }, "an answer after the end extends nothing");
        assert!(matches!(machine.take_ended(), Some((_, BeliefEnd::TrustEnded))));
    }

    #[test]
    fn a_renewal_counts_from_its_sending_and_an_error_extends_nothing() {
        let (mut machine, clock) = holder();
        let won = clock.boottime();
        clock.advance(Duration::from_secs(2));
        let sent = clock.boottime();
        clock.advance(Duration::from_secs(1));
        let Next::Hold { belief, renew_at } = machine.step(clock.boottime(), Input::RenewalFailed) else { panic!() };
        assert_eq!(belief.trust_until, won.plus(TERMS.trust()));
        assert_eq!(renew_at, clock.boottime().plus(TERMS.renew / 4));
        let Next::Hold { belief, .. } = machine.step(clock.boottime(), Input::Renewed { sent }) else { panic!() };
        assert_eq!(belief.trust_until, sent.plus(TERMS.trust()));
    }

    #[test]
    fn what_ends_belief_and_what_comes_then() {
        let table = [
            (Input::RenewalVoid, BeliefEnd::RenewalVoid, Next::Campaign(Wait::Not)),
            (Input::Deposed, BeliefEnd::Deposed, Next::Campaign(Wait::Poll)),
            (Input::SessionClosed, BeliefEnd::SessionClosed, Next::Connect { failures: 0 }),
            (Input::PrimaryChanged, BeliefEnd::PrimaryChanged, Next::Connect { failures: 0 }),
            (Input::Drain, BeliefEnd::Drain, Next::Resign(fence(1, 1))),
        ];
        for (input, why, next) in table {
            let (mut machine, clock) = holder();
            assert_eq!(machine.step(clock.boottime(), input), next, "{input:?}");
            assert_eq!(machine.belief(clock.boottime()), None, "{input:?}");
            assert_eq!(machine.take_ended().map(|(_, why)| why), Some(why));
        }
    }

    #[test]
    fn a_drain_resigns_once_and_nothing_follows() {
        let (mut machine, clock) = holder();
        assert_eq!(machine.step(clock.boottime(), Input::Drain), Next::Resign(fence(1, 1)));
        assert_eq!(machine.step(clock.boottime(), Input::Resigned), Next::Stop);
        assert_eq!(machine.step(clock.boottime(), Input::Opened), Next::Stop);
        let mut follower = Machine::new(TERMS);
        follower.step(clock.boottime(), Input::Opened);
        assert_eq!(follower.step(clock.boottime(), Input::Drain), Next::Stop);
    }

    #[test]
    fn a_win_that_is_answered_too_late_is_campaigned_for_again() {
        let clock = Clock::manual(0);
        let mut machine = Machine::new(TERMS);
        machine.step(clock.boottime(), Input::Opened);
        let sent = clock.boottime();
        clock.advance(TERMS.trust());
        let late = machine.step(clock.boottime(), Input::Won { sent, fence: fence(4, 1) });
        assert_eq!(late, Next::Campaign(Wait::Not));
        assert_eq!(machine.belief(clock.boottime()), None);
    }

    #[test]
    fn stale_only_after_a_full_ttl_without_a_change() {
        let clock = Clock::manual(0);
        let mut machine = Machine::new(TERMS);
        machine.step(clock.boottime(), Input::Opened);
        machine.step(clock.boottime(), Input::Lost(Some(seen(1))));
        clock.advance(Duration::from_millis(8_999));
        machine.step(clock.boottime(), Input::Lost(Some(seen(1))));
        assert_eq!(machine.stale(clock.boottime()), None);
        clock.advance(MS);
        assert_eq!(machine.stale(clock.boottime()), Some(seen(1)));
        machine.step(clock.boottime(), Input::Lost(Some(seen(2))));
        assert_eq!(machine.stale(clock.boottime()), None, "another row begins another TTL");
        machine.step(clock.boottime(), Input::SessionClosed);
        clock.advance(TERMS.ttl);
        assert_eq!(machine.stale(clock.boottime()), Some(seen(2)), "a new session changes nothing about the row");
    }

    #[test]
    fn failures_in_a_row_are_counted_and_forgotten() {
        let clock = Clock::manual(0);
        let mut machine = Machine::new(TERMS);
        assert_eq!(machine.step(clock.boottime(), Input::OpenFailed), Next::Connect { failures: 1 });
        machine.step(clock.boottime(), Input::Opened);
        let failed = machine.step(clock.boottime(), Input::CampaignFailed { usable: true });
        assert_eq!(failed, Next::Campaign(Wait::BackOff(2)));
        assert_eq!(machine.step(clock.boottime(), Input::Lost(None)), Next::Campaign(Wait::Poll));
        assert_eq!(machine.step(clock.boottime(), Input::SessionClosed), Next::Connect { failures: 1 });
    }

    fn inputs() -> impl Strategy<Value = (u64, u64, Happening)> {
        let happening = prop_oneof![
            4 => Just(Happening::Win),
            1 => Just(Happening::WinAgain),
            6 => Just(Happening::Renewed),
            2 => (0_i64..3).prop_map(Happening::Lost),
            1 => Just(Happening::Plain(Input::Opened)),
            1 => Just(Happening::Plain(Input::OpenFailed)),
            1 => Just(Happening::Plain(Input::CampaignFailed { usable: true })),
            1 => Just(Happening::Plain(Input::CampaignFailed { usable: false })),
            2 => Just(Happening::Plain(Input::RenewalFailed)),
            1 => Just(Happening::Plain(Input::RenewalVoid)),
            1 => Just(Happening::Plain(Input::Deposed)),
            1 => Just(Happening::Plain(Input::SessionClosed)),
            1 => Just(Happening::Plain(Input::PrimaryChanged)),
            1 => Just(Happening::Plain(Input::Tick)),
        ];
        (0_u64..4_000, 0_u64..4_000, happening)
    }

    #[derive(Clone, Debug)]
    enum Happening {
        Win,
        /// A campaign that claims a token that was seen before.
        WinAgain,
        Renewed,
        Lost(i64),
        Plain(Input),
    }

    proptest! {
        #[test]
        fn any_order_of_events_keeps_the_invariants(events in prop::collection::vec(inputs(), 1..80)) {
            let clock = Clock::manual(1_000_000_000);
            let mut machine = Machine::new(TERMS);
            let mut epoch = 0;
            let mut last_send = None;   // of the last success that was answered while it could be relied on
            let mut believed: Option<Fence> = None;
            let mut rows: Vec<(Boottime, Option<Seen>)> = Vec::new();
            for (before_send, in_flight, happening) in events {
                clock.advance(MS * u32::try_from(before_send).unwrap());
                let sent = clock.boottime();
                clock.advance(MS * u32::try_from(in_flight).unwrap());
                let now = clock.boottime();
                let held = machine.belief(now);
                let input = match happening {
                    Happening::Win => { epoch += 1; Input::Won { sent, fence: fence(epoch, 1) } }
                    Happening::WinAgain => Input::Won { sent, fence: fence(epoch, 1) },
                    Happening::Renewed => Input::Renewed { sent },
                    Happening::Lost(n) => Input::Lost(Some(seen(n))),
                    Happening::Plain(input) => input,
                };
                let next = machine.step(now, input);
                let ended = machine.take_ended();
                let belief = machine.belief(now);
                prop_assert_eq!(matches!(next, Next::Hold { .. }), belief.is_some(), "Hold goes with belief, only");
                match (held, input) {
                    (None, Input::Won { .. }) | (Some(_), Input::Renewed { .. }) if belief.is_some() => {
                        last_send = Some(sent);
                    }
                    (None, Input::Lost(row)) if ended.is_none() => rows.push((now, row)),
                    (Some(_), Input::RenewalVoid | Input::Deposed | Input::SessionClosed | Input::PrimaryChanged) => {
                        prop_assert!(belief.is_none(), "{:?} ends belief", input);
                    }
                    _ => {}
                }
                if let Some(belief) = belief {
                    let end = last_send.unwrap().plus(TERMS.trust());
                    prop_assert!(belief.trust_until <= end, "believes past the last answered send + ⅔ TTL");
                    prop_assert!(now < end);
                    prop_assert!(machine.belief(end).is_none());
                    if believed != Some(belief.fence) {
                        prop_assert!(believed.is_none_or(|old| old.token() < belief.fence.token()), "tokens grow");
                        believed = Some(belief.fence);
                        rows.clear();
                    }
                }
                if let Some(stale) = machine.stale(now) {
                    let unchanged = rows.iter().rev().take_while(|(_, row)| *row == Some(stale)).last();
                    prop_assert!(unchanged.is_some_and(|(since, _)| now.since(*since) >= TERMS.ttl));
                }
            }
            let _ = machine.step(clock.boottime(), Input::Drain);
            prop_assert_eq!(machine.belief(clock.boottime()), None);
            let _ = machine.step(clock.boottime(), Input::Resigned);
            prop_assert_eq!(machine.step(clock.boottime(), Input::Opened), Next::Stop);
        }
    }
}
