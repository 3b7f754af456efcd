//! Spans without service: of writes, and of a leader.

use crate::tools::drill::check;
use crate::tools::drill::evidence::{Attempt, BeliefSpan, Call, Evidence, MarkKind};

/// The duty whose holder is *the leader*.
const LEADERS_DUTY: &str = "sweeper";

/// The longest span between two acknowledged readings that overlaps a fault's window; with no fault, of the run.
/// `None`: no reading was acknowledged at all.
pub(super) fn write_gap(evidence: &Evidence) -> Option<(u64, u64)> {
    let mut times: Vec<u64> = evidence.attempts.iter().filter(|a| is_write(a)).map(|a| a.done_us).collect();
    times.sort_unstable();
    times.first()?;
    // Writes that never come back are out until the end.
    times.push(evidence.ended_us.max(times.last().copied().unwrap_or(0)));
    let windows = check::fault_windows(evidence);
    let overlaps = |from: u64, until: u64| {
        windows.is_empty() || windows.iter().any(|(began, healthy)| from < *healthy && until > *began)
    };
    let gaps = times.windows(2).map(|pair| (pair[0], pair[1])).filter(|(from, until)| overlaps(*from, *until));
    gaps.max_by_key(|(from, until)| until - from)
}

fn is_write(attempt: &Attempt) -> bool {
    matches!(attempt.call, Call::Readings { .. }) && attempt.outcome.is_acknowledged()
}

fn first_fault(evidence: &Evidence) -> Option<u64> {
    evidence.marks.iter().filter(|mark| mark.what == MarkKind::FaultBegan).map(|mark| mark.at_us).min()
}

/// From the first fault to the belief of a replica that did not lead when it began. Where no replica's log tells, the
/// mark does.
pub(super) fn takeover(evidence: &Evidence) -> Option<u64> {
    let fault = first_fault(evidence)?;
    let spans = leaders(evidence);
    let held_by =
        spans.iter().rfind(|(span, end)| span.began_us <= fault && *end >= fault).map(|(span, _)| span.replica);
    let next = spans.iter().find(|(span, _)| span.began_us > fault && Some(span.replica) != held_by);
    let marked = || {
        let marks = evidence.marks.iter().filter(|mark| mark.what == MarkKind::Leader && mark.at_us > fault);
        marks.map(|mark| mark.at_us).min()
    };
    let at = if spans.is_empty() { marked() } else { next.map(|(span, _)| span.began_us) };
    at.map(|at| at - fault)
}

/// From the end of the write gap to a leader that believes and runs; zero where it did so all the time.
pub(super) fn leader_after_writes(evidence: &Evidence) -> Option<u64> {
    first_fault(evidence)?;
    let (_, writes) = write_gap(evidence)?;
    let spans = leaders(evidence);
    let works = |span: &BeliefSpan, end: u64| {
        let mut from = span.began_us.max(writes);
        for absence in evidence.absences.iter().filter(|absence| absence.replica == span.replica && absence.paused) {
            if absence.from_us <= from && from < absence.until_us {
                from = absence.until_us;
            }
        }
        (from < end).then_some(from)
    };
    spans.iter().filter_map(|(span, end)| works(span, *end)).min().map(|at| at - writes)
}

fn leaders(evidence: &Evidence) -> Vec<(&BeliefSpan, u64)> {
    let mut spans = check::belief_spans(evidence);
    spans.retain(|(span, _)| span.duty == LEADERS_DUTY);
    spans
}
