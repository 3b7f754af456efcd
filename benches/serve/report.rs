//! The figures of one run: medians with their spread, and ratios between rows of the same round.

use std::fmt::Write;
use std::path::Path;

use crate::{CONNECTIONS, ROUND, ROUNDS, Work};

/// In docs/performance.md, what stands between these lines is written by the command.
const BEGIN: &str = "<!-- begin: written by ./script/bench-peers -->\n";
const END: &str = "<!-- end: written by ./script/bench-peers -->\n";
const BEGIN_ALONE: &str = "<!-- begin: written by ./script/bench figures -->\n";
const END_ALONE: &str = "<!-- end: written by ./script/bench figures -->\n";

/// `(above, below, at least)`: what the ratio of the two should be.
const GOALS: [(Work, Work, f64); 8] = [
    (Work::Heartbeat, Work::Empty, 0.80),
    (Work::Reading, Work::Empty, 0.45),
    (Work::Reading, Work::PgInsert, 3.0),
    (Work::Heartbeat, Work::PgUpdate, 3.0),
    (Work::Batch, Work::PgUnnest, 0.6),
    // At most 1.2 times the CPU.
    (Work::Crowded, Work::Heartbeat, 0.83),
    (Work::Reading, Work::InfluxDb, 2.0),
    (Work::Reading, Work::FastApi, 10.0),
];

/// Rates per second, by row and round.
pub(crate) struct Table(Vec<(Work, Vec<f64>)>);

/// Median, least and most.
struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        Self { median: sorted[sorted.len() / 2], least: sorted[0], most: sorted[sorted.len() - 1] }
    }
}

impl Table {
    pub(crate) fn new(kinds: &[Work]) -> Self {
        Self(kinds.iter().map(|work| (*work, Vec::new())).collect())
    }

    pub(crate) fn add(&mut self, work: Work, rate: f64) {
        self.0.iter_mut().filter(|(of, _)| *of == work).for_each(|(_, rates)| rates.push(rate));
    }

    fn rates(&self, work: Work) -> Option<&[f64]> {
        self.0.iter().find(|(of, _)| *of == work).map(|(_, rates)| rates.as_slice())
    }

    /// Round by round. Batches are compared with the better of the two ways that PostgreSQL has.
    fn ratio(&self, above: Work, below: Work) -> Option<Spread> {
        let (above, mut below_rates) = (self.rates(above)?, self.rates(below)?.to_vec());
        if below == Work::PgUnnest {
            let copied = self.rates(Work::PgCopy)?;
            below_rates.iter_mut().zip(copied).for_each(|(rate, copied)| *rate = rate.max(*copied));
        }
        let ratios: Vec<f64> = above.iter().zip(&below_rates).map(|(above, below)| above / below).collect();
        Some(Spread::of(&ratios))
    }

    pub(crate) fn text(&self) -> String {
        let mut text = String::from("| | per second | least to most |\n|---|---|---|\n");
        for (work, rates) in &self.0 {
            let Spread { median, least, most } = Spread::of(rates);
            let _ = writeln!(text, "| {} | {median:.0} | {least:.0} to {most:.0} |", work.name());
        }
        text.push_str("\n| ratio, round by round | median | least to most | goal |\n|---|---|---|---|\n");
        for (above, below, goal) in GOALS {
            let Some(Spread { median, least, most }) = self.ratio(above, below) else { continue };
            let of = if below == Work::PgUnnest { "the better of unnest and COPY" } else { below.name() };
            let missed = if median < goal { ", missed" } else { "" };
            let name = above.name();
            let _ = writeln!(text, "| {name} ÷ {of} | {median:.2} | {least:.2} to {most:.2} | {goal:.2}{missed} |");
        }
        text
    }

    /// Replaces the tables in the file.
    pub(crate) fn write(&self, file: &Path) {
        let old = std::fs::read_to_string(file).unwrap();
        let (begin, end) = if self.rates(Work::Redis).is_some() { (BEGIN, END) } else { (BEGIN_ALONE, END_ALONE) };
        let (head, rest) = old.split_once(begin).unwrap_or_else(|| panic!("{} has no {begin}", file.display()));
        let (_, tail) = rest.split_once(end).unwrap_or_else(|| panic!("{} has no {end}", file.display()));
        let date = everbeat::domain::time::Clock::System.wall().date();
        let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
        let about = format!(
            "{date}, {cores} cores for everything, {CONNECTIONS} connections, medians of {ROUNDS} rounds of {} s.\n\n",
            ROUND.as_secs()
        );
        std::fs::write(file, format!("{head}{begin}{about}{}{end}{tail}", self.text())).unwrap();
    }
}
