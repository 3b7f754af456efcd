//! The picture of a run: who led, what was acknowledged, how fast, and what failed, with the faults behind it.

use crate::tools::drill::evidence::MarkKind;
use crate::tools::drill::report::{Lane, Moment, Run, words};
use crate::tools::page::chart::{
    Axis, LEFT, LETTER_WIDTH, RIGHT, Strip, WIDTH, count, curve, frame, label, legend, line, number, rect, round_up,
    steps, ticks,
};
use crate::tools::page::markup::{Markup, tag, text};

/// Rows of words over the plots, so that neighbouring marks do not cover each other.
const MARK_ROWS: usize = 3;
const MARK_ROW_HEIGHT: f64 = 16.0;
const LANE_HEIGHT: f64 = 20.0;
const PLOT_HEIGHT: f64 = 84.0;
/// Over each plot, for its name and its legend.
const SPACE: f64 = 30.0;
const AXIS_HEIGHT: f64 = 22.0;
/// Colours for holders; more of them begin anew.
const HOLDERS: usize = 4;
const MICROSECONDS_IN_MS: f64 = 1_000.0;

/// The whole picture.
pub fn draw(run: &Run) -> Markup {
    let axis = Axis { duration_us: run.duration_us };
    let lanes_top = 10.0 + MARK_ROW_HEIGHT * count(MARK_ROWS);
    let plots_top = lanes_top + (LANE_HEIGHT + 6.0) * count(run.lanes.len()) + SPACE;
    let plot = |index: f64| plots_top + index * (PLOT_HEIGHT + SPACE);
    let bottom = plot(3.0) - SPACE;
    let mut parts = faults(run, axis, lanes_top - 4.0, bottom);
    parts.extend(marks(run, axis, bottom));
    let tops = (0..run.lanes.len()).map(|index| lanes_top + (LANE_HEIGHT + 6.0) * count(index));
    parts.extend(run.lanes.iter().zip(tops).flat_map(|(of, top)| lane(of, axis, top)));
    parts.extend(throughput(run, axis, plot(0.0)));
    parts.extend(latency(run, axis, plot(1.0)));
    parts.extend(errors(run, axis, plot(2.0)));
    parts.extend(ticks(axis, bottom));
    let height = bottom + AXIS_HEIGHT;
    let view = format!("0 0 {} {}", number(WIDTH), number(height));
    tag("svg", &[("viewBox", &view), ("role", "img"), ("aria-label", "timeline of the run")], parts)
}

fn faults(run: &Run, axis: Axis, top: f64, bottom: f64) -> Vec<Markup> {
    let shade = |(from, until): &(u64, u64)| {
        let (x, end) = (axis.x(*from), axis.x(*until));
        rect("fault", (x, (end - x).max(2.0)), (top, bottom - top))
    };
    run.faults.iter().map(shade).collect()
}

/// A line for each mark, with its words in the first row that has room; without room it is told on hover only.
fn marks(run: &Run, axis: Axis, bottom: f64) -> Vec<Markup> {
    let mut rows_end = [LEFT - 8.0; MARK_ROWS];
    let shown = run.marks.iter().filter(|mark| !matches!(mark.what, MarkKind::Leader | MarkKind::Primary));
    let mut parts = Vec::new();
    for mark in shown {
        let (class, name) = match mark.what {
            MarkKind::FaultBegan => ("mark bad", "fault"),
            MarkKind::FaultEnded => ("mark", "undone"),
            MarkKind::Healthy => ("mark good", "healthy"),
            MarkKind::Leader | MarkKind::Primary | MarkKind::Note => ("mark", ""),
        };
        let said = [name, &mark.text].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ");
        let x = axis.x(mark.at_us);
        let width = count(said.chars().count()) * LETTER_WIDTH;
        // At the right edge the words stand to the left of their line.
        let (class_of_text, from) = if x + width > RIGHT { ("said end", x - width - 4.0) } else { ("said", x + 4.0) };
        let row = rows_end.iter().position(|end| from >= *end);
        let top = 8.0 + MARK_ROW_HEIGHT * count(row.unwrap_or(MARK_ROWS));
        let hover = format!("{said}, at {}", words::time(mark.at_us));
        parts.push(tag("g", &[], [tag("title", &[], [text(&hover)]), line(class, (x, top), (x, bottom))]));
        if let Some(row) = row {
            rows_end[row] = from.max(x) + width + 8.0;
            let at = if class_of_text == "said" { x + 4.0 } else { x - 4.0 };
            parts.push(label(class_of_text, (at, top + 10.0), &said));
        }
    }
    parts
}

fn lane(lane: &Lane, axis: Axis, top: f64) -> Vec<Markup> {
    let mut parts = vec![label("name", (LEFT - 8.0, top + 14.0), &lane.name)];
    for span in &lane.spans {
        let (x, end) = (axis.x(span.from_us), axis.x(span.until_us));
        let class = format!("holder h{}", span.holder % HOLDERS);
        let until = words::time(span.until_us);
        let hover = format!("{}: {}, {} to {until}", lane.name, span.label, words::time(span.from_us));
        let bar = rect(&class, (x, (end - x - 1.0).max(1.0)), (top, LANE_HEIGHT));
        parts.push(tag("g", &[], [tag("title", &[], [text(&hover)]), bar]));
        if count(span.label.chars().count()) * LETTER_WIDTH + 12.0 < end - x {
            parts.push(label("held", (x + 6.0, top + 14.0), &span.label));
        }
    }
    parts
}

/// Per second, whatever the step is.
#[expect(clippy::cast_precision_loss, reason = "pixels")]
fn per_second(run: &Run, of: impl Fn(&Moment) -> u64) -> Vec<f64> {
    let step_s = run.series.step_us.max(1) as f64 / 1_000_000.0;
    run.series.moments.iter().map(|moment| of(moment) as f64 / step_s).collect()
}

fn throughput(run: &Run, axis: Axis, top: f64) -> Vec<Markup> {
    let readings = per_second(run, |moment| moment.readings);
    let heartbeats = per_second(run, |moment| moment.heartbeats);
    let most = readings.iter().chain(&heartbeats).copied().fold(0.0, f64::max);
    let strip = Strip { top, height: PLOT_HEIGHT, max: round_up(most) };
    let mut parts = frame(strip, "acknowledged in a second", &format!("{:.0}", strip.max));
    parts.push(filled("readings", run, axis, strip, &readings));
    let middle = heartbeats.iter().zip(xs(run, axis)).map(|(value, x)| (x, Some(strip.y(*value))));
    parts.push(curve("heartbeats", &middle.collect::<Vec<_>>()));
    parts.extend(legend(top, &[("readings", "readings"), ("heartbeats", "heartbeats")]));
    parts
}

/// Logarithmic from 1 ms, since a fault makes latency a thousand times longer.
#[expect(clippy::cast_precision_loss, reason = "pixels")]
fn latency(run: &Run, axis: Axis, top: f64) -> Vec<Markup> {
    let log = |us: u64| (us as f64 / MICROSECONDS_IN_MS).max(1.0).log10();
    let most = run.series.moments.iter().filter_map(|moment| moment.p99_us).map(log).fold(1.0, f64::max);
    let strip = Strip { top, height: PLOT_HEIGHT, max: most.ceil() };
    let mut parts = frame(strip, "latency of acknowledged requests", "");
    let mut decade = (0.0, 1_000_u64);
    while decade.0 <= strip.max {
        let y = strip.y(decade.0);
        parts.push(line("grid", (LEFT, y), (RIGHT, y)));
        parts.push(label(
            "tick",
            (LEFT - 8.0, y + 4.0),
            &words::time(decade.1).replace(".00 s", " s").replace(".0 s", " s"),
        ));
        decade = (decade.0 + 1.0, decade.1 * 10);
    }
    for (class, of) in
        [("p99", (|moment| moment.p99_us) as fn(&Moment) -> Option<u64>), ("p50", |moment| moment.p50_us)]
    {
        let values = run.series.moments.iter().map(|moment| of(moment).map(|us| strip.y(log(us))));
        parts.push(curve(class, &xs(run, axis).zip(values).collect::<Vec<_>>()));
    }
    parts.extend(legend(top, &[("p50", "median"), ("p99", "99th percentile")]));
    parts
}

fn errors(run: &Run, axis: Axis, top: f64) -> Vec<Markup> {
    let errors = per_second(run, |moment| moment.errors);
    let strip = Strip { top, height: PLOT_HEIGHT, max: round_up(errors.iter().copied().fold(0.0, f64::max)) };
    let mut parts = frame(strip, "failed requests in a second", &format!("{:.0}", strip.max));
    parts.push(filled("errors", run, axis, strip, &errors));
    parts
}

/// The middle of each step.
fn xs(run: &Run, axis: Axis) -> impl Iterator<Item = f64> {
    let step_us = run.series.step_us;
    (0..run.series.moments.len() as u64).map(move |index| axis.x(index * step_us + step_us / 2))
}

fn filled(class: &str, run: &Run, axis: Axis, strip: Strip, values: &[f64]) -> Markup {
    let width = axis.x(run.series.step_us) - axis.x(0);
    let points: Vec<(f64, f64)> = xs(run, axis).map(|x| x - width / 2.0).zip(values.iter().copied()).collect();
    steps(class, strip, width, &points)
}
