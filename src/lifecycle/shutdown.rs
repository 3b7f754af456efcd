//! A stop has two stages: *drain* (accept nothing new, finish what is there) and *abort* (stop now).

use tokio_util::sync::CancellationToken;

/// Clones share the two signals.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    drain: CancellationToken,
    abort: CancellationToken,
}

impl Shutdown {
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins the drain. Calling it again changes nothing.
    pub fn drain(&self) {
        self.drain.cancel();
    }

    /// Ends what still runs. Implies the drain.
    pub fn abort(&self) {
        self.drain.cancel();
        self.abort.cancel();
    }

    pub fn is_draining(&self) -> bool {
        self.drain.is_cancelled()
    }

    pub fn is_aborting(&self) -> bool {
        self.abort.is_cancelled()
    }

    /// Resolves when the drain begins.
    pub async fn draining(&self) {
        self.drain.cancelled().await;
    }

    /// Resolves when the abort begins.
    pub async fn aborting(&self) {
        self.abort.cancelled().await;
    }
}
