//! I11: while no standby runs, a success would promise what one node has, whatever became of it afterwards. That nothing
//! was lost in the end proves nothing of it: the node may have come back.

use std::collections::HashMap;

use super::Facts;
use crate::tools::drill::evidence::{Attempt, Call, Evidence, Outcome};
use crate::tools::drill::verdict::{Invariant, Verdict};

/// "Unavailable": the service may have stored it all the same.
const UNAVAILABLE: u16 = 503;

pub(super) fn nothing(facts: &Facts<'_>) -> Verdict {
    let is_breach = |attempt: &&&Attempt| match attempt.outcome {
        Outcome::Acknowledged { degraded, .. } => {
            !(degraded && facts.evidence.degraded_allowed) && is_answered_within(facts, attempt)
        }
        _ => false,
    };
    let tried: Vec<&Attempt> = tried(facts).collect();
    let breaches = tried.iter().filter(is_breach).map(|attempt| {
        let (sent, done) = (facts.at(attempt.sent_us), facts.at(attempt.done_us));
        let (client, number) = (&attempt.client, attempt.number);
        format!("request {number} of {client}, sent {sent}, was acknowledged at {done}, and no standby ran")
    });
    Verdict::new(Invariant::NothingAlone, tried.len() as u64, breaches.collect())
}

/// Requests that change something, sent while no standby ran. Heartbeats promise nothing durable.
pub(super) fn tried<'a>(facts: &'a Facts<'_>) -> impl Iterator<Item = &'a Attempt> {
    facts.evidence.attempts.iter().filter(|attempt| changes_something(&attempt.call) && is_sent_alone(facts, attempt))
}

/// The same, of readings that may have been stored by an earlier request.
pub(super) fn retried(facts: &Facts<'_>) -> u64 {
    let retries = retries_of_open(facts.evidence).into_iter();
    retries.filter(|attempt| is_sent_alone(facts, attempt)).count() as u64
}

/// Requests that send readings again which may have been stored already, and of which nobody was told yet.
pub(super) fn retries_of_open(evidence: &Evidence) -> Vec<&Attempt> {
    let mut attempts: Vec<&Attempt> = evidence.attempts.iter().collect();
    attempts.sort_by_key(|attempt| attempt.number);
    let (mut open, mut retries) = (HashMap::new(), Vec::new());
    for attempt in attempts {
        let Call::Readings { retry_of, .. } = attempt.call else { continue };
        let first = (attempt.client.as_str(), retry_of.unwrap_or(attempt.number));
        let may_be_stored: &mut bool = open.entry(first).or_default();
        if retry_of.is_some() && *may_be_stored {
            retries.push(attempt);
        }
        *may_be_stored = (*may_be_stored || is_open(&attempt.outcome)) && !attempt.outcome.is_acknowledged();
    }
    retries
}

/// It may have been done, or not.
pub(super) fn is_open(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Unknown { .. } => true,
        Outcome::Refused { status, .. } => *status == UNAVAILABLE,
        Outcome::Acknowledged { .. } | Outcome::NotSent { .. } => false,
    }
}

fn is_sent_alone(facts: &Facts<'_>, attempt: &Attempt) -> bool {
    let mut spans = facts.evidence.alone.iter();
    spans.any(|span| span.from_us <= attempt.sent_us && attempt.sent_us < span.until_us)
}

fn is_answered_within(facts: &Facts<'_>, attempt: &Attempt) -> bool {
    let spans = &facts.evidence.alone;
    spans.iter().any(|span| span.from_us <= attempt.sent_us && attempt.done_us < span.until_us)
}

fn changes_something(call: &Call) -> bool {
    match call {
        Call::Enroll | Call::Readings { .. } | Call::Change { .. } | Call::Revoke { .. } | Call::Restore { .. } => true,
        Call::Heartbeat | Call::Goodbye | Call::Read { .. } | Call::Me => false,
    }
}
