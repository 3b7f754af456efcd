//! When requests are due: at a fixed rate, or at one that rises evenly, whatever the service answers. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// An open-loop schedule.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Arrivals {
    /// Requests per second at the beginning.
    pub from: f64,
    /// At the end.
    pub to: f64,
    pub over: Duration,
}

impl Arrivals {
    #[cfg(test)]
    pub fn constant(rate: f64, over: Duration) -> Self {
        Self { from: rate, to: rate, over }
    }

    /// How many there are in all.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive, and `as` saturates")]
    pub fn count(&self) -> u64 {
        (f64::midpoint(self.from, self.to) * self.over.as_secs_f64()) as u64
    }

    /// When number `n` (from zero) is due, from the beginning.
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
    pub fn at(&self, n: u64) -> Duration {
        let (n, slope) = (n as f64, (self.to - self.from) / self.over.as_secs_f64().max(f64::MIN_POSITIVE));
        // n = from t + slope t²/2, solved without the loss of digits that small slopes bring.
        let root = self.from.mul_add(self.from, 2.0 * slope * n).max(0.0).sqrt();
        Duration::try_from_secs_f64(2.0 * n / (self.from + root)).unwrap_or(self.over).min(self.over)
    }
}

/// A rate (`500`) or a ramp (`100..2000`), in requests per second.
pub fn parse(text: &str) -> Result<(f64, f64), String> {
    let rate = |text: &str| {
        let rate: f64 = text.parse().map_err(|_| format!("{text:?} is not a rate in requests per second"))?;
        if (0.1..=1_000_000.0).contains(&rate) { Ok(rate) } else { Err("a rate is from 0.1 to 1000000".to_owned()) }
    };
    match text.split_once("..") {
        Some((from, to)) => Ok((rate(from)?, rate(to)?)),
        None => rate(text).map(|rate| (rate, rate)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fixed_rate_is_even() {
        let arrivals = Arrivals::constant(200.0, Duration::from_secs(10));
        assert_eq!(arrivals.count(), 2_000);
        assert_eq!([0, 1, 200, 1_999].map(|n| arrivals.at(n).as_millis()), [0, 5, 1_000, 9_995]);
    }

    #[test]
    fn a_ramp_begins_and_ends_at_its_rates_up_and_down() {
        for (from, to) in [(100.0, 1_100.0), (1_100.0, 100.0)] {
            let arrivals = Arrivals { from, to, over: Duration::from_secs(10) };
            assert_eq!(arrivals.count(), 6_000);
            let at: Vec<f64> = (0..arrivals.count()).map(|n| arrivals.at(n).as_secs_f64()).collect();
            assert!(at.is_sorted() && at[5_999] <= 10.0);
            let within = |from: f64, to: f64| at.iter().filter(|at| (from..to).contains(*at)).count();
            let expected = if from < to { [150, 1_050] } else { [1_050, 150] };
            assert_eq!([within(0.0, 1.0), within(9.0, 10.1)], expected, "{from} to {to}");
        }
    }

    #[test]
    fn what_people_write() {
        assert_eq!(parse("500"), Ok((500.0, 500.0)));
        assert_eq!(parse("100..2000"), Ok((100.0, 2000.0)));
        for bad in ["", "fast", "0", "-1", "1..", "..2", "1e9"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
