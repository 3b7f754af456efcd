//! What a client may spend: time, bytes, and retries.

use std::time::Duration;

use crate::domain::random::Random;
use crate::domain::time::Clock;

/// The limits of one client.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// TCP and TLS together. Too short: a busy replica counts as dead; too long: failover from a dead one takes it.
    pub connect_timeout: Duration,
    /// From the first byte of a request to the last of its answer. Longer than the server's own deadlines, or the
    /// client gives up on requests that are still being committed, and sends them again.
    pub request_timeout: Duration,
    /// An idle connection is closed after it. Longer than the heartbeat interval, or each heartbeat pays a handshake.
    pub idle_timeout: Duration,
    pub answer_bytes_max: usize,
    pub retry: RetrySettings,
}

/// How often, and how fast, a call is tried again.
#[derive(Clone, Debug)]
pub struct RetrySettings {
    /// Attempts of one call, the first included.
    pub attempts_max: u32,
    pub backoff_base: Duration,
    pub backoff_max: Duration,
    /// A call gives up rather than begin an attempt later than this after its first.
    pub patience: Duration,
    /// A longer `Retry-After` is cut to this.
    pub retry_after_max: Duration,
    /// Retries earned by each call: 0.1 lets retries add a tenth to the load.
    pub budget_per_call: f64,
    /// Retries earned by each second, so that a client with few calls may retry at all.
    pub budget_per_second: f64,
    /// The most that can be saved up. Too large, and a long quiet spell ends in a storm.
    pub budget_max: f64,
}

impl ClientSettings {
    /// For a device: patient enough to ride out a failover within a call or two.
    pub const fn device() -> Self {
        Self {
            connect_timeout: Duration::from_secs(3),
            request_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_mins(5),
            answer_bytes_max: 1 << 20,
            retry: RetrySettings {
                attempts_max: 6,
                backoff_base: Duration::from_millis(200),
                backoff_max: Duration::from_secs(10),
                patience: Duration::from_secs(30),
                retry_after_max: Duration::from_secs(30),
                budget_per_call: 0.1,
                budget_per_second: 0.5,
                budget_max: 10.0,
            },
        }
    }

    /// For a person who waits: larger answers, less patience.
    pub const fn operator() -> Self {
        let mut settings = Self::device();
        settings.answer_bytes_max = 32 << 20;
        settings.retry.attempts_max = 4;
        settings.retry.patience = Duration::from_secs(10);
        settings.retry.retry_after_max = Duration::from_secs(10);
        settings
    }
}

/// What every client is given: its limits, a clock and a source of jitter.
#[derive(Clone)]
pub struct Context {
    pub settings: ClientSettings,
    pub clock: Clock,
    pub random: Random,
}
