//! Readings: from a body to an acknowledgement. [`decompress()`], [`decode()`] to a [`ReadingBatch`] that is valid by
//! construction, [`Ingest::submit`] to the committer, which stores many requests in one transaction.
//!
//! Invariants:
//! - an answer follows a commit that wrote WAL, on the synchronous standby where there is one;
//! - an error says: not stored, or unknown and safe to send again; nothing is stored twice;
//! - what is wrong with one reading costs its neighbours nothing;
//! - every queue, body, number and nesting has a limit, and the limits are checked before the work.
//!
//! Deliberately absent: a timer in the group commit; cancelling of rows whose sender has gone; a retry of unknown
//! outcomes (the sender's retry is harmless, ours would only hide the time it takes).

pub mod batch;
mod commit;
mod commits;
mod committer;
mod decode;
mod decompress;
mod item;
mod scan;
mod senml;
mod settings;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;

pub use commits::Commits;
pub use decode::{BatchItem, DecodeError, Format, ReadingBatch, Sender, decode};
pub use decompress::{Encoding, decompress};
pub use settings::{IngestSettings, Limits};

use batch::Tally;
use commits::Tempo;
use committer::{Committer, Submission};

use crate::domain::database_clock::DatabaseClock;
use crate::domain::random::Random;
use crate::lifecycle::tasks::Tasks;
use crate::observe;
use crate::observe::ingest::Outcome;
use crate::store::durability::tell;
use crate::store::{self, FleetStore, StoreError};
use crate::wire::device::{Durability, ReadingsAnswer, RejectedItem};

/// Rejected items that an answer lists.
const REJECTED_LISTED_MAX: usize = 100;

/// Nothing of the request was acknowledged: all of them are 503, and safe to send again.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// Not stored: too much waits already.
    #[error("the queue of readings is full")]
    QueueFull,
    /// Unknown: no outcome within the caller's deadline.
    #[error("no outcome within the deadline")]
    Deadline,
    /// Not stored: the replica is stopping.
    #[error("the replica is draining")]
    Draining,
    /// Not stored, or unknown: its `fault` says which.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The way in. Clones share the queue.
#[derive(Clone)]
pub struct Ingest(Arc<Shared>);

struct Shared {
    settings: Arc<IngestSettings>,
    clock: DatabaseClock,
    queue: mpsc::Sender<Submission>,
    /// Rows that the queue has room for.
    room: Arc<Semaphore>,
    tempo: Arc<Tempo>,
}

impl Ingest {
    /// Starts the committer. The settings have passed [`IngestSettings::check`].
    pub fn start(
        settings: IngestSettings,
        store: FleetStore,
        clock: DatabaseClock,
        random: Random,
        tasks: &Tasks,
    ) -> Self {
        let settings = Arc::new(settings);
        let (queue, receiver) = mpsc::channel(settings.queue_requests_max);
        let room = Arc::new(Semaphore::new(settings.queue_rows_max));
        let tempo = Arc::new(Tempo::default());
        let committer = Committer::new(settings.clone(), store, random, (receiver, tempo.clone()));
        tasks.essential("ingest-committer", committer.run(tasks.shutdown().clone()));
        Self(Arc::new(Shared { settings, clock, queue, room, tempo }))
    }

    pub fn limits(&self) -> &Limits {
        &self.0.settings.limits
    }

    /// Decodes a decompressed body with the limits of this replica and the database's clock.
    pub fn decode<'s>(
        &self,
        format: Format,
        body: &[u8],
        sender: impl Into<Sender<'s>>,
    ) -> Result<ReadingBatch, DecodeError> {
        decode(format, body, sender, self.limits(), self.0.clock.unix_us())
    }

    /// Stores the batch and waits for its commit, at most `deadline`; past it, and when the caller leaves, the
    /// readings may be stored all the same.
    pub async fn submit(&self, batch: ReadingBatch, deadline: Duration) -> Result<ReadingsAnswer, IngestError> {
        let ReadingBatch { items, rejected, .. } = batch;
        if items.is_empty() {
            return Ok(answer(Tally::default(), rejected));
        }
        let count = items.len();
        match self.commit(items, Instant::now() + deadline).await {
            Ok(tally) => {
                let answer = answer(tally, rejected);
                // It was committed in the committer's task, and is answered for in this one.
                tell(if answer.durability.is_some() { store::Durability::Degraded } else { store::Durability::Full });
                Ok(answer)
            }
            Err(error) => {
                observe::ingest::readings(Outcome::Failed, count as u64);
                Err(error)
            }
        }
    }

    async fn commit(&self, items: Vec<BatchItem>, deadline: Instant) -> Result<Tally, IngestError> {
        let rows = u32::try_from(items.len()).map_err(|_| full())?;
        let room = self.0.room.clone().try_acquire_many_owned(rows).map_err(|_| full())?;
        let (done, outcome) = oneshot::channel();
        self.0.queue.try_send(Submission { items, deadline, done, room }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => full(),
            mpsc::error::TrySendError::Closed(_) => IngestError::Draining,
        })?;
        let mut wait = Wait { tempo: &self.0.tempo, begun: Some(Instant::now()) };
        match tokio::time::timeout_at(deadline, outcome).await {
            Ok(Ok(outcome)) => {
                if outcome.is_err() {
                    wait.begun = None;
                }
                Ok(outcome?)
            }
            // The committer has gone, at the abort: it may have begun the commit.
            Ok(Err(_)) | Err(_) => Err(IngestError::Deadline),
        }
    }

    /// How commits went since this was last called.
    pub fn take_commits(&self) -> Commits {
        let commits = self.0.tempo.take();
        Commits { is_idle: commits.is_idle && self.queued() == (0, 0), ..commits }
    }

    /// Rows and requests that wait for a commit.
    pub fn queued(&self) -> (usize, usize) {
        let rows = self.0.settings.queue_rows_max.saturating_sub(self.0.room.available_permits());
        (rows, self.0.queue.max_capacity() - self.0.queue.capacity())
    }

    /// To be called now and then.
    pub fn measure_queue(&self) {
        let (rows, requests) = self.queued();
        observe::ingest::queue(rows, requests);
    }
}

/// A request that waits for its commit. Counted also when it gives up, or its caller leaves: if only those were that were
/// served in time, nobody would notice that it takes longer than they have.
struct Wait<'a> {
    tempo: &'a Tempo,
    /// `None`: what came of it says nothing of a queue.
    begun: Option<Instant>,
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        if let Some(begun) = self.begun {
            self.tempo.told(begun, Instant::now());
        }
    }
}

fn full() -> IngestError {
    observe::ingest::queue_full();
    IngestError::QueueFull
}

fn answer(tally: Tally, mut rejected: Vec<RejectedItem>) -> ReadingsAnswer {
    rejected.extend(tally.rejected);
    rejected.sort_by_key(|item| item.index);
    let rejected_total = rejected.len() as u64;
    rejected.truncate(REJECTED_LISTED_MAX);
    let acknowledged = tally.stored > 0 || tally.duplicates > 0;
    let durability = (tally.degraded && acknowledged).then_some(Durability::Degraded);
    ReadingsAnswer { stored: tally.stored, duplicates: tally.duplicates, rejected_total, rejected, durability }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_lists_a_hundred_in_order() {
        let rejected = |index| RejectedItem { index, kind: "invalid".to_owned(), detail: String::new() };
        let tally = Tally { stored: 1, duplicates: 2, rejected: vec![rejected(3), rejected(1)], degraded: true };
        let answer = answer(tally, (4..200).map(rejected).collect());
        assert_eq!((answer.stored, answer.duplicates, answer.rejected_total), (1, 2, 198));
        assert_eq!(answer.rejected.iter().map(|item| item.index).take(3).collect::<Vec<_>>(), [1, 3, 4]);
        assert_eq!(answer.rejected.len(), 100);
        assert_eq!(answer.durability, Some(Durability::Degraded));
        let nothing = super::answer(Tally { degraded: true, ..Tally::default() }, Vec::new());
        assert_eq!(nothing.durability, None, "nothing is claimed to be stored");
    }
}
