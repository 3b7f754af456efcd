//! I11: while no standby runs, a success would promise what one node has, whatever became of it afterwards. That nothing
//! was lost in the end proves nothing of it: the node may have come back.

use super::Facts;
use super::facts::retries_of_open;
use crate::tools::drill::evidence::{Attempt, Call, Outcome};
use crate::tools::drill::verdict::{Invariant, Verdict};

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
        Call::Enroll
        | Call::Readings { .. }
        | Call::Goodbye
        | Call::Change { .. }
        | Call::Revoke { .. }
        | Call::Restore { .. } => true,
        Call::Heartbeat | Call::Read { .. } | Call::Me => false,
    }
}
