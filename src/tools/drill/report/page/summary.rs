//! The top of the page: did it pass, what failed, how to repeat it, and the worst figures.

use crate::tools::drill::figures::Figure;
use crate::tools::drill::report::{Run, RunReport, ScenarioReport, words};
use crate::tools::page::markup::{Markup, span, tag, text};

/// Lines that the list of failures shows of one run; its own section has the rest.
const LINES_MAX: usize = 4;

/// Pass or fail in one glance, and what ran where.
pub fn banner(report: &RunReport) -> Markup {
    let (class, word) = if report.passed() { ("banner good", "PASS") } else { ("banner bad", "FAIL") };
    let failed = report.scenarios.iter().filter(|scenario| !scenario.passed()).count();
    let runs: usize = report.scenarios.iter().map(|scenario| scenario.runs.len()).sum();
    let all = format!("{}, {}", words::count(report.scenarios.len(), "scenario"), words::count(runs, "run"));
    let sentence = match failed {
        0 if report.passed() => format!("{all}: every promise was kept"),
        0 => "nothing ran".to_owned(),
        _ => format!("{all}: {} failed", words::count(failed, "scenario")),
    };
    let facts = [
        ("date", report.date.clone()),
        ("version", report.version.clone()),
        ("machine", format!("{}, {} MiB", words::count(report.machine.cores, "core"), report.machine.memory_mib)),
        ("seed", report.seed.to_string()),
    ];
    let facts = facts.map(|(name, value)| tag("span", &[], [span("name", name), text(&format!(" {value}"))]));
    tag(
        "header",
        &[("class", class)],
        [
            tag("h1", &[], [text("Everbeat drill")]),
            tag("p", &[("class", "verdict")], [span("chip", word), text(&sentence)]),
            tag("p", &[("class", "facts")], facts),
        ],
    )
}

/// Every failed run: what broke, and the command that repeats it.
pub fn failures(report: &RunReport) -> Markup {
    let items: Vec<Markup> = report.failed().map(|(scenario, run)| failure(report, scenario, run)).collect();
    if items.is_empty() {
        return Markup::default();
    }
    let title = tag("h2", &[], [text("What failed")]);
    tag("section", &[("class", "failures")], [title, tag("ol", &[], items)])
}

fn failure(report: &RunReport, scenario: &ScenarioReport, run: &Run) -> Markup {
    let all = broken(run);
    let mut lines: Vec<Markup> = all.iter().take(LINES_MAX).map(|line| tag("li", &[], [text(line)])).collect();
    if all.len() > LINES_MAX {
        lines.push(tag("li", &[], [text(&format!("… and {} more", all.len() - LINES_MAX))]));
    }
    let link = tag("a", &[("href", &anchor(scenario))], [text(&scenario.name)]);
    tag(
        "li",
        &[],
        [
            tag("p", &[], [tag("b", &[], [link]), text(&format!(", seed {}", run.seed))]),
            tag("ul", &[], lines),
            repeat(report, scenario, run),
        ],
    )
}

/// `Repeat: everbeat drill …`
pub fn repeat(report: &RunReport, scenario: &ScenarioReport, run: &Run) -> Markup {
    let command = tag("code", &[], [text(&report.repeat(scenario, run))]);
    tag("p", &[("class", "repeat")], [text("Repeat it: "), command])
}

/// What a run broke, the first breach of each invariant.
fn broken(run: &Run) -> Vec<String> {
    let aborted = run.aborted.iter().map(|why| format!("could not be judged: {why}"));
    let verdicts = run.verdicts.iter().filter(|verdict| !verdict.held).map(|verdict| {
        let first = verdict.breaches.first().map_or("", String::as_str);
        let (code, title, total) = (verdict.invariant.code(), verdict.invariant.title(), verdict.breaches_total);
        format!("{code}, {title}: broken {total} ×. {first}")
    });
    let figures = run.figure_verdicts.iter().filter(|line| !line.held).map(words::broken);
    aborted.chain(verdicts).chain(figures).collect()
}

/// One row for each scenario.
pub fn table(report: &RunReport) -> Markup {
    let names = ["scenario", "result", "runs passed"].into_iter().chain(Figure::ALL.map(Figure::title));
    let header = tag("tr", &[], names.map(|name| tag("th", &[], [text(name)])));
    let rows = report.scenarios.iter().map(row);
    let key = "Figures: median, then the worst of all runs, then the bound, if there is one.";
    tag(
        "section",
        &[],
        [
            tag("h2", &[], [text("Summary")]),
            tag(
                "div",
                &[("class", "wide")],
                [tag("table", &[], [tag("thead", &[], [header]), tag("tbody", &[], rows)])],
            ),
            tag("p", &[("class", "key")], [text(key)]),
        ],
    )
}

fn row(scenario: &ScenarioReport) -> Markup {
    let passed = scenario.runs.len() - scenario.failed().count();
    let link = tag("a", &[("href", &anchor(scenario))], [text(&scenario.name)]);
    let mut cells = vec![
        tag("th", &[("scope", "row")], [link]),
        tag("td", &[], [chip(scenario.passed())]),
        tag("td", &[("class", "number")], [text(&format!("{passed} of {}", scenario.runs.len()))]),
    ];
    cells.extend(Figure::ALL.into_iter().map(|figure| cell(scenario, figure)));
    tag("tr", &[], cells)
}

fn cell(scenario: &ScenarioReport, figure: Figure) -> Markup {
    let Some(spread) = scenario.spread(figure) else {
        return tag("td", &[("class", "number none")], [text("–")]);
    };
    let show = |value| words::value(figure, value);
    let measured = if spread.of == 0 {
        span("worst", "did not happen")
    } else {
        tag("span", &[], [text(&format!("{} · ", show(spread.median))), span("worst", &show(spread.worst))])
    };
    let bound = spread.bound.map(|bound| span("bound", &format!("≤ {}", show(bound)))).unwrap_or_default();
    let class = if spread.held { "number" } else { "number broken" };
    tag("td", &[("class", class)], [measured, bound])
}

pub fn chip(passed: bool) -> Markup {
    if passed { span("chip good", "pass") } else { span("chip bad", "FAIL") }
}

/// Where a scenario's section is.
pub fn anchor(scenario: &ScenarioReport) -> String {
    format!("#{}", scenario.name)
}
