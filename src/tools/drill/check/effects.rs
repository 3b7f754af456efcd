//! I3 and I4: what leaders did, and what replicas believed, kept apart.

use std::collections::BTreeMap;

use super::{Facts, SECOND_US};
use crate::tools::drill::evidence::{BeliefSpan, Effect, Evidence};
use crate::tools::drill::verdict::{Invariant, Verdict};

/// A process that is woken has to be scheduled, and to read its clock or its closed socket, before it can stop
/// believing; on a machine that is busy waking a whole deployment this takes a part of a second.
pub const WAKE_MARGIN_US: u64 = SECOND_US;

/// The first and the last `seq` of each (timeline, epoch).
type Ranges = BTreeMap<(i32, i64), (i64, i64)>;

/// I3. `seq` is drawn under the fence: the last of one token comes before the first of the next.
pub(super) fn ordered(facts: &Facts<'_>) -> Verdict {
    let effects = &facts.evidence.database.effects;
    let mut roles: BTreeMap<&str, Ranges> = BTreeMap::new();
    for Effect { role, timeline, epoch, seq } in effects {
        let range = roles.entry(role).or_default().entry((*timeline, *epoch)).or_insert((*seq, *seq));
        *range = (range.0.min(*seq), range.1.max(*seq));
    }
    let mut breaches = Vec::new();
    for (role, tokens) in &roles {
        // Against all that came before, and not the one before only: that one may have done nothing late.
        let mut latest: Option<((i32, i64), i64)> = None;
        for (token, (first, last)) in tokens {
            if let Some((older, seq)) = latest.filter(|(_, seq)| seq >= first) {
                breaches.push(format!(
                    "{role}: the leader of epoch {} (timeline {}) acted as number {seq}, after number {first} of epoch \
                     {} (timeline {})",
                    older.1, older.0, token.1, token.0
                ));
            }
            if latest.is_none_or(|(_, seq)| seq < *last) {
                latest = Some((*token, *last));
            }
        }
    }
    Verdict::new(Invariant::EffectsOrdered, effects.len() as u64, breaches)
}

/// I4. Where two believe at once, one of them is paused, from the first moment to the last of it.
pub(super) fn one_belief(facts: &Facts<'_>) -> Verdict {
    let spans = spans(facts.evidence);
    let mut breaches = Vec::new();
    let mut excused = 0_u64;
    for (index, (a, a_end)) in spans.iter().enumerate() {
        for (b, b_end) in &spans[index + 1..] {
            let (from, until) = (a.began_us.max(b.began_us), *a_end.min(b_end));
            if a.duty != b.duty || a.replica == b.replica || from >= until {
                continue;
            }
            if is_paused(facts.evidence, a, from, until) || is_paused(facts.evidence, b, from, until) {
                excused += 1;
                continue;
            }
            breaches.push(format!(
                "{}: replicas {} (epoch {}) and {} (epoch {}) both believed to lead from {} to {}, and neither was \
                 paused for all of it",
                a.duty,
                a.replica,
                a.epoch,
                b.replica,
                b.epoch,
                facts.at(from),
                facts.at(until)
            ));
        }
    }
    let note = (excused > 0).then(|| format!("{excused} overlaps lie within the pause of one of the two"));
    Verdict::new(Invariant::OneBelief, spans.len() as u64, breaches).note(note)
}

/// Every span with its end, by its beginning.
pub fn spans(evidence: &Evidence) -> Vec<(&BeliefSpan, u64)> {
    let mut spans: Vec<_> = evidence.beliefs.iter().map(|span| (span, end(evidence, span))).collect();
    spans.sort_by_key(|(span, _)| span.began_us);
    spans
}

/// Where the log has no end: the process was killed, or it believed in something newer, or it believes still. That
/// the log shows no renewal does not end a belief, since renewals are not logged.
fn end(evidence: &Evidence, span: &BeliefSpan) -> u64 {
    let killed = evidence.absences.iter().filter(|absence| !absence.paused && absence.replica == span.replica);
    let killed = killed.map(|absence| absence.from_us).filter(|from| *from >= span.began_us).min();
    let same = evidence.beliefs.iter().filter(|other| other.replica == span.replica && other.duty == span.duty);
    let newer = same.map(|other| other.began_us).filter(|began| *began > span.began_us).min();
    let known = [span.ended_us, killed, newer].into_iter().flatten().min();
    known.unwrap_or(evidence.ended_us.max(span.trust_until_us))
}

fn is_paused(evidence: &Evidence, span: &BeliefSpan, from: u64, until: u64) -> bool {
    let pauses = evidence.absences.iter().filter(|absence| absence.paused && absence.replica == span.replica);
    pauses.into_iter().any(|pause| pause.from_us <= from && until <= pause.until_us + WAKE_MARGIN_US)
}
