//! Who led and who was primary, over time.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::tools::drill::check::{self, SECOND_US};
use crate::tools::drill::evidence::{BeliefSpan, Evidence, MarkKind};

/// A mark names the leader whose belief began up to so long before it.
const MARK_LAG_US: u64 = 3 * SECOND_US;

/// One row of the timeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lane {
    pub name: String,
    pub spans: Vec<LaneSpan>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneSpan {
    pub from_us: u64,
    pub until_us: u64,
    pub label: String,
    /// Tells neighbours apart: the same number is the same holder.
    pub holder: usize,
}

pub fn lanes(evidence: &Evidence) -> Vec<Lane> {
    let duties: BTreeSet<&str> = evidence.beliefs.iter().map(|belief| belief.duty.as_str()).collect();
    let beliefs = duties.into_iter().rev().map(|duty| Lane { name: duty.to_owned(), spans: beliefs(evidence, duty) });
    let primary = Lane { name: "primary".to_owned(), spans: marked(evidence, MarkKind::Primary) };
    beliefs.chain([primary]).filter(|lane| !lane.spans.is_empty()).collect()
}

/// As the replicas believed, with the gaps in which nobody did.
fn beliefs(evidence: &Evidence, duty: &str) -> Vec<LaneSpan> {
    let mut holders = Vec::new();
    let spans = check::belief_spans(evidence).into_iter().filter(|(span, _)| span.duty == duty);
    spans
        .map(|(span, end)| LaneSpan {
            from_us: span.began_us.saturating_sub(evidence.started_us),
            until_us: end.saturating_sub(evidence.started_us),
            label: leader(evidence, span),
            holder: position(&mut holders, span.replica),
        })
        .filter(|span| span.until_us > span.from_us)
        .collect()
}

/// `replica 2, epoch 8`, where a mark tells who it is.
fn leader(evidence: &Evidence, span: &BeliefSpan) -> String {
    let from = span.began_us.max(evidence.started_us);
    let named = |at_us: u64| at_us >= from && at_us <= from + MARK_LAG_US;
    let mark = evidence.marks.iter().find(|mark| mark.what == MarkKind::Leader && named(mark.at_us));
    let who = match mark {
        Some(mark) if span.duty == "sweeper" && !mark.text.is_empty() => mark.text.clone(),
        // The end of a UUIDv7 is its random part.
        _ => span.replica.simple().to_string().chars().skip(24).collect(),
    };
    format!("{who}, epoch {}", span.epoch)
}

/// From each mark to the next.
fn marked(evidence: &Evidence, kind: MarkKind) -> Vec<LaneSpan> {
    let mut marks: Vec<_> = evidence.marks.iter().filter(|mark| mark.what == kind).collect();
    marks.sort_by_key(|mark| mark.at_us);
    let ends = marks.iter().skip(1).map(|mark| mark.at_us).chain([evidence.ended_us]);
    let mut holders = Vec::new();
    let spans = marks.iter().zip(ends).map(|(mark, end)| LaneSpan {
        from_us: mark.at_us.saturating_sub(evidence.started_us),
        until_us: end.saturating_sub(evidence.started_us),
        label: mark.text.clone(),
        holder: position(&mut holders, mark.text.as_str()),
    });
    spans.filter(|span| span.until_us > span.from_us).collect()
}

/// The number of a holder, given in the order in which they appear.
fn position<T: PartialEq>(known: &mut Vec<T>, holder: T) -> usize {
    known.iter().position(|one| *one == holder).unwrap_or_else(|| {
        known.push(holder);
        known.len() - 1
    })
}
