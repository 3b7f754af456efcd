//! How many requests may be under way: Gradient2 on how long requests wait for their commits, with AIMD on commits that
//! had no outcome. Pure.
//!
//! Source: Netflix' `concurrency-limits`, Gradient2Limit and AIMDLimit. The gradient is the wait without a queue over
//! that of now: near one the limit grows by a small queue, below it shrinks in proportion.
//!
//! The wait is the request's own, from the queue of rows until it goes on with its outcome, and not the time of the commit
//! alone: where cores are what is scarce, commits stay quick, and the queue is one of tasks. Measured at twice the capacity,
//! the time of commits let 1,500 requests in, and the p99 was five times that of their waits.
//!
//! Gradient2 takes the long-term mean for the latency without a queue. Under a load that lasts, the queue itself becomes
//! that mean within minutes, and the limit runs away. Here only windows without a queue are believed: those in which
//! less than half of the limit was used, and under a load that lasts, probes: for two short windows now and then a fifth
//! of the limit is let in (as BBR probes for the round trip, Cardwell et al., ACM Queue 14-5, 2016).

use super::shares::Room;

/// What the limit may be, and how fast it moves.
#[derive(Clone, Debug)]
pub struct LimitSettings {
    /// Never below it. Too small: after a slow moment nothing is left to find the way up with.
    pub min: u32,
    /// Never so many under way; the limit is half of it at most. Too large: memory for that many requests, and long queues
    /// before the limit has learned.
    pub max: u32,
    pub initial: u32,
}

impl LimitSettings {
    /// The highest limit that leaves room for what comes above it.
    fn ceiling(&self) -> u32 {
        (self.max / MOST).max(self.min)
    }
}

/// The wait may be so many times that without a queue before the limit shrinks. Who comes alone waits for its own commit;
/// under load there is one before it, and a batch that grows takes longer.
const TOLERANCE: f64 = 3.0;
/// No wait without a queue is taken to be shorter: a group commit takes its time for what is in it, and gets the more done
/// the more that is. Smaller: callers are refused while cores are idle. Larger: those who are let in wait.
const CALM_MIN_S: f64 = 0.012;
/// What a window without a queue weighs in the latency without one.
const CALM_WEIGHT: f64 = 0.02;
/// What a probe weighs.
const PROBE_WEIGHT: f64 = 0.3;
/// Windows under load from one probe to the next.
const PROBE_EVERY: u32 = 100;
/// In the first window of a probe the queue drains, in the last it is measured.
pub(super) const PROBE_WINDOWS: u32 = 2;
/// Of the limit, in a probe. It leaves no queue as long as the limit is below five times what is done at once.
const PROBE_SHARE: f64 = 0.2;
/// What a window weighs in the latency of now.
const RECENT_WEIGHT: f64 = 0.2;
/// At so many times the limit everybody is refused.
const MOST: u32 = 2;
/// What a limit grows by that refused somebody while waits were calm, on top of the small queue: at the first rush of a
/// day it has doubled within two seconds, where the small queue alone takes a minute.
const TOO_SMALL_GROWTH: f64 = 0.25;
/// Of how long requests waited, in each window after [`REST`] in which nobody did: after a stall, callers with deadlines are
/// not refused for ever by what was measured when the last of them was let in.
const FADING: f64 = 0.8;
/// Windows.
const REST: u32 = 10;
/// Of each new limit, this share is taken over.
const SMOOTHING: f64 = 0.2;
/// No window shrinks the limit by more than half of what is taken over.
const GRADIENT_MIN: f64 = 0.5;
/// After windows with commits of an unknown outcome.
const BACK_OFF: f64 = 0.9;

/// What was measured in one window.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Window {
    /// Commits with an outcome.
    pub commits: u32,
    /// How long the requests in them waited in the mean, in seconds.
    pub latency_s: f64,
    /// Commits without one: the deadline passed, or the connection broke.
    pub lost: u32,
    /// The most requests that were under way at once.
    pub under_way_max: u32,
    /// Those that were to wait for a commit and found no room.
    pub refused: u32,
    /// At its end no commit is under way, and nothing waits for one.
    pub is_idle: bool,
}

#[derive(Clone, Debug)]
pub struct Limit {
    settings: LimitSettings,
    limit: f64,
    /// Without a queue; zero before the first window.
    calm_s: f64,
    recent_s: f64,
    busy_windows: u32,
    probe_windows: u32,
    idle_windows: u32,
}

impl Limit {
    pub fn new(settings: LimitSettings) -> Self {
        let limit = f64::from(settings.initial).min(f64::from(settings.ceiling()));
        Self { settings, limit, calm_s: 0.0, recent_s: 0.0, busy_windows: 0, probe_windows: 0, idle_windows: 0 }
    }

    /// The limit of now.
    pub fn get(&self) -> u32 {
        self.share(if self.probe_windows > 0 { PROBE_SHARE } else { 1.0 })
    }

    /// What it would be if this were no probe.
    pub fn unprobed(&self) -> u32 {
        self.share(1.0)
    }

    pub fn is_probing(&self) -> bool {
        self.probe_windows > 0
    }

    /// How many may be under way now.
    pub fn room(&self) -> Room {
        let limit = self.get();
        if self.is_probing() { Room { limit, most: limit } } else { self.unprobed_room() }
    }

    /// The same if this were no probe.
    pub fn unprobed_room(&self) -> Room {
        let limit = self.unprobed();
        Room { limit, most: limit.saturating_mul(MOST).min(self.settings.max) }
    }

    fn share(&self, share: f64) -> u32 {
        // Between `min` and `max`, which are u32.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
        let limit = (self.limit * share) as u32;
        limit.clamp(self.settings.min, self.settings.ceiling())
    }

    /// How long requests waited over the last half second or so, in seconds; zero before the first.
    pub fn recent_s(&self) -> f64 {
        self.recent_s
    }

    /// Learns from a window; the limit from now on.
    pub fn learn(&mut self, window: &Window) -> u32 {
        self.idle_windows = if window.is_idle { self.idle_windows.saturating_add(1) } else { 0 };
        if window.lost > 0 {
            self.probe_windows = 0;
            self.set(self.limit * BACK_OFF);
        } else if window.commits > 0 && window.latency_s.is_finite() && window.latency_s > 0.0 {
            approach(&mut self.recent_s, window.latency_s, RECENT_WEIGHT);
            self.learn_latency(window);
        } else if self.idle_windows > REST {
            self.recent_s *= FADING;
        }
        self.get()
    }

    fn learn_latency(&mut self, window: &Window) {
        if self.probe_windows > 0 {
            self.probe_windows -= 1;
            if self.probe_windows == 0 {
                approach(&mut self.calm_s, window.latency_s, PROBE_WEIGHT);
            }
        } else if f64::from(window.under_way_max) < self.limit / 2.0 {
            // Whether more would be too much, nobody knows.
            self.busy_windows = 0;
            approach(&mut self.calm_s, window.latency_s, CALM_WEIGHT);
        } else if self.busy_windows >= PROBE_EVERY || self.calm_s <= 0.0 {
            (self.busy_windows, self.probe_windows) = (0, PROBE_WINDOWS);
        } else {
            self.busy_windows += 1;
            let gradient = (TOLERANCE * self.calm_s.max(CALM_MIN_S) / window.latency_s).clamp(GRADIENT_MIN, 1.0);
            let too_small = gradient >= 1.0 && window.refused > 0;
            let growth = if too_small { self.limit * TOO_SMALL_GROWTH } else { 0.0 };
            let next = self.limit.mul_add(gradient, self.limit.sqrt() + growth);
            self.set(self.limit.mul_add(1.0 - SMOOTHING, next * SMOOTHING));
        }
    }

    fn set(&mut self, limit: f64) {
        self.limit = limit.clamp(f64::from(self.settings.min), f64::from(self.settings.ceiling()));
    }
}

/// An exponential mean; the first value is taken whole.
fn approach(mean: &mut f64, value: f64, weight: f64) {
    *mean = if *mean > 0.0 { (value - *mean).mul_add(weight, *mean) } else { value };
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SETTINGS: LimitSettings = LimitSettings { min: 20, max: 2_000, initial: 100 };

    fn busy(limit: &Limit, latency_s: f64) -> Window {
        Window { commits: 5, latency_s, lost: 0, under_way_max: limit.get(), ..Window::default() }
    }

    /// Windows in which all that may be is under way, at a server that does `capacity` requests at once in `base_s` and
    /// lets the rest queue. The limits, without those of probes.
    fn saturated(limit: &mut Limit, windows: usize, (capacity, base_s): (u32, f64)) -> Vec<u32> {
        let mut seen = Vec::new();
        for _ in 0..windows {
            let queue = (f64::from(limit.get()) / f64::from(capacity)).max(1.0);
            let window = Window { refused: 1, ..busy(limit, base_s * queue) };
            limit.learn(&window);
            if limit.probe_windows == 0 {
                seen.push(limit.get());
            }
        }
        seen
    }

    #[test]
    fn it_settles_above_what_is_done_at_once_and_below_a_long_queue_for_as_long_as_the_load_lasts() {
        for capacity in [30, 100, 400] {
            let mut limit = Limit::new(SETTINGS);
            let seen = saturated(&mut limit, 20_000, (capacity, 0.040));
            for (window, limit) in seen.iter().enumerate().skip(200) {
                assert!((capacity..=capacity * 4).contains(limit), "{capacity}, window {window}: {limit}");
            }
        }
    }

    #[test]
    fn a_slow_server_is_its_own_measure_after_a_few_probes_and_a_fast_one_too() {
        let mut limit = Limit::new(SETTINGS);
        saturated(&mut limit, 1_000, (100, 0.040));
        let slow = saturated(&mut limit, 1_000, (100, 0.400));
        assert!(slow.iter().min().is_some_and(|least| *least < 60), "at first it looks like a queue");
        assert!(slow.last().is_some_and(|last| (100..=400).contains(last)), "{:?}", slow.last());
        let fast = saturated(&mut limit, 2_000, (100, 0.040));
        assert!(fast.last().is_some_and(|last| (100..=400).contains(last)), "{:?}", fast.last());
    }

    #[test]
    fn a_limit_that_refuses_while_waits_are_calm_doubles_within_two_seconds() {
        let after_two_seconds = |refused| {
            let mut limit = Limit::new(SETTINGS);
            for _ in 0..20 {
                limit.learn(&Window { refused, ..busy(&limit, 0.005) });
            }
            limit.unprobed()
        };
        assert!(after_two_seconds(1) >= 200, "{}", after_two_seconds(1));
        assert!(after_two_seconds(0) < 150, "{}", after_two_seconds(0));
    }

    #[test]
    fn a_tenfold_latency_takes_most_of_the_limit_within_three_seconds() {
        let mut limit = Limit::new(SETTINGS);
        // Behind a probe: the next one is far.
        let before = saturated(&mut limit, 320, (400, 0.050)).pop().unwrap();
        for _ in 0..30 {
            limit.learn(&busy(&limit, 0.500));
        }
        assert!(limit.get() < before / 4, "{before} to {}", limit.get());
    }

    #[test]
    fn short_waits_are_no_queue_however_much_shorter_they_can_be() {
        let mut limit = Limit::new(SETTINGS);
        saturated(&mut limit, 300, (2_000, 0.001));
        for _ in 0..300 {
            limit.learn(&busy(&limit, TOLERANCE * CALM_MIN_S));
        }
        assert_eq!(limit.unprobed_room(), Room { limit: SETTINGS.max / MOST, most: SETTINGS.max });
    }

    #[test]
    fn everybody_is_refused_at_the_most_at_the_latest() {
        assert_eq!(Limit::new(SETTINGS).room(), Room { limit: 100, most: 200 });
        let high = Limit::new(LimitSettings { initial: 1_999, ..SETTINGS });
        assert_eq!(high.unprobed_room(), Room { limit: 1_000, most: 2_000 });
    }

    #[test]
    fn what_nobody_uses_teaches_only_the_latency_without_a_queue() {
        let mut limit = Limit::new(SETTINGS);
        for latency_s in [0.001, 0.5, 0.001] {
            limit.learn(&Window { commits: 1, latency_s, under_way_max: 3, ..Window::default() });
        }
        assert_eq!(limit.get(), 100);
        limit.learn(&Window::default());
        assert_eq!(limit.get(), 100);
        assert!(limit.recent_s() > 0.001);
    }

    #[test]
    fn a_stall_is_forgotten_when_nobody_waits_any_more() {
        let mut limit = Limit::new(SETTINGS);
        limit.learn(&busy(&limit, 5.0));
        limit.learn(&Window::default());
        for _ in 0..REST {
            limit.learn(&Window { is_idle: true, ..Window::default() });
        }
        assert!(limit.recent_s() > 4.9, "somebody waits, or has just gone");
        for _ in 0..50 {
            limit.learn(&Window { is_idle: true, ..Window::default() });
        }
        assert!(limit.recent_s() < 0.001);
        assert_eq!(limit.unprobed(), SETTINGS.initial);
    }

    #[test]
    fn commits_without_an_outcome_shrink_it_however_few_there_are() {
        let mut limit = Limit::new(SETTINGS);
        limit.learn(&Window { lost: 1, ..Window::default() });
        assert_eq!(limit.get(), 90);
        for _ in 0..100 {
            limit.learn(&Window { lost: 3, ..Window::default() });
        }
        assert_eq!(limit.get(), SETTINGS.min);
    }

    proptest! {
        #[test]
        fn it_stays_within_its_bounds(windows in prop::collection::vec(
            (0_u32..100, prop::num::f64::ANY, 0_u32..3, 0_u32..5_000, 0_u32..2), 0..300)) {
            let mut limit = Limit::new(SETTINGS);
            for (commits, latency_s, lost, under_way_max, refused) in windows {
                let before = limit.limit;
                let now = limit.learn(&Window { commits, latency_s, lost, under_way_max, refused, is_idle: commits % 2 == 0 });
                prop_assert!((SETTINGS.min..=SETTINGS.max).contains(&now));
                prop_assert!(limit.recent_s().is_finite() && limit.recent_s() >= 0.0);
                prop_assert!(limit.limit >= before * 0.89, "no window takes more than a ninth");
            }
        }
    }
}
