//! The search for the ceiling of a closed loop: twice the devices, as long as that pays. Pure.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

const FIRST_DEVICES: usize = 16;
/// Less than this times the best so far is no growth: runs of a few seconds differ by some percent anyway.
const GROWTH_MIN: f64 = 1.05;

/// One number of devices, and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    pub devices: usize,
    pub good_per_second: f64,
    pub p50_us: Option<u64>,
    pub p99_us: Option<u64>,
}

/// How many devices come next; `None` if the last step did not pay, or all took part in it.
pub fn next(steps: &[Step], devices_max: usize) -> Option<usize> {
    let Some(last) = steps.last() else { return Some(FIRST_DEVICES.min(devices_max)) };
    let goes_on = grew(steps) && last.devices < devices_max;
    goes_on.then(|| last.devices.saturating_mul(2).min(devices_max))
}

/// Was the last step better than all before it, by enough?
fn grew(steps: &[Step]) -> bool {
    let [before @ .., last] = steps else { return false };
    let most = before.iter().map(|step| step.good_per_second).fold(0.0, f64::max);
    last.good_per_second > 0.0 && last.good_per_second >= most * GROWTH_MIN
}

/// All steps, with a mark at the one of `best` devices.
pub fn text(steps: &[Step], best: usize) -> String {
    let mut text = format!("  {:>7}  {:>11}  {:>10}  {:>10}\n", "devices", "goodput", "p50", "p99");
    let ms = |us: Option<u64>| us.map_or_else(|| "-".to_owned(), |us| format!("{} ms", us / 1_000));
    for step in steps {
        let mark = if step.devices == best { "  the best" } else { "" };
        let (p50, p99) = (ms(step.p50_us), ms(step.p99_us));
        let _ = writeln!(text, "  {:>7}  {:>9.0}/s  {p50:>10}  {p99:>10}{mark}", step.devices, step.good_per_second);
    }
    text
}

/// Did the devices run out before the ceiling was found?
pub fn is_open_ended(steps: &[Step], devices_max: usize) -> bool {
    grew(steps) && steps.last().is_some_and(|last| last.devices == devices_max)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Devices and goodput of each step.
    type Figures = [(usize, f64)];

    fn steps(figures: &Figures) -> Vec<Step> {
        let step = |&(devices, good_per_second)| Step { devices, good_per_second, p50_us: Some(2_000), p99_us: None };
        figures.iter().map(step).collect()
    }

    #[test]
    fn devices_double_while_that_pays() {
        let table: [(&Figures, Option<usize>); 7] = [
            (&[], Some(16)),
            (&[(16, 100.0)], Some(32)),
            (&[(16, 100.0), (32, 106.0)], Some(64)),
            (&[(16, 100.0), (32, 104.0)], None),
            (&[(16, 100.0), (32, 50.0)], None),
            (&[(16, 100.0), (32, 190.0), (64, 250.0)], Some(100)),
            (&[(16, 100.0), (32, 190.0), (64, 250.0), (100, 300.0)], None),
        ];
        for (figures, expected) in table {
            assert_eq!(next(&steps(figures), 100), expected, "{figures:?}");
        }
        assert_eq!(next(&[], 5), Some(5));
        assert_eq!(next(&steps(&[(5, 100.0)]), 5), None);
        assert_eq!(next(&steps(&[(16, 0.0)]), 100), None, "nobody was answered");
    }

    #[test]
    fn the_best_step_is_marked_and_running_out_of_devices_is_seen() {
        let flat = text(&steps(&[(16, 100.0), (32, 101.0)]), 32);
        let best: Vec<&str> = flat.lines().filter(|line| line.contains("the best")).collect();
        assert!(best.len() == 1 && best[0].contains("32") && best[0].contains("101/s"), "{flat}");
        assert!(!is_open_ended(&steps(&[(16, 100.0), (32, 101.0)]), 32));
        let growing = steps(&[(16, 100.0), (32, 190.0)]);
        assert!(is_open_ended(&growing, 32) && !is_open_ended(&growing, 64), "of 64 devices it was stopped early");
    }
}
