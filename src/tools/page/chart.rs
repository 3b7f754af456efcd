//! The primitives of the pictures: scales, axes, and paths, in SVG that the style sheet colours.

use std::fmt::Write as _;

use super::markup::{Markup, tag, text};

/// A horizontal strip of the picture.
#[derive(Clone, Copy)]
pub struct Strip {
    pub top: f64,
    pub height: f64,
    /// The largest value that it shows.
    pub max: f64,
}

/// The picture's width, and where its plots begin and end.
pub const WIDTH: f64 = 960.0;
pub const LEFT: f64 = 84.0;
pub const RIGHT: f64 = 936.0;

/// How the x axis maps microseconds.
#[derive(Clone, Copy)]
pub struct Axis {
    pub duration_us: u64,
}

impl Axis {
    #[expect(clippy::cast_precision_loss, reason = "pixels")]
    pub fn x(self, at_us: u64) -> f64 {
        LEFT + (RIGHT - LEFT) * (at_us as f64 / self.duration_us.max(1) as f64).min(1.0)
    }

    /// Where ticks stand, in seconds: at most a dozen, at round numbers.
    pub fn ticks_s(self) -> Vec<u64> {
        let seconds = self.duration_us / 1_000_000;
        let step = [1, 2, 5, 10, 20, 30, 60, 120, 300, 600].into_iter().find(|step| seconds / step <= 12);
        (0..=seconds).step_by(usize::try_from(step.unwrap_or(3_600)).unwrap_or(1)).collect()
    }
}

impl Strip {
    pub fn y(&self, value: f64) -> f64 {
        self.top + self.height * (1.0 - (value / self.max).clamp(0.0, 1.0))
    }

    pub fn bottom(&self) -> f64 {
        self.top + self.height
    }
}

/// The next round number: 1, 2 or 5 times a power of ten.
pub fn round_up(value: f64) -> f64 {
    let power = 10_f64.powf(value.max(1.0).log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|step| step * power).into_iter().find(|round| *round >= value).unwrap_or(value)
}

pub fn number(value: f64) -> String {
    format!("{value:.1}")
}

pub fn rect(class: &str, (x, width): (f64, f64), (y, height): (f64, f64)) -> Markup {
    let [x, width, y, height] = [x, width, y, height].map(number);
    let attributes = [("class", class), ("x", &x), ("width", &width), ("y", &y), ("height", &height)];
    tag("rect", &attributes, [])
}

pub fn line(class: &str, from: (f64, f64), to: (f64, f64)) -> Markup {
    let [x1, y1, x2, y2] = [from.0, from.1, to.0, to.1].map(number);
    tag("line", &[("class", class), ("x1", &x1), ("y1", &y1), ("x2", &x2), ("y2", &y2)], [])
}

pub fn label(class: &str, (x, y): (f64, f64), content: &str) -> Markup {
    let [x, y] = [x, y].map(number);
    tag("text", &[("class", class), ("x", &x), ("y", &y)], [text(content)])
}

/// A curve; a missing value interrupts it. A value that stands alone is drawn as a short dash.
pub fn curve(class: &str, points: &[(f64, Option<f64>)]) -> Markup {
    let mut path = String::new();
    let mut is_drawing = false;
    for (x, y) in points {
        if let Some(y) = y {
            let command = if is_drawing { 'L' } else { 'M' };
            let _ = write!(path, "{command}{x:.1} {y:.1}h.1");
        }
        is_drawing = y.is_some();
    }
    tag("path", &[("class", class), ("d", &path)], [])
}

/// Steps from the strip's ground, filled.
pub fn steps(class: &str, strip: Strip, width: f64, points: &[(f64, f64)]) -> Markup {
    let Some((first, _)) = points.first() else { return Markup::default() };
    let mut path = format!("M{first:.1} {:.1}", strip.bottom());
    for (x, value) in points {
        let _ = write!(path, "L{x:.1} {:.1}h{width:.2}", strip.y(*value));
    }
    let _ = write!(path, "V{:.1}Z", strip.bottom());
    tag("path", &[("class", class), ("d", &path)], [])
}

/// Roughly what a letter takes at the labels' size.
pub const LETTER_WIDTH: f64 = 6.1;

/// Counts as lengths.
#[expect(clippy::cast_precision_loss, reason = "pixels")]
pub fn count(count: usize) -> f64 {
    count as f64
}

/// A strip's lines, its name, and its largest value.
pub fn frame(strip: Strip, name: &str, max: &str) -> Vec<Markup> {
    vec![
        line("grid", (LEFT, strip.top), (RIGHT, strip.top)),
        line("ground", (LEFT, strip.bottom()), (RIGHT, strip.bottom())),
        label("title", (LEFT, strip.top - 8.0), name),
        label("tick", (LEFT - 8.0, strip.top + 4.0), max),
    ]
}

/// Names of classes, at the right end over a strip that begins at `top`.
pub fn legend(top: f64, entries: &[(&'static str, &str)]) -> Vec<Markup> {
    let mut x = RIGHT;
    let mut parts = Vec::new();
    for (class, name) in entries.iter().rev() {
        parts.push(label("legend", (x, top - 8.0), name));
        x -= count(name.chars().count()) * LETTER_WIDTH + 16.0;
        parts.push(line(&format!("key {class}"), (x - 4.0, top - 12.0), (x + 10.0, top - 12.0)));
        x -= 18.0;
    }
    parts
}

/// Seconds under a picture that ends at `bottom`.
pub fn ticks(axis: Axis, bottom: f64) -> Vec<Markup> {
    let tick = |seconds: u64| {
        let x = axis.x(seconds * 1_000_000);
        [line("ground", (x, bottom), (x, bottom + 4.0)), label("second", (x, bottom + 17.0), &format!("{seconds} s"))]
    };
    axis.ticks_s().into_iter().flat_map(tick).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_end_at_round_numbers() {
        for (value, round) in [(0.0, 1.0), (1.0, 1.0), (1.1, 2.0), (3.0, 5.0), (6.0, 10.0), (420.0, 500.0)] {
            assert!((round_up(value) - round).abs() < 1e-9, "{value}: {}", round_up(value));
        }
        let axis = Axis { duration_us: 90_000_000 };
        assert_eq!(axis.ticks_s(), [0, 10, 20, 30, 40, 50, 60, 70, 80, 90]);
        assert!((axis.x(45_000_000) - f64::midpoint(LEFT, RIGHT)).abs() < 1e-9);
    }

    #[test]
    fn a_gap_interrupts_a_curve() {
        let path = curve("x", &[(0.0, Some(1.0)), (1.0, None), (2.0, Some(3.0)), (3.0, Some(4.0))]).into_html();
        assert_eq!(path, "<path class=\"x\" d=\"M0.0 1.0h.1M2.0 3.0h.1L3.0 4.0h.1\"></path>");
    }
}
