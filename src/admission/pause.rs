//! How long those who are refused stay away. Pure.
//!
//! A refusal costs about as much as a request that does nothing, so there must be few of them: while there are more than a
//! twentieth of what is let in, each is for longer, until the callers who are away are as many as are too many. Longer
//! pauses also come apart further (each is drawn from one to two times its length), so that who was refused together does
//! not come back together.

use std::time::Duration;

/// A class that is full is so for about as long as a few requests wait for their commits, one behind the other.
const WAITS: f64 = 10.0;
pub(super) const MIN: Duration = Duration::from_millis(200);
/// For slow commits.
const SLOW_MAX: Duration = Duration::from_secs(10);
/// For many refusals: when the rush is over, callers should come back within seconds.
const RUSH_MAX: Duration = Duration::from_secs(3);
/// Refusals for each request that is let in.
const REFUSALS_PER_ENTERED: f64 = 0.05;
/// In each window with more of them, and in each with fewer.
const GROWTH: f64 = 1.07;
const DECAY: f64 = 0.97;

#[derive(Debug)]
pub(super) struct Pause {
    factor: f64,
}

impl Pause {
    pub(super) fn new() -> Self {
        Self { factor: 1.0 }
    }

    /// Learns from a window in which something was done.
    pub(super) fn learn(&mut self, entered: u32, refused: u32) {
        if f64::from(refused) <= f64::from(entered) * REFUSALS_PER_ENTERED {
            self.factor = (self.factor * DECAY).max(1.0);
        } else {
            self.factor = (self.factor * GROWTH).min(RUSH_MAX.div_duration_f64(MIN));
        }
    }

    /// Before jitter. `wait`: how long a request waits for its commit at present.
    pub(super) fn of(&self, wait: Duration) -> Duration {
        let least = wait.mul_f64(WAITS).clamp(MIN, SLOW_MAX);
        least.mul_f64(self.factor).min(RUSH_MAX.max(least))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Duration = Duration::from_millis(2);

    #[test]
    fn it_is_a_few_waits_within_bounds() {
        let pause = Pause::new();
        for (wait_ms, pause_ms) in [(0, 200), (20, 200), (200, 2_000), (1_400, 10_000)] {
            assert_eq!(pause.of(Duration::from_millis(wait_ms)), Duration::from_millis(pause_ms));
        }
    }

    #[test]
    fn refusals_become_few() {
        // 4,000 callers who call once a second unless they are away, and a service that can do 1,000 of them.
        let (mut pause, mut away, mut last) = (Pause::new(), 0.0_f64, 0.0);
        for _ in 0..600 {
            let offered = (4_000.0 - away) / 10.0;
            let (served, refused) = (offered.min(100.0), (offered - 100.0_f64).max(0.0));
            away += refused - away / (pause.of(QUICK).as_secs_f64() * 1.5 * 10.0);
            pause.learn(whole(served), whole(refused));
            last = refused;
        }
        assert!(last < 100.0, "{last} in a window, {:?}", pause.of(QUICK));
        assert!(pause.of(QUICK) > Duration::from_secs(2), "{:?}", pause.of(QUICK));
    }

    #[test]
    fn it_is_short_again_soon_after() {
        let mut pause = Pause::new();
        for _ in 0..100 {
            pause.learn(100, 1_000);
        }
        assert_eq!(pause.of(QUICK), RUSH_MAX);
        for _ in 0..100 {
            pause.learn(100, 3);
        }
        assert_eq!(pause.of(QUICK), MIN);
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few hundred")]
    fn whole(count: f64) -> u32 {
        count as u32
    }
}
