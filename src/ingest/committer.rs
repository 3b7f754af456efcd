//! The group commit. One task gathers what requests submit and commits it for all of them; the commit in flight is
//! the window in which the next batch gathers, so there is no timer:
//!
//! - nothing in flight: commit at once;
//! - commits in flight, and a slot is free: gather up to the row cap, then commit;
//! - a slot frees: commit what is there.
//!
//! The queue is bounded in rows and in requests. A request's rows belong to the committer once they are submitted:
//! a client that hangs up takes nobody's rows along, not even its own. A request whose deadline has passed before its
//! commit begins is not committed. After a failed commit the next one waits, with full jitter: a database in trouble
//! is not asked at full speed. On drain the queue closes, and what is in it is committed.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::Instant;

use super::batch::{Tally, gather, measure};
use super::commit;
use super::commits::Tempo;
use super::decode::BatchItem;
use super::settings::IngestSettings;
use crate::domain::random::Random;
use crate::lifecycle::shutdown::Shutdown;
use crate::observe;
use crate::store::{Fault, FleetStore, StoreError};

const BACKOFF_BASE: Duration = Duration::from_millis(50);
const BACKOFF_CAP: Duration = Duration::from_secs(2);

/// The readings of one request on their way to a commit.
pub(super) struct Submission {
    pub items: Vec<BatchItem>,
    pub deadline: Instant,
    /// Where the outcome goes; nobody may be there any more.
    pub done: oneshot::Sender<Result<Tally, StoreError>>,
    /// Its room in the queue, in rows; free when its commit begins.
    pub room: OwnedSemaphorePermit,
}

/// Did the commit go through?
type Ended = bool;

pub(super) struct Committer {
    settings: Arc<IngestSettings>,
    store: FleetStore,
    random: Random,
    queue: mpsc::Receiver<Submission>,
    tempo: Arc<Tempo>,
    gathered: Vec<Submission>,
    rows: usize,
    in_flight: FuturesUnordered<BoxFuture<'static, Ended>>,
    failures: u32,
    resume_at: Instant,
    /// No more will come: the drain has begun.
    closed: bool,
}

impl Committer {
    pub(super) fn new(
        settings: Arc<IngestSettings>,
        store: FleetStore,
        random: Random,
        (queue, tempo): (mpsc::Receiver<Submission>, Arc<Tempo>),
    ) -> Self {
        Self {
            settings,
            store,
            random,
            queue,
            tempo,
            gathered: Vec::new(),
            rows: 0,
            in_flight: FuturesUnordered::new(),
            failures: 0,
            resume_at: Instant::now(),
            closed: false,
        }
    }

    /// Runs until the queue is drained, or until the abort.
    pub(super) async fn run(mut self, shutdown: Shutdown) {
        loop {
            let room = self.rows < self.settings.commit_rows_max;
            let waits = !self.gathered.is_empty() && Instant::now() < self.resume_at;
            let mut freed = false;
            tokio::select! {
                Some(ended) = self.in_flight.next(), if !self.in_flight.is_empty() => {
                    freed = true;
                    self.ended(ended);
                }
                submission = self.queue.recv(), if room && !self.closed => match submission {
                    Some(submission) => self.take(submission),
                    None => self.closed = true,
                },
                () = tokio::time::sleep_until(self.resume_at), if waits => {}
                () = shutdown.draining(), if !self.queue.is_closed() => self.queue.close(),
                () = shutdown.aborting() => return,
            }
            while self.rows < self.settings.commit_rows_max
                && let Ok(submission) = self.queue.try_recv()
            {
                self.take(submission);
            }
            if self.may_begin(freed) {
                self.begin();
            }
            if self.closed && self.gathered.is_empty() && self.in_flight.is_empty() {
                return;
            }
        }
    }

    fn take(&mut self, submission: Submission) {
        self.rows += submission.items.len();
        self.gathered.push(submission);
    }

    fn may_begin(&self, freed: bool) -> bool {
        let load = Load {
            rows: self.rows,
            rows_max: self.settings.commit_rows_max,
            in_flight: self.in_flight.len(),
            in_flight_max: self.settings.commits_in_flight_max,
        };
        !self.gathered.is_empty() && Instant::now() >= self.resume_at && load.is_time(freed || self.closed)
    }

    fn begin(&mut self) {
        let now = Instant::now();
        self.rows = 0;
        let (late, ready): (Vec<_>, Vec<_>) = self.gathered.drain(..).partition(|one| one.deadline <= now);
        for one in late {
            let error = StoreError::new("readings_commit", Fault::Unavailable, "the deadline passed in the queue");
            let _ = one.done.send(Err(error));
        }
        if ready.is_empty() {
            return;
        }
        let (mut items, mut senders) = (Vec::with_capacity(ready.len()), Vec::with_capacity(ready.len()));
        for one in ready {
            items.push(one.items);
            senders.push(one.done);
            drop(one.room);
        }
        self.in_flight.push(Box::pin(run_commit(self.store.clone(), self.tempo.clone(), items, senders)));
    }

    fn ended(&mut self, well: Ended) {
        if well {
            self.failures = 0;
        } else {
            self.resume_at = Instant::now() + self.random.full_jitter(BACKOFF_BASE, BACKOFF_CAP, self.failures);
            self.failures = self.failures.saturating_add(1);
        }
    }
}

type Sender = oneshot::Sender<Result<Tally, StoreError>>;

async fn run_commit(store: FleetStore, tempo: Arc<Tempo>, items: Vec<Vec<BatchItem>>, senders: Vec<Sender>) -> Ended {
    let begun = Instant::now();
    tempo.begun();
    let (rows, gathered) = gather(items);
    let count = rows.len();
    let outcome = commit::commit(&store, Arc::new(rows), store.deadline()).await;
    let label = outcome.error.as_ref().map_or("ok", |error| error.fault.as_str());
    let time = begun.elapsed();
    observe::ingest::commit(count, label, time);
    if outcome.error.is_none() {
        tempo.ended();
    } else {
        tempo.lost(Instant::now());
    }
    if let Some(error) = &outcome.error {
        tracing::warn!(%error, rows = count, "a commit of readings failed");
    }
    let tallies = gathered.settle(&outcome.verdicts);
    measure(&tallies, outcome.degraded);
    for (sender, tally) in senders.into_iter().zip(tallies) {
        let answer = match (tally, &outcome.error) {
            (Some(mut tally), _) => {
                tally.degraded = outcome.degraded;
                Ok(tally)
            }
            (None, Some(error)) => Err(StoreError::new(error.statement, error.fault, error.detail.clone())),
            (None, None) => Err(StoreError::new("readings_commit", Fault::Unknown, "a row without a verdict")),
        };
        let _ = sender.send(answer);
    }
    outcome.error.is_none()
}

/// What the decision to commit is made from.
struct Load {
    rows: usize,
    rows_max: usize,
    in_flight: usize,
    in_flight_max: usize,
}

impl Load {
    /// Commit now? `freed`: a slot has just become free (or nothing more will come).
    fn is_time(&self, freed: bool) -> bool {
        self.in_flight < self.in_flight_max && (self.in_flight == 0 || freed || self.rows >= self.rows_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commit_in_flight_is_the_window() {
        let time = |rows, in_flight, freed| Load { rows, rows_max: 100, in_flight, in_flight_max: 2 }.is_time(freed);
        assert!(time(1, 0, false), "nothing in flight: at once");
        assert!(!time(99, 1, false), "one in flight: gather");
        assert!(time(100, 1, false), "to the cap");
        assert!(time(1, 1, true), "a slot is free: what is there");
        assert!(!time(100, 2, false), "no slot");
        assert!(!time(100, 2, true), "no slot");
    }
}
