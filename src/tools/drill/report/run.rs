//! One run, ready to be shown. Times are microseconds since its beginning.

use serde::{Deserialize, Serialize};

use super::lanes::{self, Lane};
use super::series::Series;
use crate::tools::drill::check;
use crate::tools::drill::evidence::{Evidence, MarkKind};
use crate::tools::drill::figures::{Figure, FigureVerdict, Figures};
use crate::tools::drill::stalls::Stalls;
use crate::tools::drill::verdict::Verdict;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    pub seed: u64,
    pub duration_us: u64,
    /// It could not be judged: the deployment did not come up, the fault could not be injected.
    pub aborted: Option<String>,
    pub verdicts: Vec<Verdict>,
    pub figures: Figures,
    pub figure_verdicts: Vec<FigureVerdict>,
    pub marks: Vec<MarkAt>,
    /// From each fault to its end, where that was marked, or else until all was well.
    pub faults: Vec<(u64, u64)>,
    pub lanes: Vec<Lane>,
    pub series: Series,
    /// How long the machine stood still.
    #[serde(default)]
    pub stalls: Stalls,
    /// A time that was measured after a fault may be longer by so much.
    #[serde(default)]
    pub stalled_us: u64,
    /// And is then no measurement.
    #[serde(default)]
    pub stood_still: bool,
    /// Standbys that were synchronous before the fault.
    #[serde(default)]
    pub synchronous_standbys: u64,
}

/// A mark, since the run's beginning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkAt {
    pub at_us: u64,
    pub what: MarkKind,
    pub text: String,
}

impl Run {
    /// Judges and measures.
    pub fn of(evidence: &Evidence) -> Self {
        let since = |us: u64| us.saturating_sub(evidence.started_us);
        let figures = Figures::of(evidence);
        // All figures are measured from a fault on.
        let windows = check::fault_windows(evidence);
        let mut marks: Vec<MarkAt> = evidence
            .marks
            .iter()
            .map(|mark| MarkAt { at_us: since(mark.at_us), what: mark.what, text: mark.text.clone() })
            .collect();
        marks.sort_by_key(|mark| mark.at_us);
        Self {
            seed: evidence.seed,
            duration_us: since(evidence.ended_us),
            aborted: None,
            verdicts: check::judge(evidence),
            figure_verdicts: figures.judge(&evidence.bounds),
            figures,
            faults: faults(evidence).into_iter().map(|(from, until)| (since(from), since(until))).collect(),
            marks,
            lanes: lanes::lanes(evidence),
            series: Series::of(evidence),
            stalls: evidence.stalls.clone(),
            stalled_us: evidence.stalls.longest_us(&windows),
            stood_still: evidence.stalls.are_much(&windows),
            synchronous_standbys: evidence.synchronous_standbys,
        }
    }

    /// A run that came to no evidence. It counts as failed.
    pub fn aborted(seed: u64, why: impl Into<String>) -> Self {
        Self {
            seed,
            duration_us: 0,
            aborted: Some(why.into()),
            verdicts: Vec::new(),
            figures: Figures::default(),
            figure_verdicts: Vec::new(),
            marks: Vec::new(),
            faults: Vec::new(),
            lanes: Vec::new(),
            series: Series::default(),
            stalls: Stalls::default(),
            stalled_us: 0,
            stood_still: false,
            synchronous_standbys: 0,
        }
    }

    pub fn passed(&self) -> bool {
        self.kept_promises() && self.figure_verdicts.iter().all(|line| line.held)
    }

    /// Did the machine stand still after a fault, and is no time further over its bound than that? A count may be over it
    /// by any.
    pub fn is_excused(&self) -> bool {
        let explained = |line: &FigureVerdict| match (line.figure, line.value, line.bound) {
            (Figure::FailedAfterOneRetry, ..) => true,
            (_, Some(value), Some(bound)) => value.saturating_sub(bound) <= self.stalled_us,
            _ => false,
        };
        self.stood_still && self.figure_verdicts.iter().filter(|line| !line.held).all(explained)
    }

    /// Every invariant held, whatever the figures are.
    pub fn kept_promises(&self) -> bool {
        self.aborted.is_none() && self.verdicts.iter().all(|verdict| verdict.held)
    }
}

fn faults(evidence: &Evidence) -> Vec<(u64, u64)> {
    let ended = evidence.marks.iter().filter(|mark| mark.what == MarkKind::FaultEnded);
    let mut ended: Vec<u64> = ended.map(|mark| mark.at_us).collect();
    ended.sort_unstable();
    let windows = check::fault_windows(evidence).into_iter();
    windows.map(|(from, healthy)| (from, ended.iter().copied().find(|at| *at >= from).unwrap_or(healthy))).collect()
}
