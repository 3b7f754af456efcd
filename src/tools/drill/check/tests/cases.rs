//! What is allowed, and where it ends.

use super::history::{
    END, FAULT, SECOND, SILENCED_AT, START, absence, device, event, replica, silent, suspended, unix, valid,
};
use super::plants::{DEVICES, add};
use super::{breaches, verdict};
use crate::tools::drill::check::effects::WAKE_MARGIN_US;
use crate::tools::drill::evidence::{
    AloneSpan, Attempt, BlindSpan, Call, ClockStep, Effect, Evidence, Item, Mark, MarkKind, OutageSpan, Outcome,
    StoredReading,
};
use crate::tools::drill::stalls::{Stall, Stalls};
use crate::tools::drill::verdict::Invariant;

fn run() -> Evidence {
    valid(5, DEVICES)
}

fn held(evidence: &Evidence, invariant: Invariant) -> bool {
    verdict(evidence, invariant).held
}

/// Replica 1 was paused and not killed: its belief goes on over replica 2's, until it wakes and stops.
fn paused_over(end_after_wake: u64) -> Evidence {
    let mut evidence = run();
    let wakes = FAULT + 15 * SECOND;
    evidence.absences = vec![absence(replica(1), FAULT, wakes, true)];
    evidence.beliefs[0].ended_us = Some(wakes + end_after_wake);
    evidence
}

#[test]
fn beliefs_overlap_within_a_pause_only() {
    let excused = verdict(&paused_over(WAKE_MARGIN_US), Invariant::OneBelief);
    assert!(excused.held && excused.notes[0].contains("1 overlaps"), "{excused:?}");
    assert!(!held(&paused_over(WAKE_MARGIN_US + 1), Invariant::OneBelief));
    let mut late = paused_over(0);
    late.absences[0].from_us = late.beliefs[1].began_us + 1;
    assert!(!held(&late, Invariant::OneBelief), "it was paused only after the other had begun");
    let mut never_ends = run();
    never_ends.absences.clear();
    assert!(!held(&never_ends, Invariant::OneBelief), "nothing bounds the belief of the first");
    let mut other = run();
    other.absences[0].replica = replica(3);
    assert!(!held(&other, Invariant::OneBelief), "another's absence bounds nothing");
}

#[test]
fn a_newer_belief_of_the_same_replica_ends_the_older() {
    let mut evidence = run();
    evidence.absences.clear();
    let mut again = evidence.beliefs[0].clone();
    (again.epoch, again.began_us, again.ended_us) = (9, FAULT - SECOND, Some(FAULT));
    evidence.beliefs.push(again);
    assert!(held(&evidence, Invariant::OneBelief));
}

#[test]
fn effects_are_ordered_over_timelines_and_silent_leaders() {
    let effect = |timeline, epoch, seq| Effect { role: "sweeper".to_owned(), timeline, epoch, seq };
    let mut evidence = run();
    evidence.database.effects = vec![effect(1, 9, 10), effect(2, 3, 11), effect(2, 3, 12), effect(3, 1, 13)];
    assert!(held(&evidence, Invariant::EffectsOrdered));
    evidence.database.effects.push(effect(1, 9, 14));
    let verdict = verdict(&evidence, Invariant::EffectsOrdered);
    assert_eq!(verdict.breaches_total, 2, "late against both that came after: {:?}", verdict.breaches);
    evidence.database.effects = vec![effect(1, 1, 5), effect(1, 2, 5)];
    assert!(!held(&evidence, Invariant::EffectsOrdered), "one number, two leaders");
    evidence.database.effects[1].role = "partitions".to_owned();
    assert!(held(&evidence, Invariant::EffectsOrdered), "duties have nothing to do with each other");
}

/// `device(0)` makes no request after this moment, and is called offline at that one.
fn silent_since(last_us: u64, offline_us: u64) -> Evidence {
    let mut evidence = run();
    evidence.attempts.retain(|attempt| attempt.device != Some(device(0)) || attempt.sent_us < last_us);
    add(&mut evidence, Some(device(0)), Call::Heartbeat, last_us);
    evidence.database.presence.push(event(device(0), offline_us, "device.offline", "silence"));
    evidence
}

#[test]
fn offline_is_false_up_to_the_deadline_and_true_from_there() {
    let last = START + 40 * SECOND;
    // The fleet's promise is 2 s; the device may have been told at most a tenth more, so at least 15.4 s are its own.
    assert!(!held(&silent_since(last, last + 15 * SECOND), Invariant::NoFalseOffline));
    assert!(held(&silent_since(last, last + 17 * SECOND), Invariant::NoFalseOffline));
    for failure in [
        Outcome::NotSent { error: "refused".to_owned() },
        Outcome::Unknown { error: "closed".to_owned() },
        Outcome::Refused { status: 503, problem: None, detail: None },
    ] {
        let mut tried = silent_since(last, last + 17 * SECOND);
        add(&mut tried, Some(device(0)), Call::Heartbeat, last + 10 * SECOND);
        tried.attempts.last_mut().unwrap().outcome = failure;
        assert!(!held(&tried, Invariant::NoFalseOffline), "it tried, it was us");
    }
}

#[test]
fn who_said_goodbye_is_offline_at_once() {
    let at = START + 40 * SECOND;
    let mut evidence = silent_since(at, at + SECOND);
    add(&mut evidence, Some(device(0)), Call::Goodbye, at + SECOND / 2);
    evidence.attempts.last_mut().unwrap().outcome = Outcome::Unknown { error: "lost".to_owned() };
    evidence.database.presence.last_mut().unwrap().cause = Some("goodbye".to_owned());
    assert_eq!(breaches(&evidence).iter().filter(|breach| breach.contains("offline")).count(), 0);
    evidence.database.presence.last_mut().unwrap().at_unix_us = unix(at + SECOND / 4);
    assert!(!held(&evidence, Invariant::NoFalseOffline), "before it said so");
}

#[test]
fn an_event_is_when_it_was_and_not_when_a_moved_clock_said() {
    let at = START + 40 * SECOND;
    let mut evidence = silent_since(at, at + SECOND);
    add(&mut evidence, Some(device(0)), Call::Goodbye, at + SECOND / 2);
    let back = ClockStep { from_us: at - 10 * SECOND, until_us: at + 20 * SECOND, by_us: -5_000_000 };
    let offline = |evidence: &mut Evidence, shown_us, cause: &str| {
        let event = evidence.database.presence.last_mut().unwrap();
        (event.at_unix_us, event.cause) = (unix(shown_us), Some(cause.to_owned()));
    };
    offline(&mut evidence, at - 4 * SECOND, "goodbye");
    assert!(!held(&evidence, Invariant::NoFalseOffline), "before it said so");
    evidence.clock_steps = vec![back];
    assert!(held(&evidence, Invariant::NoFalseOffline), "the clock was 5 s back");
    offline(&mut evidence, at - 5 * SECOND, "goodbye");
    assert!(!held(&evidence, Invariant::NoFalseOffline), "before it said so, by that clock too");
    // By the moved clock, 12 s after its last request; by the right one 17 s, which is long enough.
    offline(&mut evidence, at + 12 * SECOND, "silence");
    evidence.attempts.pop();
    assert!(held(&evidence, Invariant::NoFalseOffline));
    evidence.clock_steps[0].until_us = at + 16 * SECOND;
    assert!(!held(&evidence, Invariant::NoFalseOffline), "the clock was right again by then");
    // Said at 12 s by the clock of a node that took over meanwhile, and was right: too early.
    evidence.clock_steps[0].until_us = at + 20 * SECOND;
    assert!(held(&evidence, Invariant::NoFalseOffline));
    let mut elsewhere = evidence.clone();
    elsewhere.clock_steps[0].by_us = 5_000_000;
    elsewhere.database.presence.last_mut().unwrap().at_unix_us = unix(at + 17 * SECOND);
    assert!(!held(&elsewhere, Invariant::NoFalseOffline), "it was at 12 s");
    let text = "pg2 is primary".to_owned();
    elsewhere.marks.push(Mark { at_us: at - SECOND, what: MarkKind::Primary, text });
    assert!(held(&elsewhere, Invariant::NoFalseOffline), "or at 17 s, by another node's clock");
}

#[test]
fn the_silenced_and_the_revoked_are_not_wronged() {
    let mut evidence = run();
    for of in [silent(DEVICES), suspended(DEVICES)] {
        evidence.database.presence.push(event(of, START + 52 * SECOND, "device.offline", "silence"));
    }
    assert!(held(&evidence, Invariant::NoFalseOffline));
    evidence.database.presence.push(event(suspended(DEVICES), START + 49 * SECOND + 1, "device.offline", "silence"));
    assert!(!held(&evidence, Invariant::NoFalseOffline), "before it was suspended");
}

#[test]
fn silence_counts_from_the_end_of_the_outages_that_concern_it() {
    let mut evidence = run();
    evidence.absences.clear();
    evidence.beliefs.clear();
    let late = SILENCED_AT + 60 * SECOND;
    evidence.database.presence.retain(|event| event.device != silent(DEVICES));
    evidence.database.presence.push(event(silent(DEVICES), late, "device.offline", "silence"));
    assert!(!held(&evidence, Invariant::SilenceSeen));
    let of = |replica| OutageSpan { started_unix_us: unix(FAULT), ended_unix_us: unix(late - 17 * SECOND), replica };
    evidence.database.outages = vec![of(None)];
    assert!(held(&evidence, Invariant::SilenceSeen));
    evidence.database.outages = vec![of(Some(replica(99)))];
    let last = evidence.attempts.iter_mut().filter(|attempt| attempt.device == Some(silent(DEVICES))).last().unwrap();
    last.replica = Some(replica(2));
    assert!(!held(&evidence, Invariant::SilenceSeen), "another replica's outage");
    evidence.database.outages[0].replica = Some(replica(2));
    assert!(held(&evidence, Invariant::SilenceSeen), "its own replica's");
}

#[test]
fn a_run_that_ends_too_early_judges_no_silence() {
    let mut evidence = run();
    evidence.database.presence.clear();
    evidence.silenced[0].at_us = END - 5 * SECOND;
    let verdict = verdict(&evidence, Invariant::SilenceSeen);
    assert!(verdict.held && verdict.judged == 0 && verdict.notes[0].contains("too late"), "{verdict:?}");
}

/// A success of the suspended device, so long after its suspension.
fn success_after(us: u64, call: Call) -> Evidence {
    let mut evidence = run();
    let revoke = Call::Revoke { device: suspended(DEVICES) };
    let revoked = evidence.attempts.iter().find(|attempt| attempt.call == revoke).unwrap().done_us;
    add(&mut evidence, Some(suspended(DEVICES)), call, revoked + us);
    evidence
}

#[test]
fn a_blind_replica_has_its_own_bound() {
    let blind = |mut evidence: Evidence, replica| {
        let (from_us, until_us) = (START + 45 * SECOND, START + 70 * SECOND);
        evidence.blind = vec![BlindSpan { replica, from_us, until_us }];
        verdict(&evidence, Invariant::RevocationActs)
    };
    for call in [Call::Heartbeat, Call::Me] {
        let excused = blind(success_after(9 * SECOND, call.clone()), Some(replica(2)));
        assert!(excused.held && excused.notes[0].contains("blind replica): "), "{excused:?}");
        assert!(blind(success_after(9 * SECOND, call.clone()), None).held);
        assert!(!blind(success_after(9 * SECOND, call.clone()), Some(replica(3))).held, "another one was blind");
        let mut never_restored = success_after(10 * SECOND + 1, call);
        never_restored.attempts.retain(|attempt| !matches!(attempt.call, Call::Restore { .. }));
        let late = blind(never_restored, Some(replica(2)));
        assert!(late.breaches.iter().any(|breach| breach.contains("10 s are allowed to a blind")), "{late:?}");
    }
    let mut paused = success_after(9 * SECOND, Call::Me);
    paused.absences.push(absence(replica(2), START + 50 * SECOND, START + 60 * SECOND, true));
    assert!(held(&paused, Invariant::RevocationActs), "a paused replica hears nothing");
}

#[test]
fn what_is_restored_may_succeed() {
    assert!(held(&success_after(11 * SECOND, Call::Me), Invariant::RevocationActs));
    let mut lost = success_after(11 * SECOND, Call::Me);
    for attempt in &mut lost.attempts {
        if matches!(attempt.call, Call::Restore { .. }) {
            attempt.outcome = Outcome::Unknown { error: "lost".to_owned() };
        }
    }
    assert!(held(&lost, Invariant::RevocationActs), "its answer was lost, and it may have been done");
}

#[test]
fn what_was_certainly_not_sent_cannot_be_stored() {
    let mut evidence = run();
    let items = vec![Item { n: 900, ts_unix_us: unix(START) }];
    add(&mut evidence, Some(device(0)), Call::Readings { items, retry_of: None }, START + SECOND);
    evidence.attempts.last_mut().unwrap().outcome = Outcome::NotSent { error: "refused".to_owned() };
    evidence.database.readings.push(StoredReading { device: device(0), ts_unix_us: unix(START), n: 900 });
    assert!(!held(&evidence, Invariant::NothingTwice));
    evidence.attempts.last_mut().unwrap().outcome = Outcome::Unknown { error: "closed".to_owned() };
    assert!(held(&evidence, Invariant::NothingTwice));
}

#[test]
fn requests_that_overlap_are_not_compared() {
    let mut evidence = run();
    evidence.attempts.retain(|attempt| !matches!(attempt.call, Call::Read { .. } | Call::Change { .. }));
    let read = |evidence: &mut Evidence, version, sent_us, done_us| {
        add(evidence, None, Call::Read { resource: "x".to_owned(), version: Some(version) }, sent_us);
        evidence.attempts.last_mut().unwrap().done_us = done_us;
    };
    read(&mut evidence, 2, START, START + 10);
    read(&mut evidence, 1, START + 10, START + 20);
    assert!(held(&evidence, Invariant::CachesForward));
    read(&mut evidence, 1, START + 11, START + 20);
    assert!(!held(&evidence, Invariant::CachesForward));
    evidence.attempts.last_mut().unwrap().replica = Some(replica(3));
    assert!(held(&evidence, Invariant::CachesForward), "replicas are not compared with each other");
}

#[test]
fn what_was_shown_and_promised_to_nobody_may_be_gone_behind_a_failover() {
    let mut evidence = run();
    let read = |evidence: &mut Evidence, version, second| {
        let call = Call::Read { resource: "x".to_owned(), version: Some(version) };
        add(evidence, None, call, FAULT + second * SECOND);
    };
    read(&mut evidence, 2, 1);
    read(&mut evidence, 1, 3);
    assert!(!held(&evidence, Invariant::CachesForward), "the same primary");
    let text = "pg2 is primary".to_owned();
    evidence.marks.push(Mark { at_us: FAULT + 2 * SECOND, what: MarkKind::Primary, text });
    assert!(held(&evidence, Invariant::CachesForward));
    read(&mut evidence, 0, 4);
    let told = verdict(&evidence, Invariant::CachesForward);
    assert!(told.breaches_total == 1 && told.breaches[0].contains("shown version 1"), "{told:?}");
    evidence.attempts.pop();
    let change = Call::Change { resource: "x".to_owned(), version: Some(2) };
    add(&mut evidence, None, change, FAULT + SECOND / 2);
    evidence.attempts.last_mut().unwrap().replica = Some(replica(3));
    assert!(!held(&evidence, Invariant::CachesForward), "somebody was told of version 2, wherever");
}

#[test]
fn a_new_timeline_begins_its_numbers_anew() {
    let mut evidence = run();
    evidence.attempts.iter_mut().for_each(|attempt: &mut Attempt| attempt.position = None);
    for (second, position, holds) in
        [(1, "1:900", true), (2, "2:5", true), (3, "a lenient one", true), (4, "2:6", true), (5, "1:901", false)]
    {
        add(&mut evidence, None, Call::Me, START + second * SECOND);
        evidence.attempts.last_mut().unwrap().position = Some(position.to_owned());
        assert_eq!(held(&evidence, Invariant::CachesForward), holds, "{position}");
    }
}

#[test]
fn a_sample_that_is_no_number_is_a_leak() {
    let mut evidence = run();
    evidence.leaks[0].after = f64::NAN;
    assert!(!held(&evidence, Invariant::NothingLeaks));
}

#[test]
fn what_a_run_has_to_reach_is_counted_from_the_requests() {
    let mut evidence = run();
    let counted = verdict(&evidence, Invariant::NotVacuous).notes;
    evidence.minimums.in_flight_at_fault = 1;
    evidence.minimums.ambiguous = u64::MAX;
    evidence.minimums.duplicates_retried = u64::MAX;
    evidence.minimums.commits_cut = 3;
    let before = verdict(&evidence, Invariant::NotVacuous).breaches_total;
    let items = vec![Item { n: 900, ts_unix_us: unix(FAULT) }];
    let call = |retry_of| Call::Readings { items: items.clone(), retry_of };
    add(&mut evidence, Some(device(0)), call(None), FAULT - 500);
    let first = evidence.attempts.last_mut().unwrap();
    first.outcome = Outcome::Unknown { error: "closed".to_owned() };
    let first = first.number;
    // The second time nothing was unknown any more: a repetition on purpose.
    for seconds in [1, 2] {
        add(&mut evidence, Some(device(0)), call(Some(first)), FAULT + seconds * SECOND);
        evidence.attempts.last_mut().unwrap().outcome = super::history::stored(0, 1);
    }
    let after = verdict(&evidence, Invariant::NotVacuous);
    let number = |notes: &[String], what: &str| {
        let part = notes[0].split("; ").find_map(|part| part.strip_prefix(what)).unwrap();
        part.trim_start_matches(": ").parse::<u64>().unwrap()
    };
    for what in [
        "ambiguous requests that were sent again",
        "retries of what was unknown answered as duplicates",
        "requests in flight at the fault",
    ] {
        assert_eq!(number(&after.notes, what), number(&counted, what) + 1, "{what}");
    }
    assert!(before >= 3 && after.breaches.iter().any(|b| b.contains("after COMMIT: 0, at least 3")), "{after:?}");
    assert_eq!(number(&after.notes, "changes of the leader"), 1);
    evidence.counts.clear();
    let marked = verdict(&evidence, Invariant::NotVacuous).notes;
    assert_eq!(number(&marked, "changes of the leader"), 1, "who led in the beginning is no change");
    evidence.attempts.clear();
    assert!(verdict(&evidence, Invariant::NotVacuous).breaches.iter().any(|b| b.contains("no client made a request")));
}

#[test]
fn what_is_acknowledged_while_no_standby_runs_is_a_breach() {
    let mut evidence = run();
    let span = AloneSpan { from_us: FAULT, until_us: FAULT + 20 * SECOND };
    evidence.attempts.retain(|attempt| attempt.done_us < span.from_us || attempt.sent_us >= span.until_us);
    evidence.alone.push(span);
    assert_eq!(verdict(&evidence, Invariant::NothingAlone).judged, 0);
    let items = vec![Item { n: 900, ts_unix_us: unix(FAULT) }];
    let first = evidence.attempts.iter().map(|attempt| attempt.number).max().unwrap() + 1;
    let send = |evidence: &mut Evidence, retry_of, sent_us, done_us, outcome| {
        add(evidence, Some(device(0)), Call::Readings { items: items.clone(), retry_of }, sent_us);
        let last = evidence.attempts.last_mut().unwrap();
        (last.number, last.done_us, last.outcome) = (first + u64::from(retry_of.is_some()), done_us, outcome);
    };
    send(&mut evidence, None, FAULT - 1, FAULT + SECOND, Outcome::Unknown { error: "closed".to_owned() });
    // Answered when a standby may be back.
    send(&mut evidence, Some(first), span.from_us, span.until_us, super::history::stored(0, 1));
    let waited = verdict(&evidence, Invariant::NothingAlone);
    assert!(waited.held && waited.judged == 1, "{waited:?}");
    // Sent before; what the last standby confirmed is under way for 2 s at most, and longer where the machine stood still.
    let with = |done_us, stalls: Stalls| {
        let mut late = evidence.clone();
        let attempt = &mut late.attempts[evidence.attempts.len() - 2];
        (attempt.done_us, attempt.outcome) = (done_us, super::history::stored(1, 0));
        late.stalls = stalls;
        held(&late, Invariant::NothingAlone)
    };
    let stall = Stall { until_us: FAULT + 2 * SECOND, lasted_us: SECOND };
    let stood_still = Stalls { told: vec![stall], ..Stalls::default() };
    assert!(with(FAULT + 2 * SECOND - 1, Stalls::default()) && !with(FAULT + 2 * SECOND, Stalls::default()));
    assert!(with(FAULT + 3 * SECOND - 1, stood_still.clone()) && !with(FAULT + 3 * SECOND, stood_still));
    evidence.minimums.tried_alone = 1;
    assert!(!verdict(&evidence, Invariant::NotVacuous).breaches.iter().any(|b| b.contains("no standby ran")));
    // Where the primary is lost, too, what came before its successor met nobody.
    let successor = Mark { at_us: span.from_us + 1, what: MarkKind::Primary, text: "pg2 is primary".to_owned() };
    evidence.marks.push(successor);
    let met = verdict(&evidence, Invariant::NotVacuous).breaches;
    assert!(met.iter().any(|b| b.contains("while no standby ran: 0, at least 1")), "{met:?}");
    evidence.marks.pop();
    evidence.minimums.retried_alone = 2;
    let few = verdict(&evidence, Invariant::NotVacuous).breaches;
    assert!(few.iter().any(|b| b.contains("what was unknown meanwhile: 1, at least 2")), "{few:?}");
    evidence.attempts.last_mut().unwrap().done_us = span.until_us - 1;
    assert!(!held(&evidence, Invariant::NothingAlone));
    add(&mut evidence, Some(device(1)), Call::Heartbeat, span.from_us + SECOND);
    assert_eq!(verdict(&evidence, Invariant::NothingAlone).judged, 1, "a heartbeat promises nothing durable");
}

#[test]
fn what_a_scenario_excludes_may_not_happen() {
    let mut evidence = run();
    evidence.maximums.leader_changes = Some(1);
    assert!(held(&evidence, Invariant::NotVacuous));
    evidence.maximums.leader_changes = Some(0);
    let verdict = verdict(&evidence, Invariant::NotVacuous);
    assert!(verdict.breaches.iter().any(|b| b.contains("changes of the leader: 1, at most 0 may be")), "{verdict:?}");
    // Nobody else led, and it led anew.
    evidence.counts.insert("leader_changes".to_owned(), 0);
    evidence.minimums.leader_changes = 0;
    assert!(!held(&evidence, Invariant::NotVacuous));
    evidence.beliefs.retain(|belief| belief.epoch != 8);
    assert!(held(&evidence, Invariant::NotVacuous));
}

#[test]
fn who_was_never_heard_need_not_be_offline() {
    let mut evidence = run();
    let silent = silent(DEVICES);
    evidence.database.presence.retain(|event| event.device != silent);
    assert!(!held(&evidence, Invariant::SilenceSeen), "it was heard, and nobody noticed that it fell silent");
    for attempt in evidence.attempts.iter_mut().filter(|attempt| attempt.device == Some(silent)) {
        attempt.outcome = Outcome::Unknown { error: "closed".to_owned() };
    }
    let verdict = verdict(&evidence, Invariant::SilenceSeen);
    assert!(verdict.held && verdict.judged == 0, "{verdict:?}");
}
