//! How commits went since somebody last asked.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Commits of one window of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Commits {
    /// Those with an outcome.
    pub ended: u32,
    /// Their time, all together.
    pub time: Duration,
    /// Those whose outcome is not known, or that could not be begun.
    pub lost: u32,
}

impl Commits {
    /// The mean time of those with an outcome; zero if there was none.
    pub fn mean(&self) -> Duration {
        self.time.checked_div(self.ended).unwrap_or_default()
    }
}

/// Counts them; one reader takes what is there.
#[derive(Default)]
pub(super) struct Tempo(Mutex<Commits>);

impl Tempo {
    pub(super) fn ended(&self, time: Duration) {
        let mut commits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        commits.ended = commits.ended.saturating_add(1);
        commits.time = commits.time.saturating_add(time);
    }

    pub(super) fn lost(&self) {
        let mut commits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        commits.lost = commits.lost.saturating_add(1);
    }

    pub(super) fn take(&self) -> Commits {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_taken_once() {
        let tempo = Tempo::default();
        tempo.ended(Duration::from_millis(2));
        tempo.ended(Duration::from_millis(4));
        tempo.lost();
        let taken = tempo.take();
        assert_eq!((taken.mean(), taken.lost), (Duration::from_millis(3), 1));
        assert_eq!(tempo.take(), Commits::default());
        assert_eq!(Commits::default().mean(), Duration::ZERO);
    }
}
