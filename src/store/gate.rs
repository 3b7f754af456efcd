//! Abandoned work. A caller leaves at its deadline; the statement goes on in a task that holds the connection, so a
//! backend that waits for a standby (and does not notice that nobody listens) counts against the pool until its fate
//! is known. While any commit is outstanding, only one more, a probe, may be under way on that primary: otherwise
//! retries would fill `max_connections` with waiting commits and lock everybody out.
//!
//! Reads do not pass the gate: their outcome matters to nobody who has left, the server ends them by itself
//! (`statement_timeout` on their own connections), and a slow one must not stop a write.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::error::{Fault, StoreError};
use crate::lifecycle::tasks;
use crate::observe;

/// A statement whose caller waits. Dropped before its end, at the deadline or because the caller went away, it is
/// abandoned: it goes on, and is counted.
struct Pending<R: Send + 'static> {
    gate: Arc<Gate>,
    name: &'static str,
    counted: bool,
    task: Option<tokio::task::JoinHandle<R>>,
}

impl<R: Send + 'static> Drop for Pending<R> {
    fn drop(&mut self) {
        if let (Some(task), true) = (self.task.take(), self.counted) {
            self.gate.watch(self.name, task);
        }
    }
}

/// One for each pool and primary.
pub(super) struct Gate {
    plane: &'static str,
    abandoned: AtomicUsize,
    probe: Arc<Semaphore>,
    /// Another primary is followed.
    retired: CancellationToken,
}

impl Gate {
    pub(super) fn new(plane: &'static str) -> Arc<Self> {
        let (abandoned, probe) = (AtomicUsize::new(0), Arc::new(Semaphore::new(1)));
        Arc::new(Self { plane, abandoned, probe, retired: CancellationToken::new() })
    }

    /// Ends whatever is under way, for another primary is followed: on the old one it may hang for ever, and what it
    /// would answer is worth nothing. Its callers learn at once that the outcome is *unknown*; a read is tried again.
    pub(super) fn retire(&self) {
        self.retired.cancel();
    }

    /// Waits for a connection. One to a host that stands still may never come, and nobody needs it once another
    /// primary is followed: nothing was begun on it.
    pub(super) async fn unless_retired<T>(
        &self,
        name: &'static str,
        connection: impl Future<Output = T>,
    ) -> Result<T, StoreError> {
        tokio::select! {
            biased;
            connection = connection => Ok(connection),
            () = self.retired.cancelled() => {
                Err(StoreError::new(name, Fault::Unavailable, "another primary is followed now"))
            }
        }
    }

    /// Runs `work` in its own task and waits for it, at most `limit`; `late` is the verdict when that passes.
    pub(super) async fn run<T, E, F>(
        self: &Arc<Self>,
        name: &'static str,
        limit: Duration,
        late: Fault,
        work: F,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        let counted = late == Fault::Unknown;
        let permit = if counted { self.enter(name)? } else { None };
        let retired = self.retired.clone();
        let task = tasks::spawn(async move {
            let outcome = tokio::select! {
                biased;
                outcome = work => outcome,
                () = retired.cancelled() => Err(StoreError::new(name, late, "another primary is followed now").into()),
            };
            drop(permit);
            outcome
        });
        let mut pending = Pending { gate: Arc::clone(self), name, counted, task: Some(task) };
        let outcome = match &mut pending.task {
            Some(task) => tokio::time::timeout(limit, task).await,
            None => return Err(StoreError::new(name, late, "the statement was not started").into()),
        };
        if outcome.is_ok() {
            pending.task = None;
        }
        match outcome {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(panicked)) => Err(StoreError::new(name, late, panicked.to_string()).into()),
            Err(_) => Err(StoreError::new(name, late, format!("no outcome within {limit:?}")).into()),
        }
    }

    fn enter(&self, name: &'static str) -> Result<Option<OwnedSemaphorePermit>, StoreError> {
        if self.retired.is_cancelled() {
            return Err(StoreError::new(name, Fault::Unavailable, "another primary is followed now"));
        }
        if self.abandoned.load(Ordering::SeqCst) == 0 {
            return Ok(None);
        }
        let refused = |_| StoreError::new(name, Fault::Unavailable, "the outcome of an earlier statement is unknown");
        self.probe.clone().try_acquire_owned().map(Some).map_err(refused)
    }

    fn watch<R: Send + 'static>(self: &Arc<Self>, name: &'static str, task: tokio::task::JoinHandle<R>) {
        self.abandoned.fetch_add(1, Ordering::SeqCst);
        observe::store::abandoned(self.plane);
        let this = Arc::clone(self);
        tasks::spawn(async move {
            let _ = task.await;
            this.abandoned.fetch_sub(1, Ordering::SeqCst);
            observe::store::abandoned_settled(this.plane);
            tracing::info!(statement = name, plane = this.plane, "an abandoned statement has ended");
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_its_caller_left_is_counted_and_a_slow_read_is_not() {
        let gate = Gate::new("fleet");
        let (_never, held) = tokio::sync::oneshot::channel::<()>();
        let work = async move {
            let _ = held.await;
            Ok::<_, StoreError>(())
        };
        let left = gate.run("write", Duration::from_secs(9), Fault::Unknown, work);
        assert!(tokio::time::timeout(Duration::from_millis(20), left).await.is_err(), "the caller goes away");
        assert_eq!(gate.abandoned.load(Ordering::SeqCst), 1);

        let gate = Gate::new("fleet");
        let slow = std::future::pending::<Result<(), StoreError>>();
        let late = gate.run("read", Duration::from_millis(20), Fault::Unavailable, slow).await;
        assert_eq!(late.unwrap_err().fault, Fault::Unavailable);
        assert_eq!(gate.abandoned.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn one_probe_while_a_commit_is_outstanding() {
        let gate = Gate::new("fleet");
        let (release, held) = tokio::sync::oneshot::channel::<()>();
        let limit = Duration::from_millis(50);
        let late = gate
            .run("slow", limit, Fault::Unknown, async move {
                let _ = held.await;
                Ok::<_, StoreError>(())
            })
            .await;
        assert_eq!(late.unwrap_err().fault, Fault::Unknown);

        let (release_probe, probe_held) = tokio::sync::oneshot::channel::<()>();
        let probe = tasks::spawn({
            let gate = gate.clone();
            async move {
                let work = async move {
                    let _ = probe_held.await;
                    Ok::<_, StoreError>(1)
                };
                gate.run("probe", limit, Fault::Unknown, work).await
            }
        });
        tokio::task::yield_now().await;
        let second = gate.run("second", limit, Fault::Unknown, async { Ok::<_, StoreError>(2) }).await;
        assert_eq!(second.unwrap_err().fault, Fault::Unavailable, "the probe is under way");
        release_probe.send(()).unwrap();
        assert_eq!(probe.await.unwrap().unwrap(), 1);

        let read = gate.run("read", limit, Fault::Unavailable, async { Ok::<_, StoreError>(4) }).await;
        assert_eq!(read.unwrap(), 4, "a read passes");

        release.send(()).unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(gate.abandoned.load(Ordering::SeqCst), 0);
        assert_eq!(gate.run("after", limit, Fault::Unknown, async { Ok::<_, StoreError>(3) }).await.unwrap(), 3);
    }

    #[tokio::test]
    async fn what_is_under_way_at_another_primary_ends() {
        let gate = Gate::new("fleet");
        let limit = Duration::from_mins(1);
        let hangs = std::future::pending::<Result<i32, StoreError>>;
        let left = gate.run("left", Duration::ZERO, Fault::Unknown, hangs()).await;
        assert_eq!(left.unwrap_err().fault, Fault::Unknown);
        let waits = gate.run("waits", limit, Fault::Unknown, hangs());
        let retires = async {
            tokio::task::yield_now().await;
            gate.retire();
        };
        let (waits, ()) = tokio::join!(waits, retires);
        assert_eq!(waits.unwrap_err().fault, Fault::Unknown, "it may have been done");
        let late = gate.run("late", limit, Fault::Unknown, hangs()).await;
        assert_eq!(late.unwrap_err().fault, Fault::Unavailable, "it was not begun");
        while gate.abandoned.load(Ordering::SeqCst) > 0 {
            tokio::task::yield_now().await;
        }
        let connecting = gate.unless_retired("connect", std::future::pending::<()>()).await;
        assert_eq!(connecting.unwrap_err().fault, Fault::Unavailable, "nobody waits for a host that is left");
    }
}
