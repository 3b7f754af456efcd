use std::time::Duration;

use super::*;
use crate::tools::drill::check::tests::history::{FAULT, SECOND, valid};
use crate::tools::drill::check::tests::plants::{ALL, DEVICES};
use crate::tools::drill::evidence::{Mark, MarkKind};
use crate::tools::drill::figures::FigureVerdict;
use crate::tools::drill::scenario::Bounds;
use crate::tools::drill::stalls::{Stall, Stalls};

/// What an attacker would call a device.
const EVIL: &str = "<script>alert(\"x\")</script>";

fn scenario(name: &str, runs: Vec<Run>) -> ScenarioReport {
    let about = "The leader is killed; another takes over, and nothing is lost.".to_owned();
    ScenarioReport { name: name.to_owned(), about, runs }
}

fn bounds() -> Bounds {
    let seconds = |s| Some(Duration::from_secs(s));
    Bounds { takeover: seconds(3), write_gap: seconds(6), error_window: seconds(90), ..Bounds::default() }
}

fn run(seed: u64) -> Run {
    let mut evidence = valid(seed, 24);
    evidence.bounds = bounds();
    Run::of(&evidence)
}

/// Three faults in one run, and names from outside in everything that can carry one.
fn broken_run() -> Run {
    let mut evidence = valid(7, DEVICES);
    for plant in ALL.iter().filter(|plant| ["lost", "two leaders", "false offline"].contains(&plant.name)) {
        (plant.put)(&mut evidence, 12_345_678);
    }
    evidence.bounds = Bounds { takeover: Some(Duration::from_millis(10)), ..bounds() };
    for attempt in &mut evidence.attempts {
        attempt.client = format!("{}{EVIL}", attempt.client);
    }
    let at_us = evidence.started_us + 60 * SECOND;
    evidence.marks.push(Mark { at_us, what: MarkKind::Note, text: EVIL.to_owned() });
    Run::of(&evidence)
}

fn report() -> RunReport {
    RunReport {
        date: "2026-11-23 03:04:05Z".to_owned(),
        machine: Machine { cores: 8, memory_mib: 32_000 },
        version: "0.1.0".to_owned(),
        seed: 42,
        arguments: "--on docker".to_owned(),
        scenarios: vec![
            scenario("leader-kill", (1..6).map(run).collect()),
            scenario("leader-pause", vec![run(6), broken_run()]),
            scenario("primary-kill", vec![Run::aborted(9, format!("pg2 did not come back {EVIL}"))]),
        ],
    }
}

#[test]
fn the_page_stands_alone_and_escapes_what_is_foreign() {
    let html = page(&report());
    assert!(!html.contains("<script") && html.contains("&lt;script&gt;"), "names are escaped");
    for reference in ["http:", "src=", "@import", "url(", "<link"] {
        assert!(!html.contains(reference), "{reference} would be fetched");
    }
}

#[test]
fn elements_are_closed() {
    let html = page(&report());
    for element in ["details", "table", "tr", "td", "svg", "section", "figure", "g", "ul", "li", "p", "style"] {
        let opened = html.matches(&format!("<{element}>")).count() + html.matches(&format!("<{element} ")).count();
        assert_eq!(opened, html.matches(&format!("</{element}>")).count(), "{element}");
        assert!(opened > 0, "{element}");
    }
}

#[test]
fn a_failure_tells_its_seed_and_its_command() {
    let report = report();
    let command = "everbeat drill --only leader-pause --seed 7 --on docker";
    for text in [page(&report), table(&report)] {
        assert!(text.contains("FAIL") && text.contains(command), "{command}");
        assert!(text.contains("--only primary-kill --seed 9 --on docker"));
        assert!(text.contains("is lost") && text.contains("pg2 did not come back"));
        let takeover = "leader take-over: ";
        assert!(text.contains(takeover) && text.contains("at most 10 ms are allowed"));
    }
    let good = RunReport { scenarios: report.scenarios[..1].to_vec(), ..report.clone() };
    for text in [page(&good), table(&good)] {
        assert!(text.contains("PASS") && !text.contains("FAIL:") && !text.contains("FAIL<"));
    }
    let empty = RunReport { scenarios: Vec::new(), ..report };
    assert!(!empty.passed() && page(&empty).contains("nothing ran"), "nothing proves nothing");
}

#[test]
fn slowness_alone_is_told_from_a_broken_promise() {
    let (good, bad) = (Run::of(&valid(1, 2)), broken_run());
    let good_again = good.clone();
    let over_by = |value| FigureVerdict { figure: Figure::WriteGap, value, bound: Some(5), held: false };
    let late = over_by(Some(9));
    let slow = Run { figure_verdicts: vec![late], ..good.clone() };
    let of = |runs: Vec<Run>| RunReport { scenarios: vec![scenario("x", runs)], ..report() };
    assert!(of(vec![good.clone()]).passed() && !of(vec![good.clone()]).only_slow());
    assert!(!of(vec![slow.clone()]).passed() && of(vec![slow.clone(), good]).only_slow());
    assert!(!bad.kept_promises() && !of(vec![slow.clone(), bad]).only_slow());
    assert!(!of(vec![slow.clone(), Run::aborted(1, "the engine went away")]).only_slow());
    let still = |run: &Run| Run { stalled_us: 2_000_000, stood_still: true, ..run.clone() };
    assert!(of(vec![still(&slow)]).stood_still() && !of(vec![still(&slow), slow.clone()]).stood_still());
    for value in [Some(2_000_006), None] {
        let slower = Run { figure_verdicts: vec![over_by(value)], ..good_again.clone() };
        assert!(!of(vec![still(&slower)]).stood_still(), "the stall does not explain {value:?}");
    }
    assert!(!of(vec![still(&slow), still(&broken_run())]).stood_still(), "promises do not depend on machines");
    assert!(!of(Vec::new()).only_slow() && !of(Vec::new()).passed(), "nothing proves nothing");
}

#[test]
fn a_stall_excuses_what_was_measured_after_the_fault_only() {
    let at = |until_us| {
        let mut evidence = valid(1, 2);
        evidence.stalls = Stalls { told: vec![Stall { until_us, lasted_us: 1_500_000 }], ..Stalls::default() };
        let run = Run::of(&evidence);
        (run.stood_still, run.stalled_us)
    };
    assert_eq!(at(FAULT), (false, 0));
    assert_eq!(at(FAULT + 1), (true, 1_500_000));
}

#[test]
fn figures_are_spread_over_the_runs() {
    let line = |value, held| FigureVerdict { figure: Figure::Takeover, value, bound: Some(5), held };
    let with = |line| Run { figure_verdicts: vec![line], ..Run::aborted(1, "") };
    let scenario =
        scenario("x", vec![with(line(Some(4), true)), with(line(Some(9), false)), with(line(Some(2), true))]);
    let spread = scenario.spread(Figure::Takeover).unwrap();
    assert_eq!((spread.median, spread.worst, spread.of, spread.bound, spread.held), (4, 9, 3, Some(5), false));
    assert_eq!(scenario.spread(Figure::WriteGap), None);
    let missing = self::scenario("x", vec![with(line(None, false))]);
    assert_eq!(missing.spread(Figure::Takeover).map(|spread| (spread.of, spread.held)), Some((0, false)));
}

#[test]
fn the_series_counts_each_request_in_its_step() {
    let mut evidence = valid(3, 2);
    let run = Run::of(&evidence);
    assert_eq!(run.series.moments.len(), 200, "100 s in steps of half a second");
    let acknowledged: u64 = run.series.moments.iter().map(|moment| moment.readings).sum();
    assert_eq!(acknowledged, evidence.database.readings.len() as u64);
    let failed: u64 = run.series.moments.iter().map(|moment| moment.errors).sum();
    assert_eq!(failed, run.figures.failed);
    evidence.attempts.truncate(1);
    (evidence.attempts[0].sent_us, evidence.attempts[0].done_us) =
        (evidence.started_us + 700_000, evidence.started_us + 1_100_000);
    let moments = Run::of(&evidence).series.moments;
    assert_eq!((moments[2].heartbeats, moments[2].p50_us, moments[2].p99_us), (1, Some(400_000), Some(400_000)));
    assert_eq!(moments[1], Moment::default());
}

#[test]
fn lanes_show_who_led_and_that_nobody_did() {
    let run = run(1);
    let lane = |name: &str| run.lanes.iter().find(|lane| lane.name == name).unwrap();
    let sweeper = &lane("sweeper").spans;
    assert_eq!(sweeper[0].label, "replica 1, epoch 7");
    assert_eq!(sweeper[1].label, "replica 2, epoch 8");
    assert!(sweeper[0].until_us < sweeper[1].from_us && sweeper[0].holder != sweeper[1].holder);
    assert_eq!(lane("primary").spans[0].label, "pg1");
    assert_eq!(run.faults, [(30 * SECOND, 45 * SECOND)]);
}

#[test]
fn the_report_survives_its_file() {
    let report = report();
    let json = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<RunReport>(&json).unwrap(), report);
}

#[test]
fn control_characters_do_not_reach_the_terminal() {
    let mut report = report();
    report.scenarios[2].runs[0].aborted = Some("\u{1b}[2Jgone".to_owned());
    assert!(!table(&report).contains('\u{1b}'));
    assert!(!told(&report.scenarios[2].runs[0]).contains('\u{1b}'));
}
