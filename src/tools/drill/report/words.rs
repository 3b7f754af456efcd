//! Numbers as people read them.

use crate::tools::drill::figures::{Figure, FigureVerdict};

const MILLISECOND_US: f64 = 1_000.0;
const SECOND_US: f64 = 1_000_000.0;
/// From here on, tenths of a second say more than hundredths.
const LONG_US: u64 = 10_000_000;
const SHORT_US: u64 = 1_000_000;

/// `340 ms`, `3.10 s`, `21.4 s`
#[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
pub(super) fn time(us: u64) -> String {
    match us {
        0..SHORT_US => format!("{:.0} ms", us as f64 / MILLISECOND_US),
        SHORT_US..LONG_US => format!("{:.2} s", us as f64 / SECOND_US),
        LONG_US.. => format!("{:.1} s", us as f64 / SECOND_US),
    }
}

/// A value of this figure.
pub(super) fn value(figure: Figure, value: u64) -> String {
    if figure.is_count() { value.to_string() } else { time(value) }
}

/// `no write acknowledged: 4.20 s, at most 3.00 s are allowed`
pub(super) fn broken(line: &FigureVerdict) -> String {
    let measured = line.value.map_or("it did not happen".to_owned(), |measured| value(line.figure, measured));
    let bound = line.bound.map(|bound| value(line.figure, bound)).unwrap_or_default();
    format!("{}: {measured}, at most {bound} are allowed", line.figure.title())
}

/// `1 run`, `3 runs`
pub(super) fn count(number: usize, noun: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{ending}")
}
