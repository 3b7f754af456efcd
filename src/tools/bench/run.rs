//! One run: devices connect and send, and what came of it is put together. And several, for the ceiling.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;

use super::crowd::Place;
use super::drive::{Drive, Manners};
use super::outcome::{Measured, Mode, Outcome};
use super::recorder::{End, Recorder};
use super::work::Work;
use super::{cpu, search};
use crate::domain::time::rfc3339;
use crate::lifecycle::shutdown::Shutdown;

/// What every run does.
pub struct Plan {
    pub work: Work,
    pub manners: Manners,
    pub over: Duration,
    /// Left out of the figures; shorter than `over`.
    pub warm_up: Duration,
    /// Name and process id of whoever's CPU time is reported.
    pub watched: Vec<(String, u32)>,
}

/// What was seen from beside.
struct Watch {
    /// Whole seconds of load: fewer than planned if the run was stopped.
    whole: u64,
    /// Name and CPU time between the end of the warm-up and that of the load.
    cpu: Vec<(String, Duration)>,
}

impl Plan {
    pub async fn run(&self, place: &Place, devices: usize, mode: Mode, stop: &Shutdown) -> anyhow::Result<Outcome> {
        say(&format!("enrolling {devices} devices, or finding them in {}\n", place.dir.display()));
        let callers = tokio::select! {
            callers = place.callers(devices) => callers.map_err(anyhow::Error::msg)?,
            () = stop.draining() => anyhow::bail!("stopped before the devices were there"),
        };
        let recorder = Arc::new(Recorder::new());
        let drive = Drive::new(callers, self.work.clone(), self.manners, place.random.clone(), recorder.clone());
        let work = async {
            match &mode {
                Mode::Open(arrivals) => drive.open(*arrivals, stop).await,
                Mode::Closed | Mode::Search { .. } => drive.closed(self.over, stop).await,
            }
        };
        let ((), watch) = tokio::join!(work, self.watch(&drive, &recorder, stop));
        let over = self.over.min(Duration::from_secs(watch.whole));
        anyhow::ensure!(over > self.warm_up, "stopped before anything was measured");
        let measured = Measured { seconds: recorder.seconds(), warm_up: self.warm_up, over, cpu: watch.cpu };
        Ok(Outcome::new(rfc3339(place.clock.wall()), self.work.clone(), mode, devices, &measured))
    }

    /// The best of several runs, with ever more devices, as long as that pays.
    pub async fn search(&self, place: &Place, devices_max: usize, stop: &Shutdown) -> anyhow::Result<Outcome> {
        let (mut steps, mut best) = (Vec::new(), None::<Outcome>);
        while let Some(devices) = search::next(&steps, devices_max) {
            let ran = self.run(place, devices, Mode::Search { devices_max }, stop).await;
            if stop.is_draining() {
                break;
            }
            let outcome = ran?;
            steps.push(outcome.step());
            if best.as_ref().is_none_or(|best| outcome.good_per_second > best.good_per_second) {
                best = Some(outcome);
            }
            let devices = best.as_ref().map_or(0, |best| best.devices);
            say(&format!("so far\n{}", search::text(&steps, devices)));
        }
        let best = best.context("stopped before the first step had ended")?;
        Ok(Outcome { search: steps, ..best })
    }

    /// A line a second.
    async fn watch(&self, drive: &Drive, recorder: &Recorder, stop: &Shutdown) -> Watch {
        let (seconds, warm_up) = (self.over.as_secs(), self.warm_up.as_secs());
        let now = || self.watched.iter().map(|(_, pid)| cpu::of_tree(*pid)).collect::<Vec<_>>();
        let (mut begun, mut whole) = (now(), seconds);
        for second in 1..=seconds {
            let left = Duration::from_secs(second).saturating_sub(drive.elapsed());
            tokio::time::sleep(left).await;
            if stop.is_draining() {
                whole = second - 1;
                break;
            }
            if second == warm_up {
                begun = now();
            }
            // What was due in the second before the last has been answered by now, or is late.
            let last = recorder.second(usize::try_from(second.saturating_sub(2)).unwrap_or(usize::MAX));
            let ms = |share| last.quantile_us(share).map_or_else(|| "-".to_owned(), |us| format!("{} ms", us / 1_000));
            let (good, held_back) = (last.count(End::Good), last.count(End::HeldBack));
            let other = last.total() - good - held_back;
            say(&format!(
                "{second:>4} s  good {good:>6}/s  held back {held_back:>6}/s  other {other:>6}/s  p50 {:>7}  p99 {:>7}  under way {}\n",
                ms(0.5),
                ms(0.99),
                drive.under_way()
            ));
        }
        Watch { whole, cpu: self.used(&begun, &now()) }
    }

    /// Of those who were there all the time.
    fn used(&self, begun: &[Option<Duration>], ended: &[Option<Duration>]) -> Vec<(String, Duration)> {
        let mut used = Vec::new();
        for ((name, pid), times) in self.watched.iter().zip(begun.iter().zip(ended)) {
            match times {
                (Some(begun), Some(ended)) => used.push((name.clone(), ended.saturating_sub(*begun))),
                _ => say(&format!("{name}, process {pid}, ended meanwhile: its CPU time is not known\n")),
            }
        }
        used
    }
}

/// On the terminal.
pub fn say(text: &str) {
    use std::io::Write;
    let _ = std::io::stdout().write_all(text.as_bytes());
}
