//! The section of one scenario: its invariants, its figures, and pictures of the runs that matter.

use std::collections::BTreeMap;

use super::{summary, timeline};
use crate::tools::drill::report::{Run, RunReport, ScenarioReport, words};
use crate::tools::drill::verdict::{Invariant, Verdict};
use crate::tools::page::markup::{Markup, span, tag, text};

/// Breaches that the page tells of one invariant in one run; the JSON has a hundred.
const BREACHES_MAX: usize = 20;
/// Failed runs that are drawn, and the worst one besides.
const DRAWN_MAX: usize = 4;

/// Folded when all is well: whoever looks, looks for what is not.
pub fn section(report: &RunReport, scenario: &ScenarioReport) -> Markup {
    let title = [tag("h2", &[], [text(&scenario.name)]), summary::chip(scenario.passed())];
    let runs = words::count(scenario.runs.len(), "run");
    let head = tag("summary", &[], title.into_iter().chain([span("runs", &runs)]));
    let mut parts = vec![head, tag("p", &[("class", "about")], [text(&scenario.about)])];
    if scenario.runs.iter().any(|run| !run.verdicts.is_empty()) {
        parts.push(invariants(scenario));
    }
    parts.extend(drawn(scenario).into_iter().map(|run| picture(report, scenario, run)));
    parts.push(errors(scenario));
    let open: &[(&str, &str)] =
        if scenario.passed() { &[("id", &scenario.name)] } else { &[("id", &scenario.name), ("open", "")] };
    tag("details", open, parts)
}

/// One row for each invariant over all runs; breaches below it.
fn invariants(scenario: &ScenarioReport) -> Markup {
    let rows = Invariant::ALL.into_iter().filter_map(|invariant| {
        let of = |run: &'_ Run| run.verdicts.iter().find(|verdict| verdict.invariant == invariant).cloned();
        let verdicts: Vec<(u64, Verdict)> = scenario.runs.iter().filter_map(|run| Some((run.seed, of(run)?))).collect();
        row(invariant, &verdicts)
    });
    let header = ["", "promise", "", "judged", "what was seen"].map(|name| tag("th", &[], [text(name)]));
    let table = [tag("thead", &[], [tag("tr", &[], header)]), tag("tbody", &[], rows.collect::<Vec<_>>())];
    tag("div", &[("class", "wide")], [tag("table", &[("class", "invariants")], table)])
}

fn row(invariant: Invariant, verdicts: &[(u64, Verdict)]) -> Option<Markup> {
    let judged: u64 = verdicts.iter().map(|(_, verdict)| verdict.judged).sum();
    let held = verdicts.iter().all(|(_, verdict)| verdict.held);
    // Of many runs the last one's notes stand for all; the JSON has each.
    let mut seen: Vec<Markup> = verdicts.last()?.1.notes.iter().map(|note| tag("p", &[], [text(note)])).collect();
    seen.extend(verdicts.iter().filter(|(_, verdict)| !verdict.held).map(|(seed, verdict)| breaches(*seed, verdict)));
    let state = match (held, judged) {
        (false, _) => span("chip bad", "BROKEN"),
        (true, 0) => span("chip idle", "not tried"),
        (true, _) => span("chip good", "held"),
    };
    let cells = [
        tag("td", &[], [tag("b", &[], [text(&invariant.code())])]),
        tag("td", &[], [text(invariant.title())]),
        tag("td", &[], [state]),
        tag("td", &[("class", "number")], [text(&grouped(judged))]),
        tag("td", &[("class", "seen")], seen),
    ];
    Some(tag("tr", &[("class", if held { "" } else { "broken" })], cells))
}

fn breaches(seed: u64, verdict: &Verdict) -> Markup {
    let shown = verdict.breaches.iter().take(BREACHES_MAX);
    let mut items: Vec<Markup> = shown.map(|breach| tag("li", &[], [text(breach)])).collect();
    let more = verdict.breaches_total - items.len() as u64;
    if more > 0 {
        items.push(tag("li", &[], [text(&format!("… and {more} more"))]));
    }
    let title = tag("p", &[], [text(&format!("Seed {seed}: {} ×", verdict.breaches_total))]);
    tag("div", &[("class", "breaches")], [title, tag("ul", &[], items)])
}

/// Failed runs, and the worst of those that passed if none failed.
fn drawn(scenario: &ScenarioReport) -> Vec<&Run> {
    let failed: Vec<&Run> = scenario.failed().take(DRAWN_MAX).collect();
    if failed.is_empty() { scenario.worst().into_iter().collect() } else { failed }
}

fn picture(report: &RunReport, scenario: &ScenarioReport, run: &Run) -> Markup {
    let what = match (&run.aborted, run.passed(), scenario.runs.len()) {
        (Some(why), ..) => format!("Seed {}: could not be judged: {why}", run.seed),
        (None, false, _) => format!("Seed {}: failed", run.seed),
        (None, true, 1) => format!("Seed {}", run.seed),
        (None, true, _) => format!("Seed {}: the run with the longest write gap", run.seed),
    };
    let caption = tag("figcaption", &[], [text(&what), summary::repeat(report, scenario, run)]);
    let drawing = if run.series.moments.is_empty() { Markup::default() } else { timeline::draw(run) };
    tag("figure", &[], [caption, drawing])
}

fn errors(scenario: &ScenarioReport) -> Markup {
    let mut all: BTreeMap<&str, u64> = BTreeMap::new();
    for (class, count) in scenario.runs.iter().flat_map(|run| &run.figures.errors) {
        *all.entry(class).or_default() += count;
    }
    let requests: u64 = scenario.runs.iter().map(|run| run.figures.requests).sum();
    if all.is_empty() {
        let words = format!("{} requests; none was refused or failed.", grouped(requests));
        return tag("p", &[("class", "key")], [text(&words)]);
    }
    let mut by_count: Vec<(&str, u64)> = all.into_iter().collect();
    by_count.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    let rows = by_count.into_iter().map(|(class, count)| {
        let cells = [tag("td", &[("class", "number")], [text(&grouped(count))]), tag("td", &[], [text(class)])];
        tag("tr", &[], cells)
    });
    let title = format!("{} requests. Refused or failed:", grouped(requests));
    let table = tag("table", &[("class", "errors")], [tag("tbody", &[], rows)]);
    tag("div", &[], [tag("p", &[("class", "key")], [text(&title)]), table])
}

/// `12,345`
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
