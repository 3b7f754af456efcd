//! I5: nobody who tried is called offline. A request that failed counts for the device: it tried, it was us.

use std::time::Duration;

use uuid::Uuid;

use super::Facts;
use crate::domain::presence::Deadlines;
use crate::tools::drill::evidence::{Attempt, Call, Outcome, PresenceEvent};
use crate::tools::drill::verdict::{Invariant, Verdict};

pub(super) const OFFLINE: &str = "device.offline";
const GOODBYE: &str = "goodbye";
/// A device is told its promise × U(0.9, 1.1), and only the service knows the promise. The least that it can be.
const TOLD_OVER_PROMISE_MAX: (u64, u64) = (11, 10);

pub(super) fn no_false_offline(facts: &Facts<'_>) -> Verdict {
    let mut breaches = Vec::new();
    let mut events = 0;
    for event in &facts.evidence.database.presence {
        let moments = facts.moments(event.at_unix_us);
        let is_excused = |at: &u64| *at < facts.evidence.started_us || is_excluded(facts, event.device, *at);
        if event.kind != OFFLINE || moments.iter().any(is_excused) {
            continue;
        }
        events += 1;
        // It was at one of them: it is false if it would have been at each.
        let faults: Option<Vec<String>> = moments.iter().map(|at| fault(facts, event, *at)).collect();
        breaches.extend(faults.into_iter().flatten().next());
    }
    // A device that is never called offline is judged, too: that is what the promise says.
    Verdict::new(Invariant::NoFalseOffline, facts.by_device.len() as u64, breaches).note(context(facts, events))
}

/// Silenced on purpose, or its identity taken: then silence is what it looks like.
fn is_excluded(facts: &Facts<'_>, device: Uuid, at: u64) -> bool {
    [facts.silenced_from(device), facts.revoked_from(device)].into_iter().flatten().any(|from| from <= at)
}

fn fault(facts: &Facts<'_>, event: &PresenceEvent, at: u64) -> Option<String> {
    let attempts = facts.of_device(event.device);
    let left = attempts.iter().rfind(|attempt| matches!(attempt.call, Call::Goodbye) && attempt.sent_us <= at);
    let name = facts.name(event.device);
    if event.cause.as_deref() == Some(GOODBYE) {
        let words = format!("{name} was called offline at {} for a goodbye that it never said", facts.at(at));
        return left.is_none().then_some(words);
    }
    let since = left.map_or(0, |goodbye| goodbye.sent_us);
    let contact = attempts.iter().rfind(|attempt| is_contact(attempt) && attempt.sent_us <= at)?;
    let deadline_us = deadline_us(promise_ms(facts, event.device, at));
    (contact.sent_us > since && at - contact.sent_us < deadline_us).then(|| {
        format!(
            "{name} was called offline at {}, {} ms after its request {} ({}), and a silence of {} ms is allowed",
            facts.at(at),
            (at - contact.sent_us) / 1_000,
            contact.number,
            outcome(&contact.outcome),
            deadline_us / 1_000
        )
    })
}

/// A request by which a device shows that it lives and means to stay, whatever became of it.
pub(super) fn is_contact(attempt: &Attempt) -> bool {
    matches!(attempt.call, Call::Enroll | Call::Heartbeat | Call::Readings { .. } | Call::Me)
}

/// The promise that the device was given last before this moment, or its fleet's.
fn promise_ms(facts: &Facts<'_>, device: Uuid, at: u64) -> u64 {
    let before = facts.of_device(device).iter().rev().filter(|attempt| attempt.done_us <= at);
    let told = before.into_iter().find_map(|attempt| match attempt.outcome {
        Outcome::Acknowledged { next_in_ms, .. } => next_in_ms,
        _ => None,
    });
    let (over, of) = TOLD_OVER_PROMISE_MAX;
    told.map_or(facts.evidence.heartbeat_interval_ms, |told_ms| told_ms.saturating_mul(of) / over)
}

/// 3.3 × the promise + 10 s, as the service counts it.
pub(super) fn deadline_us(promise_ms: u64) -> u64 {
    let deadline = Deadlines::of(Duration::from_millis(promise_ms)).offline;
    u64::try_from(deadline.as_micros()).unwrap_or(u64::MAX)
}

fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Acknowledged { status, .. } => format!("answered {status}"),
        Outcome::Refused { status, .. } => format!("refused with {status}"),
        Outcome::Unknown { error } => format!("no answer: {error}"),
        Outcome::NotSent { error } => format!("not sent: {error}"),
    }
}

/// What was judged: the failures make the promise worth something.
fn context(facts: &Facts<'_>, events: u64) -> Option<String> {
    let failed = facts.by_device.values().flatten().filter(|attempt| !attempt.outcome.is_acknowledged()).count();
    (!facts.by_device.is_empty()).then(|| {
        format!(
            "requests of devices that failed, and count for them: {failed}; times that one was called offline: {events}"
        )
    })
}
