//! The only place that spawns. A long-lived task has a name, and its end before the drain is a failure of the
//! process: a service whose flusher has died must not go on acknowledging. A detached task is a unit of work whose
//! caller may leave before it ends (a statement past its deadline, one connection).

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use super::shutdown::Shutdown;

/// The long-lived tasks of one process, and the connections and statements they started.
#[derive(Clone)]
pub struct Tasks {
    shutdown: Shutdown,
    tracker: TaskTracker,
    /// Tasks that the others stand on: they end last.
    foundation: TaskTracker,
    failed: Arc<Mutex<Option<&'static str>>>,
}

impl Tasks {
    pub fn new(shutdown: Shutdown) -> Self {
        Self { shutdown, tracker: TaskTracker::new(), foundation: TaskTracker::new(), failed: Arc::default() }
    }

    pub fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    /// Runs a task for the life of the process. It must end by itself after the drain has begun; if it ends or
    /// panics before, the process drains and exits with an error that names it.
    pub fn essential<F>(&self, name: &'static str, work: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tracker.spawn(self.clone().supervised(name, work));
    }

    /// The same for a task that others stand on (the pools): it runs until the abort stage, when everybody else has
    /// ended, so that the last flush and the last commits still find a database.
    pub fn foundation<F>(&self, name: &'static str, work: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.foundation.spawn(self.clone().supervised(name, work));
    }

    async fn supervised<F>(self, name: &'static str, work: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let outcome = spawn(work).await;
        if outcome.is_err() || !self.shutdown.is_draining() {
            tracing::error!(task = name, panicked = outcome.is_err(), "an essential task ended; shutting down");
            self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(name);
            self.shutdown.drain();
        }
    }

    /// Runs work that the drain waits for (a connection), but whose failure is its own.
    pub fn tracked<F>(&self, work: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tracker.spawn(work);
    }

    /// Waits until every task has ended, at most `limit`, then aborts and waits a second more.
    /// The name of the task that failed, if one did.
    pub async fn finish(&self, limit: Duration) -> Option<&'static str> {
        self.tracker.close();
        if tokio::time::timeout(limit, self.tracker.wait()).await.is_err() {
            tracing::warn!(left = self.tracker.len(), "the drain took too long; aborting what is left");
            self.shutdown.abort();
            let _ = tokio::time::timeout(Duration::from_secs(1), self.tracker.wait()).await;
        }
        self.shutdown.abort();
        self.foundation.close();
        let _ = tokio::time::timeout(Duration::from_secs(1), self.foundation.wait()).await;
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts work that nobody supervises: its caller holds the handle, or has decided that it may outlive them.
#[expect(clippy::disallowed_methods, reason = "the one place that spawns")]
pub fn spawn<F>(work: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tokio::spawn(work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_of_an_essential_task_is_a_shutdown() {
        let tasks = Tasks::new(Shutdown::new());
        tasks.essential("steady", {
            let shutdown = tasks.shutdown().clone();
            async move { shutdown.draining().await }
        });
        tasks.essential("broken", async { panic!("on purpose") });
        tasks.shutdown().draining().await;
        assert_eq!(tasks.finish(Duration::from_secs(5)).await, Some("broken"));
    }

    #[tokio::test]
    async fn a_quiet_drain_names_nobody() {
        let tasks = Tasks::new(Shutdown::new());
        let shutdown = tasks.shutdown().clone();
        tasks.essential("steady", async move { shutdown.draining().await });
        tasks.shutdown().drain();
        assert_eq!(tasks.finish(Duration::from_secs(5)).await, None);
    }
}
