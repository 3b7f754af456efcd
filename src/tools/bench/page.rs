//! A run as one page: what was measured, and what happened second by second.

use super::outcome::{Figures, Outcome};
use super::recorder::End;
use crate::tools::page::chart::{
    Axis, LEFT, RIGHT, Strip, WIDTH, count, curve, frame, label, legend, line, number, round_up, steps, ticks,
};
use crate::tools::page::document;
use crate::tools::page::markup::{Markup, tag, text};

const SECOND_US: u64 = 1_000_000;
const PLOT_HEIGHT: f64 = 130.0;
const SPACE: f64 = 34.0;
const TOP: f64 = 26.0;

/// The whole page.
pub fn page(outcome: &Outcome) -> String {
    let title = format!("Everbeat bench: {}", outcome.work);
    let about = format!(
        "{}, version {}, {} devices, {} cores for service, database and generator together",
        outcome.date, outcome.version, outcome.devices, outcome.cores
    );
    let parts = vec![
        tag("h1", &[], [text(&title)]),
        tag("p", &[("class", "facts")], [text(&about)]),
        tag("section", &[], [tag("h2", &[], [text("Measured")]), tag("pre", &[], [text(&outcome.text())])]),
        tag("section", &[], [tag("h2", &[], [text("Second by second")]), tag("figure", &[], [picture(outcome)])]),
    ];
    document(&title, parts)
}

fn picture(outcome: &Outcome) -> Markup {
    let axis = Axis { duration_us: outcome.seconds.len() as u64 * SECOND_US };
    let tops = [0.0, 1.0].map(|index: f64| index.mul_add(PLOT_HEIGHT + SPACE, TOP));
    let bottom = tops[1] + PLOT_HEIGHT;
    let mut parts = throughput(&outcome.seconds, axis, tops[0]);
    parts.extend(latency(&outcome.seconds, axis, tops[1]));
    let warm = axis.x(outcome.warm_up_s * SECOND_US);
    parts.push(line("mark", (warm, TOP), (warm, bottom)));
    parts.push(label("said", (warm + 4.0, TOP + 10.0), "measured from here"));
    parts.extend(ticks(axis, bottom));
    let view = format!("0 0 {} {}", number(WIDTH), number(bottom + 22.0));
    tag("svg", &[("viewBox", &view), ("role", "img"), ("aria-label", "throughput and latency")], parts)
}

fn throughput(seconds: &[Figures], axis: Axis, top: f64) -> Vec<Markup> {
    let due = seconds.iter().map(|second| real(second.due)).fold(0.0, f64::max);
    let strip = Strip { top, height: PLOT_HEIGHT, max: round_up(due) };
    let mut parts = frame(strip, "requests that were due in a second, and what became of them", &number(strip.max));
    let width = axis.x(SECOND_US) - axis.x(0);
    let good = (0..).zip(seconds).map(|(n, second)| (axis.x(n * SECOND_US), real(second.good)));
    parts.push(steps("readings", strip, width, &good.collect::<Vec<_>>()));
    let line_of = |of: &dyn Fn(&Figures) -> u64| {
        let points = (0..).zip(seconds).map(|(n, second)| (middle(axis, n), Some(strip.y(real(of(second))))));
        points.collect::<Vec<_>>()
    };
    parts.push(curve("heartbeats", &line_of(&|second| second.due)));
    parts.push(curve("p99", &line_of(&|second| ended(second, &[End::Limited, End::Shed, End::HeldBack]))));
    let lost = [End::Refused, End::Broken, End::Failed, End::NotSent];
    parts.push(curve("errors", &line_of(&|second| ended(second, &lost))));
    parts.extend(legend(
        top,
        &[
            ("readings", "good"),
            ("heartbeats", "due"),
            ("p99", "429, 503, or held back for them"),
            ("errors", "errors"),
        ],
    ));
    parts
}

/// Logarithmic from 0.1 ms.
fn latency(seconds: &[Figures], axis: Axis, top: f64) -> Vec<Markup> {
    let log = |us: u64| (real(us) / 100.0).max(1.0).log10();
    let most = seconds.iter().filter_map(|second| second.latency("p99")).map(log).fold(1.0, f64::max);
    let strip = Strip { top, height: PLOT_HEIGHT, max: most.ceil() };
    let mut parts = frame(strip, "latency of good answers, from when they were due", "");
    let mut decade = (0.0, 0.1);
    while decade.0 <= strip.max {
        let y = strip.y(decade.0);
        parts.push(line("grid", (LEFT, y), (RIGHT, y)));
        parts.push(label("tick", (LEFT - 8.0, y + 4.0), &format!("{} ms", decade.1)));
        decade = (decade.0 + 1.0, decade.1 * 10.0);
    }
    for name in ["p99", "p50"] {
        let value = |second: &Figures| second.latency(name).map(|us| strip.y(log(us)));
        let points: Vec<_> = (0..).zip(seconds).map(|(n, second)| (middle(axis, n), value(second))).collect();
        parts.push(curve(name, &points));
    }
    parts.extend(legend(top, &[("p50", "median"), ("p99", "99th percentile")]));
    parts
}

fn ended(second: &Figures, ends: &[End]) -> u64 {
    let wanted = |name: &str| ends.iter().any(|end| end.as_str() == name);
    second.ends.iter().filter(|(name, _)| wanted(name)).map(|(_, count)| count).sum()
}

fn middle(axis: Axis, second: u64) -> f64 {
    axis.x(second * SECOND_US + SECOND_US / 2)
}

fn real(value: u64) -> f64 {
    count(usize::try_from(value).unwrap_or(usize::MAX))
}
