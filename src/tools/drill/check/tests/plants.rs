//! One breach of each kind, put into a history that was clean.

use uuid::Uuid;

use super::history::{
    END, FAULT, RESOURCE, SECOND, SILENCED_AT, START, acknowledged, device, event, replica, silent, suspended, unix,
};
use crate::tools::drill::evidence::{
    AloneSpan, Attempt, BeliefSpan, Call, Effect, Evidence, MarkKind, Outcome, StoredReading,
};
use crate::tools::drill::verdict::Invariant;

/// What is planted: the invariant that has to see it, the words that have to say it, and how it is done. The number
/// picks where.
pub struct Plant {
    pub name: &'static str,
    pub invariant: Invariant,
    pub words: &'static str,
    pub put: fn(&mut Evidence, usize),
}

const fn plant(name: &'static str, invariant: Invariant, words: &'static str, put: fn(&mut Evidence, usize)) -> Plant {
    Plant { name, invariant, words, put }
}

/// Devices of the histories that plants are put into.
pub const DEVICES: u128 = 4;

pub const ALL: [Plant; 21] = [
    plant("lost", Invariant::NothingLost, "is lost", lost),
    plant("lost after a duplicate", Invariant::NothingLost, "is lost", lost_duplicate),
    plant("lost of a part", Invariant::NothingLost, "counted 2 as stored, and only", lost_of_a_part),
    plant("degraded", Invariant::NothingAlone, "it said that no standby has it", degraded),
    plant("double", Invariant::NothingTwice, "is stored 2 times", double),
    plant("foreign", Invariant::NothingTwice, "was never sent", foreign),
    plant("stale write", Invariant::EffectsOrdered, "the leader of epoch 7 (timeline 1) acted as number", stale_write),
    plant("two leaders", Invariant::OneBelief, "both believed to lead", two_leaders),
    plant("false offline", Invariant::NoFalseOffline, "was called offline at", false_offline),
    plant("false goodbye", Invariant::NoFalseOffline, "a goodbye that it never said", false_goodbye),
    plant("never offline", Invariant::SilenceSeen, "and never was", never_offline),
    plant("late offline", Invariant::SilenceSeen, "and was so only at", late_offline),
    plant("revoked success", Invariant::RevocationActs, "1 s are allowed", revoked_success),
    plant("cache goes back", Invariant::CachesForward, "showed version 0 of twin/1", cache_goes_back),
    plant("own change forgotten", Invariant::CachesForward, "it had acknowledged the change to", change_forgotten),
    plant("position goes back", Invariant::CachesForward, "stood at 1:1 of the change log", position_goes_back),
    plant("leak", Invariant::NothingLeaks, "at most 8 more are allowed", leak),
    plant("vacuous", Invariant::NotVacuous, "changes of the leader: 0, at least 1", vacuous),
    plant("unfinished", Invariant::NotVacuous, "not well in time", unfinished),
    plant("excluded", Invariant::NotVacuous, "changes of the leader: 1, at most 0", excluded),
    plant("alone", Invariant::NothingAlone, "and no standby ran", alone),
];

fn excluded(evidence: &mut Evidence, _: usize) {
    evidence.maximums.leader_changes = Some(0);
}

fn alone(evidence: &mut Evidence, pick: usize) {
    let written: Vec<&Attempt> = evidence
        .attempts
        .iter()
        .filter(|attempt| matches!(attempt.call, Call::Readings { .. }) && attempt.outcome.is_acknowledged())
        .collect();
    let attempt = written[pick % written.len()];
    let span = AloneSpan { from_us: attempt.sent_us, until_us: attempt.done_us + 1 };
    evidence.alone.push(span);
}

fn lost(evidence: &mut Evidence, pick: usize) {
    let at = pick % evidence.database.readings.len();
    evidence.database.readings.remove(at);
}

/// The answer said only that it was there before: that is a promise as well.
fn lost_duplicate(evidence: &mut Evidence, pick: usize) {
    for attempt in &mut evidence.attempts {
        if let (Call::Readings { items, .. }, Outcome::Acknowledged { stored, duplicates, .. }) =
            (&attempt.call, &mut attempt.outcome)
        {
            (*stored, *duplicates) = (0, items.len() as u64);
        }
    }
    lost(evidence, pick);
}

fn lost_of_a_part(evidence: &mut Evidence, pick: usize) {
    let parts = |attempt: &&mut Attempt| match &attempt.call {
        Call::Readings { items, .. } => items.len() == 3 && attempt.outcome.is_acknowledged(),
        _ => false,
    };
    let count = evidence.attempts.iter_mut().filter(parts).count();
    let attempt = evidence.attempts.iter_mut().filter(parts).nth(pick % count).expect("there are batches of three");
    let Outcome::Acknowledged { stored, duplicates, rejected, .. } = &mut attempt.outcome else { unreachable!() };
    (*stored, *duplicates, *rejected) = (1, 1, 1);
    let Call::Readings { items, .. } = &attempt.call else { unreachable!() };
    let of = attempt.device.expect("it is a device's");
    let gone: Vec<u64> = items.iter().map(|item| item.n).take(2).collect();
    evidence.database.readings.retain(|row| row.device != of || !gone.contains(&row.n));
}

fn degraded(evidence: &mut Evidence, pick: usize) {
    let mut batches: Vec<&mut Outcome> = evidence
        .attempts
        .iter_mut()
        .filter(|attempt| matches!(attempt.call, Call::Readings { .. }) && attempt.outcome.is_acknowledged())
        .map(|attempt| &mut attempt.outcome)
        .collect();
    let at = pick % batches.len();
    if let Outcome::Acknowledged { degraded, .. } = &mut *batches[at] {
        *degraded = true;
    }
}

fn double(evidence: &mut Evidence, pick: usize) {
    let row = evidence.database.readings[pick % evidence.database.readings.len()];
    evidence.database.readings.push(StoredReading { ts_unix_us: row.ts_unix_us + 1, ..row });
}

fn foreign(evidence: &mut Evidence, pick: usize) {
    let n = 1_000_000 + pick as u64;
    evidence.database.readings.push(StoredReading { device: device(0), ts_unix_us: unix(START), n });
}

fn stale_write(evidence: &mut Evidence, pick: usize) {
    let newer: Vec<i64> = evidence.database.effects.iter().filter(|e| e.epoch == 8).map(|e| e.seq).collect();
    let seq = newer[pick % newer.len()] + 1_000;
    evidence.database.effects.push(Effect { role: "sweeper".to_owned(), timeline: 1, epoch: 7, seq });
}

fn two_leaders(evidence: &mut Evidence, pick: usize) {
    let began_us = FAULT + 5 * SECOND + pick as u64 % (40 * SECOND);
    evidence.beliefs.push(BeliefSpan {
        replica: replica(3),
        duty: "sweeper".to_owned(),
        timeline: 1,
        epoch: 9,
        began_us,
        ended_us: Some(began_us + 1),
        trust_until_us: began_us + SECOND,
    });
}

/// Every kind of attempt of a device that works is good for this, failed ones too.
fn false_offline(evidence: &mut Evidence, pick: usize) {
    let works = |attempt: &&Attempt| attempt.device.is_some_and(|of| of < silent(DEVICES));
    let count = evidence.attempts.iter().filter(works).count();
    let attempt = evidence.attempts.iter().filter(works).nth(pick % count).expect("devices work");
    let (of, at) = (attempt.device.expect("it is a device's"), attempt.sent_us + pick as u64 % (15 * SECOND));
    evidence.database.presence.push(event(of, at, "device.offline", "silence"));
}

fn false_goodbye(evidence: &mut Evidence, pick: usize) {
    let at = START + pick as u64 % (END - START);
    evidence.database.presence.push(event(device(1), at, "device.offline", "goodbye"));
}

fn never_offline(evidence: &mut Evidence, _: usize) {
    evidence.database.presence.retain(|event| event.device != silent(DEVICES));
}

fn late_offline(evidence: &mut Evidence, pick: usize) {
    never_offline(evidence, pick);
    let at = SILENCED_AT + 60 * SECOND + pick as u64 % (15 * SECOND);
    evidence.database.presence.push(event(silent(DEVICES), at, "device.offline", "silence"));
}

fn revoked_success(evidence: &mut Evidence, pick: usize) {
    let of = suspended(DEVICES);
    let revoke = evidence.attempts.iter().find(|attempt| attempt.call == Call::Revoke { device: of });
    let sent_us = revoke.expect("it is suspended").done_us + SECOND + 1 + pick as u64 % (8 * SECOND);
    let call = [Call::Me, Call::Heartbeat, Call::Enroll][pick % 3].clone();
    add(evidence, Some(of), call, sent_us);
}

fn cache_goes_back(evidence: &mut Evidence, pick: usize) {
    // Not among the first: something has to be older.
    let mut reads: Vec<&mut Attempt> = evidence
        .attempts
        .iter_mut()
        .filter(|attempt| matches!(attempt.call, Call::Read { .. }) && attempt.sent_us > FAULT + 20 * SECOND)
        .collect();
    let at = pick % reads.len();
    reads[at].call = Call::Read { resource: RESOURCE.to_owned(), version: Some(0) };
    reads[at].replica = Some(replica(2));
}

fn change_forgotten(evidence: &mut Evidence, pick: usize) {
    evidence.attempts.retain(|attempt| !matches!(attempt.call, Call::Read { .. }));
    let changes: Vec<&Attempt> =
        evidence.attempts.iter().filter(|attempt| matches!(attempt.call, Call::Change { .. })).collect();
    let change = changes[pick % changes.len()];
    let Call::Change { resource, version: Some(version) } = change.call.clone() else { unreachable!() };
    let (sent_us, by) = (change.done_us + 1, change.replica);
    add(evidence, None, Call::Read { resource, version: Some(version - 1) }, sent_us);
    evidence.attempts.last_mut().expect("it was added").replica = by;
}

fn position_goes_back(evidence: &mut Evidence, pick: usize) {
    let late = |attempt: &&mut Attempt| attempt.replica == Some(replica(2)) && attempt.sent_us > FAULT + 20 * SECOND;
    let count = evidence.attempts.iter_mut().filter(late).count();
    let attempt = evidence.attempts.iter_mut().filter(late).nth(pick % count).expect("replica 2 answers");
    attempt.position = Some("1:1".to_owned());
}

fn leak(evidence: &mut Evidence, pick: usize) {
    let at = pick % evidence.leaks.len();
    let sample = &mut evidence.leaks[at];
    sample.after = sample.before + sample.tolerance + 1.0;
}

fn unfinished(evidence: &mut Evidence, _: usize) {
    evidence.unfinished = Some("replica 1 was not well in time".to_owned());
}

fn vacuous(evidence: &mut Evidence, _: usize) {
    evidence.counts.clear();
    evidence.marks.retain(|mark| mark.what != MarkKind::Leader);
}

/// A success that replica 2 answers at once.
pub fn add(evidence: &mut Evidence, device: Option<Uuid>, call: Call, sent_us: u64) {
    evidence.attempts.push(Attempt {
        client: "planted".to_owned(),
        device,
        number: 1,
        call,
        endpoint: "https://127.0.0.1:18443".to_owned(),
        sent_us,
        done_us: sent_us + 1_000,
        outcome: acknowledged(),
        replica: Some(replica(2)),
        position: None,
        reused_connection: false,
        probe: false,
    });
}
