//! I10: a run in which nothing could have gone wrong proves nothing, and one in which something happened that its scenario
//! excludes was another one.

use std::collections::HashSet;

use super::facts::{is_open, retries_of_open};
use super::{Facts, alone, silence};
use crate::tools::drill::evidence::{Attempt, Call, Evidence, Mark, MarkKind, Outcome};
use crate::tools::drill::state::LEADER_ROLE;
use crate::tools::drill::verdict::{Invariant, Verdict};

pub(super) fn not_vacuous(facts: &Facts<'_>) -> Verdict {
    let minimums = &facts.evidence.minimums;
    let reached = reached(facts);
    let demanded = [
        minimums.acknowledged,
        minimums.in_flight_at_fault,
        minimums.ambiguous,
        minimums.duplicates_retried,
        minimums.leader_changes,
        minimums.primary_changes,
        minimums.silenced,
        minimums.silences_judged,
        minimums.revocations,
        minimums.commits_cut,
        minimums.tried_alone,
        minimums.retried_alone,
        minimums.entered_alone,
    ];
    let all = reached.iter().zip(demanded);
    let missed = all.filter(|((_, reached), least)| reached < least);
    let mut breaches: Vec<String> =
        missed.map(|((what, reached), least)| format!("{what}: {reached}, at least {least} are demanded")).collect();
    let maximums = &facts.evidence.maximums;
    let counted = |what| reached.iter().find(|(name, _)| *name == what).map_or(0, |(_, count)| *count);
    let leaders = counted(LEADER_CHANGES).max(new_terms(facts));
    for (most, what, count) in [
        (maximums.leader_changes, LEADER_CHANGES, leaders),
        (maximums.primary_changes, PRIMARY_CHANGES, counted(PRIMARY_CHANGES)),
    ] {
        let over = most.filter(|most| count > *most);
        breaches.extend(over.map(|most| format!("{what}: {count}, at most {most} may be in this scenario")));
    }
    breaches.extend(facts.evidence.unfinished.clone());
    if facts.evidence.attempts.is_empty() {
        breaches.push("no client made a request".to_owned());
    }
    let counts: Vec<String> = reached.iter().map(|(what, count)| format!("{what}: {count}")).collect();
    let judged = demanded.iter().filter(|least| **least > 0).count()
        + [maximums.leader_changes, maximums.primary_changes].iter().flatten().count();
    Verdict::new(Invariant::NotVacuous, judged as u64, breaches).note(Some(counts.join("; ")))
}

const LEADER_CHANGES: &str = "changes of the leader";
const PRIMARY_CHANGES: &str = "changes of the primary";

/// What is counted, in the order of the minimums.
fn reached(facts: &Facts<'_>) -> [(&'static str, u64); 13] {
    let evidence = facts.evidence;
    // What the injector does not count is counted by the marks.
    let marked = |kind: MarkKind| facts.changes(kind).count() as u64;
    let counted = |name: &str| evidence.counts.get(name).copied().unwrap_or(0);
    let told = |name: &str, kind: MarkKind| evidence.counts.get(name).copied().unwrap_or_else(|| marked(kind));
    [
        ("acknowledged readings", acknowledged(evidence)),
        ("requests in flight at the fault", in_flight(evidence)),
        ("ambiguous requests that were sent again", ambiguous(evidence)),
        ("retries of what was unknown answered as duplicates", duplicates_retried(evidence)),
        (LEADER_CHANGES, told("leader_changes", MarkKind::Leader)),
        (PRIMARY_CHANGES, told("primary_changes", MarkKind::Primary)),
        ("devices silenced", evidence.silenced.len() as u64),
        ("silences judged", silence::judged(facts)),
        ("revocations followed by an attempt", revocations(facts)),
        ("connections cut after COMMIT", counted("commits_cut")),
        ("changes tried while no standby ran", alone::tried_at_somebody(facts)),
        ("retries of what was unknown meanwhile", alone::retried(facts)),
        ("sessions of a human meanwhile", counted("entered_alone")),
    ]
}

/// Leases of the leader's duty that somebody began to believe in since the first fault. Whoever loses it and gets it back
/// leads anew.
fn new_terms(facts: &Facts<'_>) -> u64 {
    let leads = facts.evidence.beliefs.iter().filter(|belief| belief.duty == LEADER_ROLE);
    let of = |is_new: bool| {
        let begun = leads.clone().filter(move |belief| (belief.began_us > facts.first_fault_us()) == is_new);
        begun.map(|belief| (belief.timeline, belief.epoch)).collect::<HashSet<_>>()
    };
    of(true).difference(&of(false)).count() as u64
}

fn acknowledged(evidence: &Evidence) -> u64 {
    let acknowledged = evidence.attempts.iter().filter(|attempt| attempt.outcome.is_acknowledged());
    acknowledged.map(|attempt| items(attempt).map_or(0, |numbers| numbers.len() as u64)).sum()
}

fn items(attempt: &Attempt) -> Option<Vec<u64>> {
    match &attempt.call {
        Call::Readings { items, .. } => Some(items.iter().map(|item| item.n).collect()),
        _ => None,
    }
}

fn in_flight(evidence: &Evidence) -> u64 {
    let faults = evidence.marks.iter().filter(|mark| mark.what == MarkKind::FaultBegan);
    let faults: Vec<u64> = faults.map(|mark: &Mark| mark.at_us).collect();
    let hit = |attempt: &&Attempt| faults.iter().any(|at| attempt.sent_us < *at && *at < attempt.done_us);
    evidence.attempts.iter().filter(hit).count() as u64
}

/// Requests with readings of an unknown outcome, of which some reading was sent again later.
fn ambiguous(evidence: &Evidence) -> u64 {
    let mut later = HashSet::new();
    let mut attempts: Vec<&Attempt> = evidence.attempts.iter().collect();
    attempts.sort_by_key(|attempt| std::cmp::Reverse((attempt.sent_us, attempt.number)));
    let mut found = 0;
    for attempt in attempts {
        let Some(numbers) = items(attempt) else { continue };
        if is_open(&attempt.outcome) && numbers.iter().any(|n| later.contains(&(attempt.device, *n))) {
            found += 1;
        }
        later.extend(numbers.into_iter().map(|n| (attempt.device, n)));
    }
    found
}

fn duplicates_retried(evidence: &Evidence) -> u64 {
    let retries = retries_of_open(evidence).into_iter();
    let duplicates = retries.filter(|attempt| matches!(attempt.outcome, Outcome::Acknowledged { duplicates: 1.., .. }));
    duplicates.count() as u64
}

fn revocations(facts: &Facts<'_>) -> u64 {
    let acknowledged = facts.evidence.attempts.iter().filter(|attempt| attempt.outcome.is_acknowledged());
    let followed = acknowledged.filter(|revoke| match revoke.call {
        Call::Revoke { device } => facts.of_device(device).iter().any(|attempt| attempt.sent_us > revoke.done_us),
        _ => false,
    });
    followed.count() as u64
}
