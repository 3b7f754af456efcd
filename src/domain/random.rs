//! Randomness as a parameter: back-off, jitter and phases take their draws from here, so that a test can seed them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// A shared source of draws. Not for secrets: those come from the crypto library.
#[derive(Clone)]
pub struct Random(Arc<Mutex<StdRng>>);

impl Random {
    /// Seeded by the operating system.
    pub fn from_os() -> Self {
        Self(Arc::new(Mutex::new(StdRng::from_os_rng())))
    }

    /// Repeatable draws.
    pub fn seeded(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(StdRng::seed_from_u64(seed))))
    }

    /// A draw from U(low, high).
    pub fn uniform(&self, low: f64, high: f64) -> f64 {
        let mut rng = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if high > low { rng.random_range(low..high) } else { low }
    }

    /// One of 0 to `count - 1`, all with the same chance; 0 if `count` is.
    pub fn below(&self, count: usize) -> usize {
        let mut rng = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if count > 1 { rng.random_range(0..count) } else { 0 }
    }

    /// True with this probability.
    pub fn chance(&self, probability: f64) -> bool {
        self.uniform(0.0, 1.0) < probability
    }

    /// 64 bits, for instance to seed another source.
    pub fn bits(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).random()
    }

    /// `base` × U(low, high).
    pub fn scale(&self, base: Duration, low: f64, high: f64) -> Duration {
        base.mul_f64(self.uniform(low, high).max(0.0))
    }

    /// Full jitter: U(0, min(cap, base × 2^attempt)), after "Exponential Backoff And Jitter" (AWS, 2015).
    pub fn full_jitter(&self, base: Duration, cap: Duration, attempt: u32) -> Duration {
        let ceiling = base.saturating_mul(2_u32.saturating_pow(attempt.min(20))).min(cap);
        self.scale(ceiling, 0.0, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_reach_every_one_and_no_other() {
        let random = Random::seeded(5);
        let drawn: std::collections::BTreeSet<_> = (0..200).map(|_| random.below(4)).collect();
        assert!(drawn.into_iter().eq(0..4));
        assert_eq!((random.below(1), random.below(0)), (0, 0));
        assert!((0..100).all(|_| random.chance(1.0) && !random.chance(0.0)));
        assert_ne!(random.bits(), random.bits());
    }

    #[test]
    fn jitter_stays_under_its_ceiling_and_repeats_with_its_seed() {
        let (base, cap) = (Duration::from_millis(100), Duration::from_secs(5));
        let draws = |seed| {
            let random = Random::seeded(seed);
            (0..200).map(|n| random.full_jitter(base, cap, n % 40)).collect::<Vec<_>>()
        };
        assert_eq!(draws(7), draws(7));
        assert_ne!(draws(7), draws(8));
        assert!(draws(7).iter().all(|d| *d <= cap));
        assert!(draws(7).iter().any(|d| *d > base), "later attempts wait longer");
    }
}
