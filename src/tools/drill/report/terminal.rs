//! The report for a terminal: one line for each scenario, then what failed and how to repeat it.

use comfy_table::{Table, presets};

use super::{Run, RunReport, ScenarioReport, words};
use crate::tools::drill::figures::Figure;
use crate::tools::drill::stalls::Stalls;
use crate::tools::drill::verdict::Verdict;

/// Breaches of one invariant that are told in a terminal; the page tells more.
const TOLD_MAX: usize = 5;

/// The table of all scenarios, and every failure in words.
pub fn table(report: &RunReport) -> String {
    let mut table = Table::new();
    let header = ["SCENARIO", "RESULT", "RUNS", "BROKEN", "WRITE GAP", "TAKE-OVER", "LEADER AFTER", "ERRORS", "FAILED"];
    table.load_style(presets::NOTHING).set_header(header.to_vec());
    for scenario in &report.scenarios {
        let mut row = vec![
            scenario.name.clone(),
            if scenario.passed() { "pass" } else { "FAIL" }.to_owned(),
            format!("{}/{}", scenario.runs.len() - scenario.failed().count(), scenario.runs.len()),
            broken(scenario),
        ];
        row.extend(Figure::ALL.into_iter().map(|figure| cell(scenario, figure)));
        table.add_row(row.iter().map(|text| clean(text)).collect::<Vec<_>>());
    }
    let failures: Vec<String> = report.failed().map(|(scenario, run)| failure(report, scenario, run)).collect();
    let key = "Figures: median / worst of the runs (bound); ! marks a broken bound. FAILED: requests, after one retry.";
    let verdict = if report.passed() { "PASS" } else { "FAIL" };
    let failed = report.failed().count();
    let runs: usize = report.scenarios.iter().map(|scenario| scenario.runs.len()).sum();
    let counts = format!("{}, {} failed", words::count(runs, "run"), failed);
    format!("{}\n\n{key}\n{}\n{verdict}: {counts}; seed {}\n", table.trim_fmt(), failures.concat(), report.seed)
}

/// One run's verdicts, one line each, with the breaches below.
pub fn told(run: &Run) -> String {
    let mut lines: Vec<String> = run.aborted.iter().map(|why| format!("could not be judged: {why}")).collect();
    for verdict in &run.verdicts {
        let state = if verdict.held { "held  " } else { "BROKEN" };
        let invariant = verdict.invariant;
        lines.push(format!("{:<4} {state} {} ({} judged)", invariant.code(), invariant.title(), verdict.judged));
        lines.extend(verdict.notes.iter().map(|note| format!("            {note}")));
        lines.extend(breaches(verdict).map(|breach| format!("          - {breach}")));
    }
    for line in &run.figure_verdicts {
        let value = line.value.map_or("-".to_owned(), |value| words::value(line.figure, value));
        let bound = line.bound.map(|bound| format!(" (at most {})", words::value(line.figure, bound)));
        let state = if line.held { "    " } else { "OVER" };
        lines.push(format!("     {state}   {}: {value}{}", line.figure.title(), bound.unwrap_or_default()));
        if line.figure == Figure::FailedAfterOneRetry {
            let kinds = run.figures.failed_retries.iter();
            lines.extend(kinds.map(|(kind, count)| format!("            {count} of them: {kind}")));
        }
    }
    let Stalls { timer_us, sync_us, stolen_permille, .. } = &run.stalls;
    let waits = [*timer_us, *sync_us].map(|us| words::value(Figure::WriteGap, us));
    let [late, sync] = &waits;
    lines.push(format!(
        "            the machine: woke up {late} late, synced 4 KiB in {sync}, {stolen_permille} ‰ of its cores stolen"
    ));
    lines.iter().map(|line| clean(line) + "\n").collect()
}

fn breaches(verdict: &Verdict) -> impl Iterator<Item = String> {
    let more = verdict.breaches_total.saturating_sub(verdict.breaches.len().min(TOLD_MAX) as u64);
    let told = verdict.breaches.iter().take(TOLD_MAX).cloned();
    told.chain((more > 0).then(|| format!("… and {more} more")))
}

fn failure(report: &RunReport, scenario: &ScenarioReport, run: &Run) -> String {
    let mut lines = vec![format!("{} failed (seed {})", scenario.name, run.seed)];
    lines.extend(run.aborted.iter().map(|why| format!("  could not be judged: {why}")));
    for verdict in run.verdicts.iter().filter(|verdict| !verdict.held) {
        lines.push(format!("  {} {}: broken", verdict.invariant.code(), verdict.invariant.title()));
        lines.extend(breaches(verdict).map(|breach| format!("    - {breach}")));
    }
    lines.extend(run.figure_verdicts.iter().filter(|line| !line.held).map(|line| format!("  {}", words::broken(line))));
    lines.push(format!("  repeat it: {}", report.repeat(scenario, run)));
    lines.iter().map(|line| format!("\n{}", clean(line))).collect::<Vec<_>>().concat() + "\n"
}

fn broken(scenario: &ScenarioReport) -> String {
    let verdicts = scenario.runs.iter().flat_map(|run| &run.verdicts).filter(|verdict| !verdict.held);
    let mut broken: Vec<_> = verdicts.map(|verdict| verdict.invariant).collect();
    broken.sort_unstable();
    broken.dedup();
    let aborted = scenario.runs.iter().any(|run| run.aborted.is_some()).then(|| "aborted".to_owned());
    let codes: Vec<String> = broken.into_iter().map(super::super::verdict::Invariant::code).chain(aborted).collect();
    if codes.is_empty() { "-".to_owned() } else { codes.join(" ") }
}

fn cell(scenario: &ScenarioReport, figure: Figure) -> String {
    let Some(spread) = scenario.spread(figure) else { return "-".to_owned() };
    let show = |value| words::value(figure, value);
    let bound = spread.bound.map(|bound| format!(" ({})", show(bound))).unwrap_or_default();
    let mark = if spread.held { "" } else { "!" };
    if spread.of == 0 {
        return format!("none{bound}{mark}");
    }
    format!("{} / {}{bound}{mark}", show(spread.median), show(spread.worst))
}

/// Without control characters: error texts come from outside.
fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}
