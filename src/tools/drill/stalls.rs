//! How long the machine itself stood still during a run. Figures are times, and a machine whose disk or cores belong to
//! somebody else for seconds says nothing of ours: over their bounds on such a machine, they are no verdict. Promises are
//! judged all the same.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use crate::domain::time::Clock;

const LOOK_EVERY: Duration = Duration::from_millis(50);
/// What a small commit writes at least.
const BLOCK: [u8; 4096] = [0; 4096];
/// Longer than all that the deployment's own load makes somebody wait for a core, or for the disk.
const MUCH_US: u64 = 1_000_000;
/// A tenth of the time.
const MUCH_STOLEN_PERMILLE: u64 = 100;

/// Shorter waits are not told one by one.
const TOLD_US: u64 = 250_000;
/// So many are told: the longest.
const TOLD_MAX: usize = 200;

/// One wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stall {
    /// When it was over, on CLOCK_BOOTTIME.
    pub until_us: u64,
    pub lasted_us: u64,
}

/// The longest waits of a thread that needs next to nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stalls {
    /// Microseconds that it woke up too late.
    pub timer_us: u64,
    /// Microseconds until 4 KiB were on the disk.
    pub sync_us: u64,
    /// Of all CPU time, what the hypervisor gave to others (proc_stat(5), `steal`).
    pub stolen_permille: u64,
    /// The long ones, for either reason.
    #[serde(default)]
    pub told: Vec<Stall>,
}

impl Stalls {
    /// Is a time that was measured in one of these spans, of CLOCK_BOOTTIME, no measurement?
    pub fn are_much(&self, spans: &[(u64, u64)]) -> bool {
        self.longest_us(spans) >= MUCH_US || self.stolen_permille >= MUCH_STOLEN_PERMILLE
    }

    /// A time that was measured in one of these spans may be longer by so much, in microseconds.
    pub fn longest_us(&self, spans: &[(u64, u64)]) -> u64 {
        self.overlapping(spans).map(|stall| stall.lasted_us).max().unwrap_or(0)
    }

    /// All that overlap a span, added up.
    pub fn all_us(&self, from_us: u64, until_us: u64) -> u64 {
        self.overlapping(&[(from_us, until_us)]).map(|stall| stall.lasted_us).sum()
    }

    fn overlapping(&self, spans: &[(u64, u64)]) -> impl Iterator<Item = &Stall> {
        self.told.iter().filter(|stall| {
            let from_us = stall.until_us.saturating_sub(stall.lasted_us);
            spans.iter().any(|(from, until)| from_us < *until && stall.until_us > *from)
        })
    }

    fn add(&mut self, timer_us: u64, sync_us: u64, until_us: u64) {
        self.timer_us = self.timer_us.max(timer_us);
        self.sync_us = self.sync_us.max(sync_us);
        for lasted_us in [timer_us, sync_us].into_iter().filter(|us| *us >= TOLD_US) {
            self.told.push(Stall { until_us, lasted_us });
            if self.told.len() > TOLD_MAX {
                let by_length = self.told.iter().enumerate().min_by_key(|(_, stall)| stall.lasted_us);
                if let Some(shortest) = by_length.map(|(at, _)| at) {
                    self.told.remove(shortest);
                }
            }
        }
    }
}

/// Watches until [`Self::end`], or until it is dropped.
pub struct Watch {
    over: Arc<AtomicBool>,
    thread: JoinHandle<io::Result<Stalls>>,
}

impl Watch {
    /// `dir`: on the disk that is to be watched.
    pub fn begin(dir: &Path, clock: Clock) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (told, file) = (over.clone(), dir.join("stalls"));
        Self { over, thread: tokio::task::spawn_blocking(move || watch(&file, &clock, &told)) }
    }

    /// What it saw; nothing if it could not write.
    pub async fn end(mut self) -> Stalls {
        self.over.store(true, Ordering::Relaxed);
        (&mut self.thread).await.ok().and_then(Result::ok).unwrap_or_default()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

fn watch(file: &Path, clock: &Clock, over: &AtomicBool) -> io::Result<Stalls> {
    let mut block = File::create(file)?;
    std::fs::remove_file(file)?;
    let mut seen = Stalls::default();
    let us = |span: Duration| u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
    let (stolen_before, all_before) = cpu_ticks();
    while !over.load(Ordering::Relaxed) {
        let began = clock.boottime();
        std::thread::sleep(LOOK_EVERY);
        let awake = clock.boottime();
        block.rewind()?;
        block.write_all(&BLOCK)?;
        block.sync_data()?;
        let now = clock.boottime();
        seen.add(us(awake.since(began).saturating_sub(LOOK_EVERY)), us(now.since(awake)), now.as_us());
    }
    let (stolen, all) = cpu_ticks();
    let all = all.saturating_sub(all_before).max(1);
    seen.stolen_permille = stolen.saturating_sub(stolen_before).saturating_mul(1_000) / all;
    Ok(seen)
}

/// Ticks that were stolen, and all.
fn cpu_ticks() -> (u64, u64) {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|count| count.parse().ok()).collect();
    (ticks.get(7).copied().unwrap_or(0), ticks.iter().take(8).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_or_a_tenth_is_much_where_something_was_measured() {
        let span = [(5_000_000, 6_000_000)];
        let mut seen = Stalls { stolen_permille: 99, ..Stalls::default() };
        seen.add(999_999, 999_999, 5_500_000);
        assert!(!seen.are_much(&span) && seen.longest_us(&span) == 999_999);
        assert!(Stalls { stolen_permille: 100, ..seen.clone() }.are_much(&span));
        for (timer_us, sync_us) in [(1_000_000, 0), (0, 1_000_000)] {
            let with = |until_us| {
                let mut with = seen.clone();
                with.add(timer_us, sync_us, until_us);
                with.are_much(&span)
            };
            assert!(with(5_000_001) && with(6_999_999), "it reaches into the span");
            assert!(!with(5_000_000) && !with(7_000_000), "it was over before, or began after");
        }
        seen.add(TOLD_US - 1, 0, 5_500_000);
        assert_eq!(seen.told.len(), 2);
        for _ in 0..TOLD_MAX {
            seen.add(TOLD_US, 0, 5_500_000);
        }
        seen.add(2_000_000, 0, 6_500_000);
        assert_eq!((seen.told.len(), seen.longest_us(&span)), (TOLD_MAX, 2_000_000), "the longest are kept");
    }

    #[tokio::test]
    async fn it_looks_and_leaves_nothing_behind() {
        let dir = std::env::temp_dir().join(format!("everbeat-stalls-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let watch = Watch::begin(&dir, Clock::System);
        tokio::time::sleep(LOOK_EVERY * 4).await;
        assert!(watch.end().await.sync_us > 0);
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
        std::fs::remove_dir(&dir).unwrap();
    }
}
