//! I6: who fell silent is offline in time. The time is the formula's, from the last contact or from the end of the
//! last outage that concerns the device, which gives it one full deadline.

use super::presence::{OFFLINE, deadline_us, is_contact};
use super::{Facts, SECOND_US};
use crate::tools::drill::evidence::{Attempt, Silenced};
use crate::tools::drill::verdict::{Invariant, Verdict};

/// From the moment when silence is long enough to the event: a contact is flushed within 1 s, ticks come every second
/// and may be 3 s late before that is an outage, a sweep comes every second and its statement takes at most 2 s. In a
/// table as small as a drill's every sweep looks for itself (`jobs::outlook`).
pub const SWEEP_ALLOWANCE_US: u64 = 8 * SECOND_US;
/// Around a fault there may be no sweeper at first: a lease lasts 10 s, and followers look every 1.2 s at most.
pub const TAKEOVER_ALLOWANCE_US: u64 = 12 * SECOND_US;
/// A replica that does not flush can have acknowledged heartbeats for this long (`heartbeat_blind_max_s`).
pub const BLIND_MAX_US: u64 = 10 * SECOND_US;
/// One that is told to end acknowledges and flushes for so long, at most, before it is gone.
const DRAIN_US: u64 = 5 * SECOND_US;

/// From the silence of a device with this promise to its end in *offline* around a fault, if no outage prolongs it,
/// microseconds.
pub fn seen_us(interval_ms: u64) -> u64 {
    deadline_us(interval_ms).saturating_add(SWEEP_ALLOWANCE_US + TAKEOVER_ALLOWANCE_US + SECOND_US)
}

pub(super) fn seen(facts: &Facts<'_>) -> Verdict {
    let (due, too_short) = due_within_run(facts);
    let breaches = due.iter().filter_map(|(silenced, due)| late(facts, silenced, *due)).collect();
    let note = (too_short > 0).then(|| format!("{too_short} fell silent too late in the run to be judged"));
    Verdict::new(Invariant::SilenceSeen, due.len() as u64, breaches).note(note)
}

/// How many silences are judged.
pub(super) fn judged(facts: &Facts<'_>) -> u64 {
    due_within_run(facts).0.len() as u64
}

/// Who has to be offline before the run's end, and by when; how many others may be so later.
fn due_within_run<'a>(facts: &'a Facts<'_>) -> (Vec<(&'a Silenced, u64)>, u64) {
    let silenced = facts.evidence.silenced.iter().map(|silenced| (silenced, due(facts, silenced)));
    let is_heard = |one: &Silenced| {
        let contacts = facts.of_device(one.device).iter().filter(|attempt| is_contact(attempt));
        contacts.into_iter().any(|attempt| attempt.outcome.is_acknowledged())
    };
    let kept = silenced.filter(|(one, due)| {
        // Who was not heard in this run is not online.
        is_heard(one) && facts.revoked_from(one.device).is_none_or(|from| from > *due)
    });
    let (within, later): (Vec<_>, Vec<_>) = kept.partition(|(_, due)| *due <= facts.evidence.ended_us);
    (within, later.len() as u64)
}

fn late(facts: &Facts<'_>, silenced: &Silenced, due: u64) -> Option<String> {
    let events = facts.evidence.database.presence.iter();
    let offline = events.filter(|event| event.device == silenced.device && event.kind == OFFLINE);
    let first = offline.flat_map(|event| facts.moments(event.at_unix_us)).filter(|at| *at >= silenced.at_us).min();
    let was = match first {
        Some(at) if at <= due => return None,
        Some(at) => format!("and was so only at {}", facts.at(at)),
        None => "and never was".to_owned(),
    };
    let (name, since) = (facts.name(silenced.device), facts.at(silenced.at_us));
    Some(format!("{name} fell silent at {since} and had to be offline by {}, {was}", facts.at(due)))
}

/// The latest moment at which it has to be offline.
fn due(facts: &Facts<'_>, silenced: &Silenced) -> u64 {
    let deadline = deadline_us(silenced.interval_ms);
    let last = facts.of_device(silenced.device).last().map_or(0, |attempt| attempt.done_us);
    let mut base = silenced.at_us.max(last);
    let mut deaf = deaf_spans(facts, silenced);
    deaf.sort_unstable();
    // Sorted by their beginnings: each can only be reached once those before it have moved the base.
    for (from, until) in deaf {
        if from <= base.saturating_add(deadline + SWEEP_ALLOWANCE_US) {
            base = base.max(until);
        }
    }
    let due = base.saturating_add(deadline + SWEEP_ALLOWANCE_US);
    let at_fault = facts.fault_windows().iter().any(|(from, until)| *from <= due && *until >= base);
    if at_fault { due + TAKEOVER_ALLOWANCE_US } else { due }
}

/// Spans in which the service could not have heard the device: at their end it has one full deadline. The service cannot
/// know that a replica that ended had heard no more of the device than it had flushed.
fn deaf_spans(facts: &Facts<'_>, silenced: &Silenced) -> Vec<(u64, u64)> {
    let attempts = facts.of_device(silenced.device);
    // Where the last request has no answer, nobody knows who heard it.
    let heard_by = attempts.last().and_then(|attempt: &&Attempt| attempt.replica);
    let concerns = |replica| heard_by.is_none() || heard_by == Some(replica);
    let evidence = facts.evidence;
    let outages = evidence.database.outages.iter().filter(|outage| outage.replica.is_none_or(concerns));
    let outages = outages.map(|outage| facts.span(outage.started_unix_us, outage.ended_unix_us));
    let absent = evidence.absences.iter().filter(|one| concerns(one.replica));
    let absent = absent.map(|absence| (absence.from_us, absence.from_us + BLIND_MAX_US));
    let ended = evidence.terminated.iter().filter(|one| concerns(one.replica));
    let ended = ended.map(|one| (one.at_us, one.at_us + DRAIN_US + BLIND_MAX_US));
    let blind = evidence.blind.iter().filter(|one| one.replica.is_none_or(concerns));
    let blind = blind.map(|blind| (blind.from_us, blind.until_us.max(blind.from_us + BLIND_MAX_US)));
    outages.chain(absent).chain(ended).chain(blind).collect()
}
