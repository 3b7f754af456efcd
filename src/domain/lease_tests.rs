//! The lease machine: a model of what it may believe, run against any order of events.

use proptest::prelude::*;

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
fn the_timeline_comes_before_the_epoch() {
    assert!(fence(1, 2).token() > fence(9, 1).token());
    assert!(fence(2, 1).token() > fence(1, 1).token());
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
