//! How much load, and of which kind.

use std::time::Duration;

use crate::client::ClientSettings;

/// The limits of the load of one run. [`LoadSettings::usual`] is the drill's.
#[derive(Clone, Debug)]
pub struct LoadSettings {
    /// Devices that send readings. Too many, and the host is measured.
    pub devices: usize,
    /// The fleet's heartbeat interval, in whole seconds (1 to 86,400): what silence is judged by.
    pub heartbeat_interval_s: u64,
    /// One device sends no more than this. A device has one request with readings under way at a time.
    pub requests_per_device_per_second: f64,
    /// All devices together send no more than this.
    pub requests_per_second_max: f64,
    /// Devices that only beat, and always later than they promised: they turn suspect and come back, over and over.
    /// Without them the sweeper has next to nothing to do, and one that acts out of turn does nothing that shows.
    pub late_devices: usize,
    /// Readings in one request: 1 to this.
    pub batch_max: usize,
    /// Of the batches that were acknowledged, this share is sent once more.
    pub repeated_share: f64,
    /// Before a request, with this chance: another connection, perhaps to another endpoint.
    pub reconnect_share: f64,
    /// Over one request. A frozen path ends as *unknown* after it.
    pub request_timeout: Duration,
    /// Back-off between attempts: full jitter from the base, so that a window of failure is measured finely.
    pub backoff_base: Duration,
    pub backoff_max: Duration,
    /// Devices that are suspended and resumed, over and over.
    pub suspended_devices: usize,
    /// Devices that are enrolled while the load runs, and whose certificate is revoked then; so many for each
    /// scenario, since they do not come back.
    pub revoked_devices_max: usize,
    /// How long a device works before its right to do so is taken, and how long it goes on trying after that.
    pub revoke_after: Duration,
    /// A revocation is seen by all replicas well within this, or they refuse everybody.
    pub try_for: Duration,
    /// Between two changes (and two reads) of the resource whose version is followed.
    pub change_every: Duration,
    pub read_every: Duration,
}

impl LoadSettings {
    pub const fn usual() -> Self {
        Self {
            devices: 24,
            heartbeat_interval_s: 2,
            requests_per_device_per_second: 10.0,
            requests_per_second_max: 120.0,
            late_devices: 8,
            batch_max: 20,
            repeated_share: 0.05,
            reconnect_share: 0.02,
            request_timeout: Duration::from_secs(6),
            backoff_base: Duration::from_millis(50),
            backoff_max: Duration::from_secs(1),
            suspended_devices: 2,
            revoked_devices_max: 8,
            revoke_after: Duration::from_secs(2),
            try_for: Duration::from_secs(6),
            change_every: Duration::from_millis(500),
            read_every: Duration::from_millis(100),
        }
    }

    pub fn heartbeat_interval_ms(&self) -> u64 {
        self.heartbeat_interval_s.saturating_mul(1_000)
    }

    /// The time between two requests of one device.
    pub(super) fn pace(&self) -> Duration {
        let share = self.requests_per_second_max / f64::from(u32::try_from(self.devices.max(1)).unwrap_or(u32::MAX));
        let rate = share.min(self.requests_per_device_per_second).max(f64::MIN_POSITIVE);
        Duration::try_from_secs_f64(rate.recip()).unwrap_or(Duration::MAX)
    }

    /// One request is one attempt: what is retried is retried here, where it is written down.
    pub(super) fn client(&self) -> ClientSettings {
        let mut settings = ClientSettings::device();
        settings.request_timeout = self.request_timeout;
        settings.connect_timeout = settings.connect_timeout.min(self.request_timeout);
        settings.retry.attempts_max = 1;
        settings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_keeps_both_limits() {
        let mut settings = LoadSettings { devices: 4, ..LoadSettings::usual() };
        assert_eq!(settings.pace(), Duration::from_millis(100), "a device's own limit");
        settings.devices = 240;
        assert_eq!(settings.pace(), Duration::from_secs(2), "the limit of all");
        settings.devices = 0;
        assert_eq!(settings.pace(), Duration::from_millis(100));
    }
}
