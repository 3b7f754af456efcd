//! The drill's load: devices and operators with real certificates, whose every request is written down.
//!
//! [`Population`] is made once for a run: a fleet, and devices enrolled through the API. [`Load`] is one scenario's:
//! each worker sends one request at a time, so that a fault meets at most as many requests as there are workers.
//! Nothing is retried inside the client: an attempt is a record.
//!
//! What holds:
//! - Readings that are not acknowledged are sent again, in another form and through another endpoint, until they are
//!   or the run ends. Each is numbered, so that the database can be asked for each.
//! - The history loses nothing: its queue has a limit, and a worker that finds it full waits.
//! - A device that is killed stops in the middle of what it does, and says no goodbye.

mod counters;
mod database;
mod device;
mod encode;
mod history;
mod lane;
mod operator;
mod outcome;
mod population;
mod reading;
mod roads;
mod settings;
mod workers;

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use counters::Live;
pub use database::final_database;
pub use population::{Place, Population};
pub use settings::LoadSettings;

use super::evidence::{Attempt, Silenced};
use crate::client::ClientError;
use crate::lifecycle::shutdown::Shutdown;
use crate::lifecycle::tasks::Tasks;
use counters::Counters;
use history::History;
use lane::Run;
use roads::Closed;

/// The load could not be set up, or its history not be written.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("the load: {0}")]
    SetUp(String),
    #[error("the load's history: {0}")]
    History(#[from] std::io::Error),
}

/// A device that may be killed.
struct Killable {
    device: Uuid,
    killed: CancellationToken,
}

/// The load of one scenario. It ends when it is finished or dropped.
pub struct Load {
    population: Arc<Population>,
    run: Arc<Run>,
    workers: Tasks,
    history: History,
    killable: Mutex<Vec<Killable>>,
    silenced: Mutex<Vec<Silenced>>,
    _end: AbortOnDrop,
}

struct AbortOnDrop(Shutdown);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Load {
    /// Starts all workers; `history` is made anew. The drain of `tasks` ends them at once.
    pub async fn start(population: Arc<Population>, history: &Path, tasks: &Tasks) -> Result<Self, LoadError> {
        let (history, sender) = History::begin(history).await?;
        let stop = Shutdown::new();
        let run = Arc::new(Run {
            settings: population.office.settings.clone(),
            clock: population.office.place.clock.clone(),
            stop: stop.clone(),
            counters: Counters::new(),
            closed: Closed::default(),
            rush_until: watch::channel(Instant::now()).0,
        });
        let (outer, inner) = (tasks.shutdown().clone(), stop.clone());
        tasks.tracked(async move {
            tokio::select! {
                () = outer.draining() => inner.abort(),
                () = inner.aborting() => {}
            }
        });
        let workers = Tasks::new(stop.clone());
        let killable = workers::start(&population, &run, &sender, &workers);
        let (killable, silenced) = (Mutex::new(killable), Mutex::default());
        Ok(Self { population, run, workers, history, killable, silenced, _end: AbortOnDrop(stop) })
    }

    /// For so long each device sends its next readings as soon as the last are answered: a fault that comes now meets
    /// requests under way, however fast the service is.
    pub fn rush(&self, span: Duration) {
        self.run.rush_until.send_replace(Instant::now() + span);
    }

    /// Counters for people who watch.
    pub fn live(&self) -> Live {
        self.run.counters.live()
    }

    /// Was a reading stored by a request that was sent after `us` (CLOCK_BOOTTIME)?
    pub fn acknowledged_since(&self, us: u64) -> bool {
        *self.run.counters.stored().borrow() > us
    }

    /// Waits until one was.
    pub async fn wait_acknowledged_since(&self, us: u64) {
        let mut stored = self.run.counters.stored();
        // The sender lives as long as `self`.
        let _ = stored.wait_for(|sent_us| *sent_us > us).await;
    }

    /// Kills devices that keep the fleet's interval: they stop in the middle of what they do, without a goodbye.
    /// Fewer than `count` when fewer are left.
    pub fn silence(&self, count: usize) -> Vec<Silenced> {
        let mut killable = self.killable.lock().unwrap_or_else(PoisonError::into_inner);
        let mut now_silent = Vec::new();
        while now_silent.len() < count && !killable.is_empty() {
            let place = self.population.office.place.random.below(killable.len());
            let chosen = killable.swap_remove(place);
            chosen.killed.cancel();
            now_silent.push(Silenced {
                device: chosen.device,
                at_us: self.run.clock.boottime().as_us(),
                interval_ms: self.population.heartbeat_interval_ms(),
            });
        }
        self.run.counters.silenced.fetch_add(now_silent.len() as u64, Ordering::Relaxed);
        self.silenced.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&now_silent);
        now_silent
    }

    /// Makes no new readings, and sends those that are not acknowledged for at most `patience` more; devices say
    /// goodbye, and all stops. A suspension that is under way is lived through (`try_for`), so `patience` is longer.
    pub async fn finish(self, patience: Duration) -> Result<(Vec<Attempt>, Vec<Silenced>), LoadError> {
        self.run.stop.drain();
        self.workers.finish(patience).await;
        let attempts = self.history.read().await?;
        Ok((attempts, self.silenced.into_inner().unwrap_or_else(PoisonError::into_inner)))
    }
}
