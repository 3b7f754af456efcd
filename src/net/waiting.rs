//! Connections that are not past their handshake. When there is no room, the one that has waited longest gives way: a device
//! shakes hands within a few round trips, and who only opens connections could otherwise keep all others out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Those of one listener, by their number.
#[derive(Clone, Default)]
pub(super) struct Waiting(Arc<Mutex<Line>>);

#[derive(Default)]
struct Line {
    next: u64,
    told: BTreeMap<u64, oneshot::Sender<()>>,
}

/// A place in the line. Given back when dropped.
pub(super) struct Place {
    number: u64,
    told: oneshot::Receiver<()>,
    waiting: Waiting,
}

impl Waiting {
    /// A connection that begins.
    pub(super) fn join(&self) -> Place {
        let (tell, told) = oneshot::channel();
        let mut line = self.line();
        let number = line.next;
        line.next += 1;
        line.told.insert(number, tell);
        Place { number, told, waiting: self.clone() }
    }

    /// Tells the one that has waited longest to go. False: nobody waits.
    pub(super) fn make_room(&self) -> bool {
        let first = self.line().told.pop_first();
        first.is_some_and(|(_, tell)| tell.send(()).is_ok())
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Waits to be told to go.
    pub(super) async fn gone(&mut self) {
        if (&mut self.told).await.is_err() {
            // The line is gone, and nobody will tell.
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.waiting.line().told.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn the_first_goes_first_and_who_is_through_stays() {
        let waiting = Waiting::default();
        assert!(!waiting.make_room());
        let (mut first, second, mut third) = (waiting.join(), waiting.join(), waiting.join());
        drop(second);
        assert!(waiting.make_room());
        assert!(first.gone().now_or_never().is_some() && third.gone().now_or_never().is_none());
        assert!(waiting.make_room());
        assert!(third.gone().now_or_never().is_some());
        assert!(!waiting.make_room(), "each is told once");
    }
}
