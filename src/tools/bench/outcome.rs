//! What a run came to: for people on the terminal, for programs as JSON, and beside another run.

use std::fmt::Write as _;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::arrivals::Arrivals;
use super::recorder::{End, Tally, together};
use super::search::{self, Step};
use super::work::Work;

const QUANTILES: [(&str, f64); 5] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999), ("max", 1.0)];

/// How the load was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    Open(Arrivals),
    /// Each device as fast as it is answered.
    Closed,
    /// The same, with the best of several numbers of devices.
    Search {
        devices_max: usize,
    },
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
    /// Of good answers.
    pub seconds_per_million: f64,
    /// Of all answers: refusals cost something too. `None` if there was none.
    #[serde(default)]
    pub seconds_per_million_answered: Option<f64>,
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
    /// Zero also where nobody knows: of a mix of which some was refused.
    pub readings_per_second: f64,
    pub all: Figures,
    pub cpu: Vec<Cpu>,
    /// From the first second of the warm-up.
    pub seconds: Vec<Figures>,
    /// All steps of a search; the other figures are those of the best one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<Step>,
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
        let tally = together(measured.seconds.iter().take(last).skip(skipped));
        let (all, answered) = (Figures::of(&tally), tally.answered());
        let good_per_second = all.good as f64 / seconds_measured as f64;
        let readings = work.readings();
        // Of a mix of which some was refused, nobody knows what the rest was.
        let is_told = all.good == all.due || !matches!(work, Work::Mix | Work::Weighted(_));
        let cpu = measured.cpu.iter().map(|(name, time)| Cpu {
            name: name.clone(),
            seconds: time.as_secs_f64(),
            seconds_per_million: time.as_secs_f64() * 1e6 / all.good.max(1) as f64,
            seconds_per_million_answered: (answered > 0).then(|| time.as_secs_f64() * 1e6 / answered as f64),
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
            readings_per_second: if is_told { good_per_second * readings } else { 0.0 },
            cpu: cpu.collect(),
            all,
            seconds: measured.seconds.iter().map(Figures::of).collect(),
            search: Vec::new(),
        }
    }

    /// As one of a search.
    pub fn step(&self) -> Step {
        let [p50_us, p99_us] = ["p50", "p99"].map(|name| self.all.latency(name));
        Step { devices: self.devices, good_per_second: self.good_per_second, p50_us, p99_us }
    }

    /// For the terminal.
    pub fn text(&self) -> String {
        let mode = match &self.mode {
            Mode::Closed => "closed loop".to_owned(),
            Mode::Search { devices_max } => format!("closed loop, the best of a search up to {devices_max} devices"),
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
            let per_good = cpu.seconds_per_million;
            let _ = write!(text, "  CPU of {:<12} {:>6.2} s, per million {per_good:.1} s good", cpu.name, cpu.seconds);
            if let Some(per_answer) = cpu.seconds_per_million_answered {
                let _ = write!(text, ", {per_answer:.1} s answered in any way");
            }
            text.push('\n');
        }
        if !self.search.is_empty() {
            let _ = write!(text, "all steps\n{}", search::text(&self.search, self.devices));
        }
        if matches!(self.mode, Mode::Search { devices_max } if search::is_open_ended(&self.search, devices_max)) {
            text.push_str("  Goodput still grew at the last step: with more --devices the ceiling may be higher.\n");
        }
        text
    }
}

fn milliseconds(us: u64) -> String {
    format!("{}.{:03} ms", us / 1_000, us % 1_000)
}

/// The second beside the first, as ratios.
#[expect(clippy::cast_precision_loss, reason = "devices, and microseconds of a request")]
pub fn compare(first: &Outcome, second: &Outcome) -> String {
    let mut text = String::new();
    // A search finds its number of devices: that is a result.
    let is_search = matches!(first.mode, Mode::Search { .. });
    let same_devices = is_search || first.devices == second.devices;
    if first.work != second.work || first.mode != second.mode || !same_devices {
        text.push_str("The two did not do the same; the ratios are those of different loads.\n");
    }
    let ratio = |a: f64, b: f64| if a > 0.0 { format!("{:.2}", b / a) } else { "-".to_owned() };
    let mut row = |name: &str, a: f64, b: f64, unit: &str| {
        let _ = writeln!(text, "  {name:<24} {a:>12.1} {b:>12.1} {unit:<4} {:>6}", ratio(a, b));
    };
    if is_search {
        row("devices", first.devices as f64, second.devices as f64, "");
    }
    row("good", first.good_per_second, second.good_per_second, "/s");
    for (name, us) in &first.all.latency_us {
        if let Some(other) = second.all.latency(name) {
            row(name, *us as f64 / 1e3, other as f64 / 1e3, "ms");
        }
    }
    for cpu in &first.cpu {
        if let Some(other) = second.cpu.iter().find(|other| other.name == cpu.name) {
            let name = format!("CPU of {}", cpu.name);
            row(&name, cpu.seconds_per_million, other.seconds_per_million, "s/M");
            if let (Some(a), Some(b)) = (cpu.seconds_per_million_answered, other.seconds_per_million_answered) {
                row(&format!("{name}, all"), a, b, "s/M");
            }
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
        assert_eq!(outcome.seconds.len(), 5, "the picture has all of it");
        let text = outcome.text();
        for part in ["open loop, 100/s", "90/s", "900 readings/s", "503", "p99", "CPU of server"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn what_was_refused_has_its_share_of_the_cpu_time() {
        let outcome = outcome(20);
        // 0.9 s for 360 good answers, and for 400 of any kind.
        assert!((outcome.cpu[0].seconds_per_million - 2_500.0).abs() < 1e-6);
        assert!((outcome.cpu[0].seconds_per_million_answered.unwrap() - 2_250.0).abs() < 1e-6);
        assert!(
            outcome.text().contains("per million 2500.0 s good, 2250.0 s answered in any way"),
            "{}",
            outcome.text()
        );
        assert!(compare(&outcome, &outcome).contains("CPU of server, all"));
    }

    #[test]
    fn a_search_shows_all_its_steps_and_finds_its_number_of_devices() {
        let best = Outcome { mode: Mode::Search { devices_max: 32 }, devices: 16, ..outcome(20) };
        let better = Outcome { devices: 32, good_per_second: 150.0, ..best.clone() };
        let found = Outcome { search: vec![best.step(), better.step()], ..better.clone() };
        let text = found.text();
        let steps: Vec<&str> = text.lines().skip_while(|line| *line != "all steps").collect();
        assert!(text.contains("the best of a search up to 32 devices, 32 devices, 4 s measured"), "{text}");
        assert!(steps[2].contains("16") && steps[2].contains("90/s") && steps[3].ends_with("the best"), "{text}");
        assert!(text.ends_with("with more --devices the ceiling may be higher.\n"), "{text}");
        let compared = compare(&best, &found);
        assert!(!compared.contains("did not do the same") && compared.contains("devices"), "{compared}");
    }

    #[test]
    fn a_file_from_before_the_search_is_read() {
        let outcome = outcome(20);
        let mut old = serde_json::to_value(&outcome).unwrap();
        assert_eq!(old.get("search"), None);
        old["cpu"][0].as_object_mut().unwrap().remove("seconds_per_million_answered");
        let read: Outcome = serde_json::from_value(old).unwrap();
        assert_eq!((read.cpu[0].seconds_per_million_answered, &read.all), (None, &outcome.all));
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
