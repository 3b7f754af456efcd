//! What can be set about leases and duties.

use std::time::Duration;

use crate::domain::lease::Terms;
use crate::store::sweep::SweepSettings;

/// All replicas of one deployment must agree on `ttl_ms`: each judges by its own when a lease is stale.
#[derive(Clone, Debug)]
pub struct JobsSettings {
    /// How long a lease lasts. Shorter: a slow database deposes healthy holders. Longer: a holder that hangs without
    /// losing its session keeps a duty undone for so long.
    pub ttl_ms: u64,
    /// Between two renewals. A holder trusts itself for ⅔ of the TTL, so that several must fit into it.
    pub renew_ms: u64,
    /// Between two looks of a follower, times U(1, 1.2). Take-over after a crash takes this long at most.
    pub poll_ms: u64,
    /// Longest wait after the doorbell rang, so that not all followers campaign in the same instant.
    pub doorbell_jitter_ms: u64,
    /// First and last ceiling of the back-off after errors (full jitter).
    pub backoff_base_ms: u64,
    pub backoff_cap_ms: u64,
    /// On the lease session. A campaign that waits longer for a lock fails, and then ends the effect that is in its way.
    pub lock_timeout_ms: u64,
    /// On the lease session: over all of a statement's waits. `lock_timeout` alone never fires where many short
    /// effects follow each other.
    pub statement_timeout_ms: u64,
    /// On the effect session: the longest time that one effect may hold the fence, and of any other statement. At most
    /// 2000.
    pub effect_timeout_ms: u64,
    /// Between two sweeps. Large tables are looked through less often (`outlook`).
    pub sweep_interval_ms: u64,
    /// Between two passes over partitions and retention.
    pub partitions_interval_ms: u64,
    /// Days made ahead of today. Fewer: an outage of this duty for so long makes ingest create them on demand.
    pub partitions_ahead_days: u32,
    /// Readings of a day are dropped so many days after its end. Accepted times must lie inside it.
    pub retention_days: u32,
    /// How long an entry of the change log is kept. A replica that is blind for longer must start anew.
    pub changes_retention_ms: u64,
    pub events_retention_ms: u64,
    pub effects_retention_ms: u64,
    pub idempotency_retention_ms: u64,
    /// A certificate of whose life less is left is near its end. More than a third: devices that renew in time, after
    /// two thirds, are announced too. Too little: people hear of it when it is too late to do anything.
    pub expiring_percent: u32,
    /// What a sweep judges by.
    pub sweep: SweepSettings,
}

const DAY_MS: u64 = 86_400_000;

impl JobsSettings {
    /// The values of the design. Those of the sweep come from presence, whose ticks must go by the same.
    pub const fn standard(sweep: SweepSettings) -> Self {
        Self {
            ttl_ms: 10_000,
            renew_ms: 2_000,
            poll_ms: 1_000,
            doorbell_jitter_ms: 50,
            backoff_base_ms: 100,
            backoff_cap_ms: 5_000,
            lock_timeout_ms: 500,
            statement_timeout_ms: 1_000,
            effect_timeout_ms: 2_000,
            sweep_interval_ms: 1_000,
            partitions_interval_ms: 60_000,
            partitions_ahead_days: 3,
            retention_days: 30,
            changes_retention_ms: DAY_MS,
            events_retention_ms: 30 * DAY_MS,
            effects_retention_ms: 7 * DAY_MS,
            idempotency_retention_ms: DAY_MS,
            expiring_percent: 20,
            sweep,
        }
    }

    /// What is wrong with the values, one sentence for each; the names are those of the fields.
    pub fn problems(&self) -> Vec<&'static str> {
        let rules = [
            (self.renew_ms > 0 && self.renew_ms * 2 <= self.terms().trust_ms(), "renew_ms: at most ⅓ of ttl_ms"),
            (self.poll_ms > 0 && self.poll_ms <= self.ttl_ms, "poll_ms: between 1 and ttl_ms"),
            (
                self.lock_timeout_ms > 0 && self.lock_timeout_ms <= self.statement_timeout_ms,
                "lock_timeout_ms: between 1 and statement_timeout_ms",
            ),
            (
                self.statement_timeout_ms < self.terms().trust_ms(),
                "statement_timeout_ms: less than ⅔ of ttl_ms, or a slow renewal costs the lease",
            ),
            ((1..=2_000).contains(&self.effect_timeout_ms), "effect_timeout_ms: between 1 and 2000"),
            (
                self.backoff_base_ms > 0 && self.backoff_base_ms <= self.backoff_cap_ms,
                "backoff_base_ms: at most the cap",
            ),
            (self.sweep_interval_ms > 0, "sweep_interval_ms: at least 1"),
            (self.partitions_interval_ms > 0, "partitions_interval_ms: at least 1"),
            ((1..=60).contains(&self.partitions_ahead_days), "partitions_ahead_days: between 1 and 60"),
            ((1..=500).contains(&self.sweep.rows_max), "sweep.rows_max: between 1 and 500"),
            ((1..=33).contains(&self.expiring_percent), "expiring_percent: between 1 and 33"),
            ((2..=36_500).contains(&self.retention_days), "retention_days: between 2 and 36500"),
        ];
        rules.into_iter().filter_map(|(kept, sentence)| (!kept).then_some(sentence)).collect()
    }

    pub fn terms(&self) -> Terms {
        Terms { ttl: Duration::from_millis(self.ttl_ms), renew: Duration::from_millis(self.renew_ms) }
    }

    /// Settings of the lease session. Idle sessions end only after trust has: their end frees the lock.
    pub(super) fn lease_options(&self) -> String {
        let idle_ms = self.ttl_ms + 4 * self.poll_ms;
        format!(
            "-c lock_timeout={} -c statement_timeout={} -c idle_session_timeout={idle_ms} {}",
            self.lock_timeout_ms,
            self.statement_timeout_ms,
            tcp_options(self.ttl_ms)
        )
    }

    /// Settings of the effect session. A client that hangs must not keep the fence, so the server gives up early.
    pub(super) fn effect_options(&self) -> String {
        let lock_ms = (self.effect_timeout_ms / 2).max(1);
        format!(
            "-c lock_timeout={lock_ms} -c statement_timeout={} -c idle_in_transaction_session_timeout={} {}",
            self.effect_timeout_ms,
            self.effect_timeout_ms,
            tcp_options(self.effect_timeout_ms)
        )
    }
}

/// The server's side of noticing a dead client.
fn tcp_options(limit_ms: u64) -> String {
    format!(
        "-c tcp_keepalives_idle={} -c tcp_keepalives_interval=2 -c tcp_keepalives_count=3 -c tcp_user_timeout={limit_ms}",
        limit_ms.div_ceil(1_000)
    )
}

impl Terms {
    fn trust_ms(&self) -> u64 {
        u64::try_from(self.trust().as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::presence::RestartCap;

    #[test]
    fn the_standard_is_sound_and_each_rule_bites() {
        let sweep = SweepSettings {
            rows_max: 500,
            tick_fresh: Duration::from_secs(3),
            blind_max: Duration::from_secs(10),
            cap: RestartCap { restarts_max: 3, window: Duration::from_mins(10) },
        };
        let s = || JobsSettings::standard(sweep);
        assert_eq!(s().problems(), Vec::<&str>::new());
        let wrong = [
            JobsSettings { renew_ms: 5_000, ..s() },
            JobsSettings { poll_ms: 0, ..s() },
            JobsSettings { lock_timeout_ms: 1_001, ..s() },
            JobsSettings { statement_timeout_ms: 7_000, ..s() },
            JobsSettings { effect_timeout_ms: 2_001, ..s() },
            JobsSettings { backoff_base_ms: 0, ..s() },
            JobsSettings { sweep_interval_ms: 0, ..s() },
            JobsSettings { partitions_interval_ms: 0, ..s() },
            JobsSettings { partitions_ahead_days: 0, ..s() },
            JobsSettings { retention_days: 1, ..s() },
            JobsSettings { expiring_percent: 34, ..s() },
            JobsSettings { sweep: SweepSettings { rows_max: 501, ..sweep }, ..s() },
        ];
        for settings in wrong {
            assert_eq!(settings.problems().len(), 1, "{:?}", settings.problems());
        }
    }
}
