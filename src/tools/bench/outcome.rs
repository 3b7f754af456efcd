//! What a run came to: for people on the terminal, for programs as JSON, and beside another run.

use std::fmt::Write as _;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::arrivals::Arrivals;
use super::recorder::{End, Tally, together};
use super::work::Work;

const QUANTILES: [(&str, f64); 5] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999), ("max", 1.0)];

/// How the load was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    Open(Arrivals),
    /// Each device as fast as it is answered.
    Closed,
}

/// One second, or all of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Requests that were due.
    pub due: u64,
    /// By what became of them: name and count, without those that are zero.
    pub ends: Vec<(String, u64)>,
    pub good: u64,
    /// Latencies of good answers from when they were due: name and microseconds.
    pub latency_us: Vec<(String, u64)>,
}

impl Figures {
    pub fn of(tally: &Tally) -> Self {
        let ends = End::ALL.into_iter().map(|end| (end.as_str().to_owned(), tally.count(end)));
        let quantile = |(name, share): (&str, f64)| Some((name.to_owned(), tally.quantile_us(share)?));
        Self {
            due: tally.total(),
            ends: ends.filter(|(_, count)| *count > 0).collect(),
            good: tally.count(End::Good),
            latency_us: QUANTILES.into_iter().filter_map(quantile).collect(),
        }
    }

    pub fn latency(&self, name: &str) -> Option<u64> {
        self.latency_us.iter().find(|(known, _)| known == name).map(|(_, us)| *us)
    }
}

/// CPU time of a process and its children during the measured seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cpu {
    pub name: String,
    pub seconds: f64,
    pub seconds_per_million: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    pub date: String,
    pub version: String,
    pub work: Work,
    pub mode: Mode,
    pub devices: usize,
    pub cores: usize,
    /// Left out of the figures.
    pub warm_up_s: u64,
    /// Measured.
    pub seconds_measured: u64,
    pub good_per_second: f64,
    pub readings_per_second: f64,
    pub all: Figures,
    pub cpu: Vec<Cpu>,
    /// From the first second of the warm-up.
    pub seconds: Vec<Figures>,
}

/// What was measured, before it is put together.
pub struct Measured {
    pub seconds: Vec<Tally>,
    pub warm_up: Duration,
    pub over: Duration,
    /// Name and CPU time during the measured seconds.
    pub cpu: Vec<(String, Duration)>,
}

impl Outcome {
    #[expect(clippy::cast_precision_loss, reason = "counts of requests")]
    pub fn new(date: String, work: Work, mode: Mode, devices: usize, measured: &Measured) -> Self {
        let warm_up_s = measured.warm_up.as_secs();
        let skipped = usize::try_from(warm_up_s).unwrap_or(usize::MAX);
        let seconds_measured = measured.over.as_secs().saturating_sub(warm_up_s).max(1);
        let last = usize::try_from(measured.over.as_secs()).unwrap_or(usize::MAX);
        let all = Figures::of(&together(measured.seconds.iter().take(last).skip(skipped)));
        let good_per_second = all.good as f64 / seconds_measured as f64;
        let readings = work.readings();
        let cpu = measured.cpu.iter().map(|(name, time)| Cpu {
            name: name.clone(),
            seconds: time.as_secs_f64(),
            seconds_per_million: time.as_secs_f64() * 1e6 / all.good.max(1) as f64,
        });
        Self {
            date,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            work,
            mode,
            devices,
            cores: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
            warm_up_s,
            seconds_measured,
            good_per_second,
            readings_per_second: good_per_second * readings,
            cpu: cpu.collect(),
            all,
            seconds: measured.seconds.iter().map(Figures::of).collect(),
        }
    }

    /// For the terminal.
    pub fn text(&self) -> String {
        let mode = match &self.mode {
            Mode::Closed => "closed loop".to_owned(),
            Mode::Open(a) if (a.from - a.to).abs() < f64::EPSILON => format!("open loop, {}/s", a.from),
            Mode::Open(a) => format!("open loop, {} to {}/s", a.from, a.to),
        };
        let mut text = format!(
            "{}, {mode}, {} devices, {} s measured after {} s\n  goodput     {:>10.0}/s",
            self.work, self.devices, self.seconds_measured, self.warm_up_s, self.good_per_second
        );
        if self.readings_per_second > 0.0 {
            let _ = write!(text, "  ({:.0} readings/s)", self.readings_per_second);
        }
        text.push('\n');
        for (name, count) in &self.all.ends {
            let _ = writeln!(text, "  {name:<11} {count:>10}");
        }
        for (name, us) in &self.all.latency_us {
            let _ = writeln!(text, "  {name:<11} {:>10}", milliseconds(*us));
        }
        for cpu in &self.cpu {
            let _ = writeln!(
                text,
                "  CPU of {:<12} {:>6.2} s, {:.1} s per million good answers",
                cpu.name, cpu.seconds, cpu.seconds_per_million
            );
        }
        text
    }
}

fn milliseconds(us: u64) -> String {
    format!("{}.{:03} ms", us / 1_000, us % 1_000)
}

/// The second beside the first, as ratios.
pub fn compare(first: &Outcome, second: &Outcome) -> String {
    let mut text = String::new();
    if first.work != second.work || first.mode != second.mode || first.devices != second.devices {
        text.push_str("The two did not do the same; the ratios are those of different loads.\n");
    }
    let ratio = |a: f64, b: f64| if a > 0.0 { format!("{:.2}", b / a) } else { "-".to_owned() };
    let mut row = |name: &str, a: f64, b: f64, unit: &str| {
        let _ = writeln!(text, "  {name:<24} {a:>12.1} {b:>12.1} {unit:<4} {:>6}", ratio(a, b));
    };
    row("good", first.good_per_second, second.good_per_second, "/s");
    #[expect(clippy::cast_precision_loss, reason = "microseconds of a request")]
    for (name, us) in &first.all.latency_us {
        if let Some(other) = second.all.latency(name) {
            row(name, *us as f64 / 1e3, other as f64 / 1e3, "ms");
        }
    }
    for cpu in &first.cpu {
        if let Some(other) = second.cpu.iter().find(|other| other.name == cpu.name) {
            row(&format!("CPU of {}", cpu.name), cpu.seconds_per_million, other.seconds_per_million, "s/M");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::recorder::Recorder;
    use super::*;

    fn outcome(latency_ms: u64) -> Outcome {
        let recorder = Recorder::new();
        for second in 0..5_u64 {
            for n in 0..100 {
                let end = if n < 90 { End::Good } else { End::Shed };
                recorder.add(n, Duration::from_millis(second * 1_000 + 5), end, Duration::from_millis(latency_ms));
            }
        }
        let over = Duration::from_secs(5);
        let cpu = vec![("server".to_owned(), Duration::from_millis(900))];
        let measured = Measured { seconds: recorder.seconds(), warm_up: Duration::from_secs(1), over, cpu };
        Outcome::new("today".to_owned(), Work::Batch(10), Mode::Open(Arrivals::constant(100.0, over)), 7, &measured)
    }

    #[test]
    fn the_warm_up_is_left_out() {
        let outcome = outcome(20);
        assert_eq!((outcome.all.due, outcome.all.good, outcome.seconds_measured), (400, 360, 4));
        assert!((outcome.good_per_second - 90.0).abs() < 1e-9 && (outcome.readings_per_second - 900.0).abs() < 1e-9);
        assert!((outcome.cpu[0].seconds_per_million - 2_500.0).abs() < 1e-6);
        assert_eq!(outcome.seconds.len(), 5, "the picture has all of it");
        let text = outcome.text();
        for part in ["open loop, 100/s", "90/s", "900 readings/s", "503", "p99", "CPU of server"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn it_survives_its_file_and_is_compared() {
        let (fast, slow) = (outcome(20), outcome(40));
        let read: Outcome = serde_json::from_str(&serde_json::to_string(&fast).unwrap()).unwrap();
        assert_eq!(read, fast);
        let text = compare(&fast, &slow);
        assert!(text.lines().any(|line| line.contains("p99") && line.contains("2.0")), "{text}");
        assert!(!text.contains("did not do the same"));
        let other = Outcome { devices: 8, ..slow };
        assert!(compare(&fast, &other).contains("did not do the same"));
    }
}
