//! I8: on one replica nothing becomes older. Requests that overlap in time are not compared: either order is right.
//!
//! PostgreSQL shows a commit whose wait for a standby was cut short like any other, and the next primary may lack it. What was
//! only shown, and acknowledged to nobody, may be gone behind a change of the primary.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::{Facts, SECOND_US};
use crate::tools::drill::evidence::{Attempt, Call, MarkKind};
use crate::tools::drill::verdict::{Invariant, Verdict};

/// What one answer showed.
struct Sight<'a, T> {
    attempt: &'a Attempt,
    shown: T,
    /// A change sets the floor for what comes later, and is itself not judged.
    is_judged: bool,
}

pub(super) fn forward(facts: &Facts<'_>) -> Verdict {
    let mut breaches = Vec::new();
    let mut judged = 0;
    for ((replica, resource), sights) in versions(facts) {
        judged += sights.iter().filter(|sight| sight.is_judged).count();
        backwards(sights, |before, after| {
            if was_never_promised(facts, resource, before, after) {
                return Fall::Excused;
            }
            let verb = if before.is_judged { "shown" } else { "acknowledged the change to" };
            breaches.push(format!(
                "replica {replica} showed version {} of {resource} to a request sent {}, after it had {verb} version {} \
                 at {}",
                after.shown, facts.at(after.attempt.sent_us), before.shown, facts.at(before.attempt.done_us)
            ));
            Fall::Told
        });
    }
    let mut positions_judged = 0;
    for (replica, sights) in positions(facts) {
        positions_judged += sights.len();
        backwards(sights, |before, after| {
            breaches.push(format!(
                "replica {replica} stood at {}:{} of the change log for a request sent {}, after it had stood at {}:{} \
                 at {}",
                after.shown.0,
                after.shown.1,
                facts.at(after.attempt.sent_us),
                before.shown.0,
                before.shown.1,
                facts.at(before.attempt.done_us)
            ));
            Fall::Told
        });
    }
    let note = (positions_judged > 0).then(|| format!("{positions_judged} positions in the change log were compared"));
    Verdict::new(Invariant::CachesForward, judged as u64, breaches).note(note)
}

type Versions<'a> = BTreeMap<(Uuid, &'a str), Vec<Sight<'a, i64>>>;

/// Versions that a replica showed or acknowledged, for each resource.
fn versions<'a>(facts: &Facts<'a>) -> Versions<'a> {
    let mut found = Versions::new();
    for attempt in facts.evidence.attempts.iter().filter(|attempt| attempt.outcome.is_acknowledged()) {
        let (resource, version, is_judged) = match &attempt.call {
            Call::Read { resource, version: Some(version) } => (resource, version, true),
            Call::Change { resource, version: Some(version) } => (resource, version, false),
            _ => continue,
        };
        if let Some(replica) = attempt.replica {
            let sight = Sight { attempt, shown: *version, is_judged };
            found.entry((replica, resource)).or_default().push(sight);
        }
    }
    found
}

/// A replica's id is its process's, so a restart begins anew. A later timeline is further, whatever comes behind it.
fn positions<'a>(facts: &Facts<'a>) -> BTreeMap<Uuid, Vec<Sight<'a, (u64, u64)>>> {
    let mut found: BTreeMap<Uuid, Vec<_>> = BTreeMap::new();
    for attempt in &facts.evidence.attempts {
        if let (Some(replica), Some(shown)) = (attempt.replica, attempt.position.as_deref().and_then(parse)) {
            found.entry(replica).or_default().push(Sight { attempt, shown, is_judged: true });
        }
    }
    found
}

/// `<timeline>:<number>`; what is written otherwise is not judged.
fn parse(position: &str) -> Option<(u64, u64)> {
    let (timeline, number) = position.trim().split_once(':')?;
    Some((timeline.trim().parse().ok()?, number.trim().parse().ok()?))
}

/// Another primary was seen in between, and nobody was told of a change that is newer than what is shown now.
fn was_never_promised(facts: &Facts<'_>, resource: &str, before: &Sight<'_, i64>, after: &Sight<'_, i64>) -> bool {
    let between = before.attempt.sent_us..=after.attempt.done_us.saturating_add(NOTICED_US);
    let mut changes = facts.changes(MarkKind::Primary);
    if !before.is_judged || !changes.any(|mark| between.contains(&mark.at_us)) {
        return false;
    }
    let promised = |attempt: &&Attempt| match &attempt.call {
        Call::Change { resource: of, version: Some(version) } => of == resource && *version > after.shown,
        _ => false,
    };
    let earlier = |attempt: &&Attempt| attempt.outcome.is_acknowledged() && attempt.done_us < after.attempt.sent_us;
    !facts.evidence.attempts.iter().filter(earlier).any(|attempt| promised(&attempt))
}

/// So late the drill may see who is primary: a look at a node that says nothing takes its whole limit.
const NOTICED_US: u64 = 3 * SECOND_US;

/// What is made of an answer that shows less than an earlier one.
enum Fall {
    Told,
    /// What comes later is compared with this answer.
    Excused,
}

/// Tells of every judged answer that shows less than one which had ended before it was asked for.
fn backwards<T: Ord + Copy>(mut sights: Vec<Sight<'_, T>>, mut tell: impl FnMut(&Sight<'_, T>, &Sight<'_, T>) -> Fall) {
    let mut by_end: Vec<usize> = (0..sights.len()).collect();
    sights.sort_by_key(|sight| sight.attempt.sent_us);
    by_end.sort_by_key(|index| sights[*index].attempt.done_us);
    let mut ended = by_end.into_iter().peekable();
    let mut floor: Option<usize> = None;
    for (place, after) in sights.iter().enumerate() {
        while let Some(index) = ended.next_if(|index| sights[*index].attempt.done_us < after.attempt.sent_us) {
            if floor.is_none_or(|floor| sights[floor].shown < sights[index].shown) {
                floor = Some(index);
            }
        }
        if let Some(before) = floor.map(|floor| &sights[floor])
            && after.is_judged
            && after.shown < before.shown
            && matches!(tell(before, after), Fall::Excused)
        {
            floor = Some(place);
        }
    }
}
