//! I11: while no standby runs, a success would promise what one node has, whatever became of it afterwards. That nothing
//! was lost in the end proves nothing of it: the node may have come back. What a deployment is drilled for is that it
//! refuses then; an answer that says it is degraded is a breach as well.

use super::facts::retries_of_open;
use super::{Facts, SECOND_US};
use crate::tools::drill::evidence::{Attempt, Call, MarkKind, Outcome};
use crate::tools::drill::verdict::{Invariant, Verdict};

/// What the last standby confirmed just before it was gone may take so long to reach the client.
const CONFIRMED_BEFORE_US: u64 = 2 * SECOND_US;

pub(super) fn nothing(facts: &Facts<'_>) -> Verdict {
    let attempts = &facts.evidence.attempts;
    let acknowledged = attempts.iter().filter_map(|attempt| match attempt.outcome {
        Outcome::Acknowledged { degraded, .. } => Some((attempt, degraded)),
        _ => None,
    });
    let breaches = acknowledged.filter_map(|(attempt, degraded)| {
        let is_alone = changes_something(&attempt.call) && is_answered_alone(facts, attempt);
        let why = if is_alone { "no standby ran" } else { "it said that no standby has it" };
        (is_alone || degraded).then(|| {
            let (sent, done) = (facts.at(attempt.sent_us), facts.at(attempt.done_us));
            let (client, number) = (&attempt.client, attempt.number);
            format!("request {number} of {client}, sent {sent}, was acknowledged at {done}, and {why}")
        })
    });
    let breaches = breaches.collect();
    Verdict::new(Invariant::NothingAlone, tried(facts).count() as u64, breaches)
}

/// So many of them met somebody who might have stored them: where the primary was lost, too, its successor.
pub(super) fn tried_at_somebody(facts: &Facts<'_>) -> u64 {
    let successors: Vec<u64> = facts.changes(MarkKind::Primary).map(|mark| mark.at_us).collect();
    let is_met = |attempt: &&Attempt| {
        let spans = facts.evidence.alone.iter().filter(|span| (span.from_us..span.until_us).contains(&attempt.sent_us));
        spans.into_iter().any(|span| {
            let within = successors.iter().filter(|at| (span.from_us..span.until_us).contains(*at));
            within.max().is_none_or(|successor| *successor <= attempt.sent_us)
        })
    };
    tried(facts).filter(is_met).count() as u64
}

/// Requests that change something, sent while no standby ran. Which heartbeat rests on a commit, a history does not show.
pub(super) fn tried<'a>(facts: &'a Facts<'_>) -> impl Iterator<Item = &'a Attempt> {
    facts.evidence.attempts.iter().filter(|attempt| changes_something(&attempt.call) && is_sent_alone(facts, attempt))
}

/// The same, of readings that may have been stored by an earlier request.
pub(super) fn retried(facts: &Facts<'_>) -> u64 {
    let retries = retries_of_open(facts.evidence).into_iter();
    retries.filter(|attempt| is_sent_alone(facts, attempt)).count() as u64
}

fn is_sent_alone(facts: &Facts<'_>, attempt: &Attempt) -> bool {
    let mut spans = facts.evidence.alone.iter();
    spans.any(|span| span.from_us <= attempt.sent_us && attempt.sent_us < span.until_us)
}

/// Whatever it says, no standby confirmed it: it was sent too late for that, or answered too late.
fn is_answered_alone(facts: &Facts<'_>, attempt: &Attempt) -> bool {
    let stood_still_us = |from_us, until_us| facts.evidence.stalls.all_us(from_us, until_us);
    facts.evidence.alone.iter().any(|span| {
        let is_late = |done_us: u64| {
            let confirmed_us = span.from_us.saturating_add(CONFIRMED_BEFORE_US);
            done_us >= confirmed_us.saturating_add(stood_still_us(span.from_us, done_us))
        };
        (span.from_us <= attempt.sent_us || is_late(attempt.done_us)) && attempt.done_us < span.until_us
    })
}

fn changes_something(call: &Call) -> bool {
    match call {
        Call::Enroll
        | Call::Readings { .. }
        | Call::Goodbye
        | Call::Change { .. }
        | Call::Revoke { .. }
        | Call::Restore { .. } => true,
        Call::Heartbeat | Call::Read { .. } | Call::Me => false,
    }
}
