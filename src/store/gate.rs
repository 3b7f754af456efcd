//! Abandoned work. A caller leaves at its deadline; the statement goes on in a task that holds the connection, so a
//! backend that waits for a standby (and does not notice that nobody listens) counts against the pool until its fate
//! is known. While any commit is outstanding, only one more, a probe, may be under way on that primary: otherwise
//! retries would fill `max_connections` with waiting commits and lock everybody out.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::{Fault, StoreError};
use crate::lifecycle::tasks;
use crate::observe;

/// One for each pool and primary.
pub(super) struct Gate {
    plane: &'static str,
    abandoned: AtomicUsize,
    probe: Arc<Semaphore>,
}

impl Gate {
    pub(super) fn new(plane: &'static str) -> Arc<Self> {
        Arc::new(Self { plane, abandoned: AtomicUsize::new(0), probe: Arc::new(Semaphore::new(1)) })
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
        let permit = self.enter(name)?;
        let mut task = tasks::spawn(async move {
            let outcome = work.await;
            drop(permit);
            outcome
        });
        match tokio::time::timeout(limit, &mut task).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(panicked)) => Err(StoreError::new(name, late, panicked.to_string()).into()),
            Err(_) => {
                self.watch(name, task);
                Err(StoreError::new(name, late, format!("no outcome within {limit:?}")).into())
            }
        }
    }

    fn enter(&self, name: &'static str) -> Result<Option<OwnedSemaphorePermit>, StoreError> {
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

        release.send(()).unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(gate.abandoned.load(Ordering::SeqCst), 0);
        assert_eq!(gate.run("after", limit, Fault::Unknown, async { Ok::<_, StoreError>(3) }).await.unwrap(), 3);
    }
}
