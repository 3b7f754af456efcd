//! I7: a revoked identity succeeds nowhere after the bound, until it is given back.

use uuid::Uuid;

use super::facts::may_have_acted;
use super::{Facts, SECOND_US};
use crate::tools::drill::evidence::{Attempt, Call};
use crate::tools::drill::verdict::{Invariant, Verdict};

/// On every replica that hears of changes.
pub const BOUND_US: u64 = SECOND_US;
/// On a replica that does not: blind for so long, it refuses everybody.
pub const BOUND_BLIND_US: u64 = 10 * SECOND_US;
/// Except heartbeats of identities that it holds, which it acknowledges from memory for `heartbeat_blind_max_s`.
pub const BOUND_BLIND_HEARTBEAT_US: u64 = 10 * SECOND_US;

/// Under which bound a request was judged.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bound {
    Normal,
    Blind,
    BlindHeartbeat,
}

pub(super) fn acts(facts: &Facts<'_>) -> Verdict {
    let mut breaches = Vec::new();
    let mut tally = Tally::default();
    for revoke in facts.evidence.attempts.iter().filter(|attempt| attempt.outcome.is_acknowledged()) {
        let Call::Revoke { device } = revoke.call else { continue };
        let restored = restored_from(facts, device, revoke.sent_us);
        for attempt in facts.of_device(device) {
            // One that overlaps the restoration may have been judged after it.
            if attempt.sent_us <= revoke.done_us || attempt.done_us >= restored {
                continue;
            }
            let (limit, bound) = limit(facts, revoke.done_us, attempt);
            let after = attempt.sent_us - revoke.done_us;
            tally.count(bound, after, attempt.outcome.is_acknowledged());
            if attempt.outcome.is_acknowledged() && attempt.sent_us > limit {
                breaches.push(words(facts, revoke, attempt, bound));
            }
        }
    }
    Verdict::new(Invariant::RevocationActs, tally.judged(), breaches).note(tally.note())
}

/// From when on the identity may be good again.
fn restored_from(facts: &Facts<'_>, device: Uuid, after: u64) -> u64 {
    let restores = facts.evidence.attempts.iter().filter(|attempt| match attempt.call {
        Call::Restore { device: of } => of == device && may_have_acted(&attempt.outcome) && attempt.sent_us >= after,
        _ => false,
    });
    restores.map(|attempt| attempt.sent_us).min().unwrap_or(u64::MAX)
}

/// The last moment at which a request may be sent that still succeeds, and why.
fn limit(facts: &Facts<'_>, revoked: u64, attempt: &Attempt) -> (u64, Bound) {
    let normal = revoked + BOUND_US;
    let (bound, bound_us) = match attempt.call {
        Call::Heartbeat => (Bound::BlindHeartbeat, BOUND_BLIND_HEARTBEAT_US),
        _ => (Bound::Blind, BOUND_BLIND_US),
    };
    let meanwhile = blind_spans(facts, attempt.replica).into_iter();
    let meanwhile = meanwhile.filter(|(from, until)| *from <= normal && *until >= revoked);
    match meanwhile.map(|(from, _)| from.max(revoked) + bound_us).max() {
        Some(blind) => (blind, bound),
        None => (normal, Bound::Normal),
    }
}

/// When the replica that answered could not hear of the revocation: cut off, paused, or without a database.
fn blind_spans(facts: &Facts<'_>, replica: Option<Uuid>) -> Vec<(u64, u64)> {
    let evidence = facts.evidence;
    let is_its = |of: Option<Uuid>| of.is_none() || of == replica;
    let blind = evidence.blind.iter().filter(|span| is_its(span.replica)).map(|span| (span.from_us, span.until_us));
    let paused = evidence.absences.iter().filter(|absence| absence.paused && is_its(Some(absence.replica)));
    let paused = paused.map(|absence| (absence.from_us, absence.until_us));
    let outages = evidence.database.outages.iter().filter(|outage| is_its(outage.replica));
    let outages = outages.map(|outage| facts.span(outage.started_unix_us, outage.ended_unix_us));
    blind.chain(paused).chain(outages).collect()
}

fn words(facts: &Facts<'_>, revoke: &Attempt, attempt: &Attempt, bound: Bound) -> String {
    let bound = match bound {
        Bound::Normal => format!("{} s are allowed", BOUND_US / SECOND_US),
        Bound::Blind => format!("{} s are allowed to a blind replica", BOUND_BLIND_US / SECOND_US),
        Bound::BlindHeartbeat => {
            format!("{} s are allowed to a blind replica's heartbeats", BOUND_BLIND_HEARTBEAT_US / SECOND_US)
        }
    };
    let by = attempt.replica.map_or_else(|| "an unnamed replica".to_owned(), |replica| format!("replica {replica}"));
    let name = attempt.device.map(|device| facts.name(device)).unwrap_or_default();
    format!(
        "{name} was revoked at {}, and its request {} succeeded at {by}, sent {} ms after that; {bound}",
        facts.at(revoke.done_us),
        attempt.number,
        (attempt.sent_us - revoke.done_us) / 1_000
    )
}

/// Requests after a revocation, by bound, with the latest success after it.
#[derive(Default)]
struct Tally([(u64, Option<u64>); 3]);

impl Tally {
    fn count(&mut self, bound: Bound, after_us: u64, succeeded: bool) {
        let (requests, latest) = &mut self.0[bound as usize];
        *requests += 1;
        if succeeded {
            *latest = (*latest).max(Some(after_us));
        }
    }

    fn judged(&self) -> u64 {
        self.0.iter().map(|(requests, _)| requests).sum()
    }

    fn note(&self) -> Option<String> {
        let names = ["of 1 s", "of 10 s (blind replica)", "of 10 s (heartbeats to a blind replica)"];
        let told = self.0.iter().zip(names).filter(|((requests, _), _)| *requests > 0);
        let told: Vec<String> = told
            .map(|((requests, latest), name)| {
                let latest = latest.map_or("none succeeded".to_owned(), |us| {
                    format!("the latest success was sent {} ms after the revocation", us / 1_000)
                });
                format!("under the bound {name}: {requests} requests, {latest}")
            })
            .collect();
        (!told.is_empty()).then(|| told.join("; "))
    }
}
