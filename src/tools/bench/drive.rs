//! Sends: by a schedule that does not care how the service is (open loop), or each caller as soon as it is answered
//! (closed loop, for the ceiling).
//!
//! A schedule's request belongs to one device, whose requests go one after the other on its connection. One that finds
//! the device busy waits for it, and the wait counts as latency. A device that was told to stay away (429 or 503 with a
//! pause, RFC 9110, 10.2.3) does: what is due meanwhile is held back. One that is stubborn does not.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::arrivals::Arrivals;
use super::crowd::Caller;
use super::recorder::{End, Recorder};
use super::work::Work;
use crate::client::error::Refusal;
use crate::client::transport::Answer;
use crate::domain::random::Random;
use crate::lifecycle::shutdown::Shutdown;
use crate::lifecycle::tasks::Tasks;

/// Requests of one device that may wait for it; more are not sent, and said to be so.
const WAITING_MAX: usize = 256;
/// Between two looks at the schedule: the resolution of tokio's timer.
const STEP: Duration = Duration::from_millis(1);
/// What is under way at the end may take so long.
const END_LIMIT: Duration = Duration::from_secs(31);

/// What a device does that was told to stay away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manners {
    /// It stays away for as long as it was told.
    Polite,
    /// It comes again as if nothing had been said.
    Stubborn,
}

/// What callers share.
struct Field {
    work: Work,
    manners: Manners,
    random: Random,
    recorder: Arc<Recorder>,
    begun: Instant,
    under_way: AtomicU64,
}

/// One run; what it records goes on while it runs.
pub struct Drive {
    field: Arc<Field>,
    callers: Vec<Caller>,
    tasks: Tasks,
}

impl Drive {
    pub fn new(callers: Vec<Caller>, work: Work, manners: Manners, random: Random, recorder: Arc<Recorder>) -> Self {
        let field = Field { work, manners, random, recorder, begun: Instant::now(), under_way: AtomicU64::new(0) };
        Self { field: Arc::new(field), callers, tasks: Tasks::new(Shutdown::new()) }
    }

    pub fn elapsed(&self) -> Duration {
        self.field.begun.elapsed()
    }

    pub fn under_way(&self) -> u64 {
        self.field.under_way.load(Ordering::Relaxed)
    }

    /// Sends when it is due, until the schedule ends and everything that was sent is answered.
    pub async fn open(&self, arrivals: Arrivals, stop: &Shutdown) {
        let lanes: Vec<mpsc::Sender<Duration>> = self
            .callers
            .iter()
            .enumerate()
            .map(|(place, caller)| {
                let (sender, receiver) = mpsc::channel(WAITING_MAX);
                self.tasks.tracked(lane(self.field.clone(), place, caller.clone(), receiver));
                sender
            })
            .collect();
        let (count, mut next) = (arrivals.count(), 0_u64);
        while next < count && !stop.is_draining() {
            let now = self.elapsed();
            while next < count && arrivals.at(next) <= now {
                let place = usize::try_from(next).unwrap_or(usize::MAX) % lanes.len();
                let due = arrivals.at(next);
                if lanes[place].try_send(due).is_err() {
                    self.field.recorder.add(place, due, End::NotSent, Duration::ZERO);
                }
                next += 1;
            }
            tokio::time::sleep(STEP).await;
        }
        drop(lanes);
        self.end(Duration::ZERO).await;
    }

    /// Each caller sends again as soon as it is answered, for so long.
    pub async fn closed(&self, over: Duration, stop: &Shutdown) {
        for (place, caller) in self.callers.iter().enumerate() {
            let (field, caller, stop) = (self.field.clone(), caller.clone(), stop.clone());
            self.tasks.tracked(async move {
                while field.begun.elapsed() < over && !stop.is_draining() {
                    let pause = field.once(place, &caller, field.begun.elapsed()).await;
                    // None of them outlives the run.
                    let left = over.saturating_sub(field.begun.elapsed());
                    tokio::time::sleep(pause.min(left)).await;
                }
            });
        }
        self.end(over).await;
    }

    /// Callers end by themselves, after `over` at the latest.
    async fn end(&self, over: Duration) {
        let _ = self.tasks.finish(over + END_LIMIT).await;
    }
}

async fn lane(field: Arc<Field>, place: usize, caller: Caller, mut due: mpsc::Receiver<Duration>) {
    let mut away_until = Duration::ZERO;
    while let Some(due) = due.recv().await {
        if field.begun.elapsed() < away_until {
            field.recorder.add(place, due, End::HeldBack, Duration::ZERO);
            continue;
        }
        let pause = field.once(place, &caller, due).await;
        away_until = field.begun.elapsed() + pause;
    }
}

impl Field {
    /// How long the device stays away now.
    async fn once(&self, place: usize, caller: &Caller, due: Duration) -> Duration {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        let (end, pause) = self.send(caller).await;
        self.under_way.fetch_sub(1, Ordering::Relaxed);
        self.recorder.add(place, due, end, self.begun.elapsed().saturating_sub(due));
        if self.manners == Manners::Polite { pause } else { Duration::ZERO }
    }

    async fn send(&self, caller: &Caller) -> (End, Duration) {
        let Ok(call) = self.work.call(&caller.token, &self.random) else { return (End::Failed, Duration::ZERO) };
        let answer = if matches!(self.work, Work::Storm) {
            caller.transport.reconnected().exchange(&caller.url, &call).await
        } else {
            caller.transport.exchange(&caller.url, &call).await
        };
        match answer {
            Ok(answer) => (End::of(answer.status), told(&answer)),
            Err(_) => (End::Failed, Duration::ZERO),
        }
    }
}

/// How long the service asks the caller to stay away.
fn told(answer: &Answer) -> Duration {
    if !matches!(answer.status, 429 | 503) {
        return Duration::ZERO;
    }
    let header = answer.retry_after.as_deref().and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs);
    Refusal::read(&answer.endpoint, answer.status, header, &answer.body).retry_after.unwrap_or_default()
}
