//! How commits went since somebody last asked.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Commits of one window of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Commits {
    /// Those with an outcome.
    pub ended: u32,
    /// Those whose outcome is not known, or that could not be begun.
    pub lost: u32,
    /// Requests that have waited for their outcome, or that have given up.
    pub told: u32,
    /// How long, all together: for the commit before theirs, for their own, and for a core to go on.
    pub waited: Duration,
    /// None is under way, and nothing waits for one.
    pub is_idle: bool,
}

impl Commits {
    /// How long a request waits in the mean; zero if none did.
    pub fn mean_wait(&self) -> Duration {
        self.waited.checked_div(self.told).unwrap_or_default()
    }
}

/// Counts them; one reader takes what is there.
#[derive(Default)]
pub(super) struct Tempo(Mutex<Count>);

#[derive(Default)]
struct Count {
    commits: Commits,
    under_way: u32,
    lost_at: Option<Instant>,
}

impl Tempo {
    /// Each ends, or is lost.
    pub(super) fn begun(&self) {
        self.lock().under_way += 1;
    }

    pub(super) fn ended(&self) {
        let mut count = self.lock();
        count.under_way = count.under_way.saturating_sub(1);
        count.commits.ended = count.commits.ended.saturating_add(1);
    }

    pub(super) fn lost(&self, now: Instant) {
        let mut count = self.lock();
        count.under_way = count.under_way.saturating_sub(1);
        count.commits.lost = count.commits.lost.saturating_add(1);
        count.lost_at = Some(now);
    }

    /// By the request itself, which has been here since `begun`, when it goes on, also without its outcome: those who give
    /// up waited longest. Who was here when a commit was lost has waited for the database to come back, and says nothing of
    /// a queue.
    pub(super) fn told(&self, begun: Instant, now: Instant) {
        let mut count = self.lock();
        if count.lost_at.is_none_or(|lost_at| lost_at < begun) {
            count.commits.told = count.commits.told.saturating_add(1);
            count.commits.waited = count.commits.waited.saturating_add(now.duration_since(begun));
        }
    }

    /// Waits are kept until a commit ends: while all stands still, they say nothing that is not over when it goes on.
    pub(super) fn take(&self) -> Commits {
        let mut count = self.lock();
        let is_idle = count.under_way == 0;
        if count.commits.ended == 0 && count.commits.lost == 0 {
            return Commits { is_idle, ..Commits::default() };
        }
        Commits { is_idle, ..std::mem::take(&mut count.commits) }
    }

    fn lock(&self) -> MutexGuard<'_, Count> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_taken_once() {
        let (tempo, begun) = (Tempo::default(), Instant::now());
        for ms in [2, 4] {
            tempo.told(begun, begun + Duration::from_millis(ms));
        }
        tempo.ended();
        tempo.lost(begun);
        let taken = tempo.take();
        assert_eq!((taken.mean_wait(), taken.ended, taken.lost), (Duration::from_millis(3), 1, 1));
        assert_eq!(tempo.take(), Commits { is_idle: true, ..Commits::default() });
        assert_eq!(Commits::default().mean_wait(), Duration::ZERO);
    }

    #[test]
    fn waits_are_kept_until_a_commit_ends() {
        let (tempo, begun) = (Tempo::default(), Instant::now());
        tempo.begun();
        tempo.told(begun, begun + Duration::from_millis(7));
        assert_eq!(tempo.take(), Commits::default(), "one is under way");
        tempo.ended();
        let taken = tempo.take();
        assert_eq!((taken.ended, taken.mean_wait(), taken.is_idle), (1, Duration::from_millis(7), true));
    }

    #[test]
    fn who_waited_for_the_database_to_come_back_was_in_no_queue() {
        let (tempo, begun) = (Tempo::default(), Instant::now());
        let after = |ms| begun + Duration::from_millis(ms);
        tempo.lost(after(9_000));
        tempo.told(begun, after(10_000));
        tempo.told(after(9_000), after(10_000));
        tempo.told(after(9_001), after(9_006));
        tempo.ended();
        let taken = tempo.take();
        assert_eq!((taken.told, taken.mean_wait()), (1, Duration::from_millis(5)));
    }
}
