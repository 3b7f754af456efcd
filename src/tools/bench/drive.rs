//! Sends: by a schedule that does not care how the service is (open loop), or each caller as soon as it is answered
//! (closed loop, for the ceiling).
//!
//! A schedule's request belongs to one device, whose requests go one after the other on its connection. One that finds
//! the device busy waits for it, and the wait counts as latency.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::arrivals::Arrivals;
use super::crowd::Caller;
use super::recorder::{End, Recorder};
use super::work::Work;
use crate::domain::random::Random;
use crate::lifecycle::shutdown::Shutdown;
use crate::lifecycle::tasks::Tasks;

/// Requests of one device that may wait for it; more are not sent, and said to be so.
const WAITING_MAX: usize = 256;
/// Between two looks at the schedule: the resolution of tokio's timer.
const STEP: Duration = Duration::from_millis(1);
/// What is under way at the end may take so long.
const END_LIMIT: Duration = Duration::from_secs(31);

/// What callers share.
struct Field {
    work: Work,
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
    pub fn new(callers: Vec<Caller>, work: Work, random: Random, recorder: Arc<Recorder>) -> Self {
        let field = Field { work, random, recorder, begun: Instant::now(), under_way: AtomicU64::new(0) };
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
                    field.once(place, &caller, field.begun.elapsed()).await;
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
    while let Some(due) = due.recv().await {
        field.once(place, &caller, due).await;
    }
}

impl Field {
    async fn once(&self, place: usize, caller: &Caller, due: Duration) {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        let end = self.send(caller).await;
        self.under_way.fetch_sub(1, Ordering::Relaxed);
        self.recorder.add(place, due, end, self.begun.elapsed().saturating_sub(due));
    }

    async fn send(&self, caller: &Caller) -> End {
        let Ok(call) = self.work.call(&caller.token, &self.random) else { return End::Failed };
        let answer = if self.work == Work::Storm {
            caller.transport.reconnected().exchange(&caller.url, &call).await
        } else {
            caller.transport.exchange(&caller.url, &call).await
        };
        answer.map_or(End::Failed, |answer| End::of(answer.status))
    }
}
