//! What a drill tells people: a JSON file for machines, a table for the terminal, and one page for the operator who is
//! woken by it. All three are made of one [`RunReport`], which is plain data.

mod lanes;
mod page;
mod run;
mod series;
mod terminal;
#[cfg(test)]
mod tests;
mod words;

use serde::{Deserialize, Serialize};

pub use self::lanes::{Lane, LaneSpan};
pub use self::page::page;
pub use self::run::{MarkAt, Run};
pub use self::series::{Moment, Series};
pub use self::terminal::{table, told};
use super::figures::Figure;

/// Everything of one call of `everbeat drill`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunReport {
    /// When it began, as people write it.
    pub date: String,
    pub machine: Machine,
    /// Of this binary.
    pub version: String,
    /// From which the runs' own seeds were drawn.
    pub seed: u64,
    /// What else the command needs to be repeated: `--on docker`. Empty: nothing.
    pub arguments: String,
    pub scenarios: Vec<ScenarioReport>,
}

/// Where it ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    pub cores: usize,
    pub memory_mib: u64,
}

/// All runs of one scenario.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScenarioReport {
    pub name: String,
    pub about: String,
    pub runs: Vec<Run>,
}

/// A figure over several runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spread {
    pub median: u64,
    pub worst: u64,
    /// How many runs have it.
    pub of: usize,
    pub bound: Option<u64>,
    pub held: bool,
}

impl RunReport {
    /// A report without a run has shown nothing, and has not passed.
    pub fn passed(&self) -> bool {
        !self.scenarios.is_empty() && self.scenarios.iter().all(ScenarioReport::passed)
    }

    /// Failed, but only because figures are over their bounds: no promise was broken, and each run proved enough.
    pub fn only_slow(&self) -> bool {
        let ran = !self.scenarios.is_empty() && self.scenarios.iter().all(|scenario| !scenario.runs.is_empty());
        ran && !self.passed() && self.failed().all(|(_, run)| run.kept_promises())
    }

    /// [`Self::only_slow`], and in each of these runs the machine stood still for what is over the bounds.
    pub fn stood_still(&self) -> bool {
        self.only_slow() && self.failed().all(|(_, run)| run.is_excused())
    }

    /// Runs that failed, with their scenario.
    pub fn failed(&self) -> impl Iterator<Item = (&ScenarioReport, &Run)> {
        self.scenarios.iter().flat_map(|scenario| scenario.failed().map(move |run| (scenario, run)))
    }

    /// The command that repeats a run.
    pub fn repeat(&self, scenario: &ScenarioReport, run: &Run) -> String {
        let more = if self.arguments.is_empty() { String::new() } else { format!(" {}", self.arguments) };
        format!("everbeat drill --only {} --seed {}{more}", scenario.name, run.seed)
    }
}

impl ScenarioReport {
    pub fn passed(&self) -> bool {
        !self.runs.is_empty() && self.runs.iter().all(Run::passed)
    }

    pub fn failed(&self) -> impl Iterator<Item = &Run> {
        self.runs.iter().filter(|run| !run.passed())
    }

    /// `None`: no run has it, and none is blamed for that.
    pub fn spread(&self, figure: Figure) -> Option<Spread> {
        let lines = || self.runs.iter().flat_map(|run| &run.figure_verdicts).filter(|line| line.figure == figure);
        let mut values: Vec<u64> = lines().filter_map(|line| line.value).collect();
        values.sort_unstable();
        let held = lines().all(|line| line.held);
        let bound = lines().find_map(|line| line.bound);
        let worst = values.last().copied().unwrap_or(0);
        // Of an even number the worse of the two in the middle.
        let median = values.get(values.len() / 2).copied().unwrap_or(0);
        (!values.is_empty() || !held).then_some(Spread { median, worst, of: values.len(), bound, held })
    }

    /// The run that shows most: of those that failed, or else of all, the one with the longest write gap.
    pub fn worst(&self) -> Option<&Run> {
        let gap = |run: &&Run| run.figures.values.get(&Figure::WriteGap).copied().unwrap_or(0);
        self.runs.iter().max_by_key(|run| (!run.passed(), gap(run)))
    }
}
