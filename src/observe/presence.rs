//! Heartbeats in, beliefs out.

use std::time::Duration;

use super::{Metric, counter, gauge, seconds, sizes};

const HEARTBEATS: &str = "everbeat_presence_heartbeats_total";
const FLUSH: &str = "everbeat_presence_flush_seconds";
const FLUSHED: &str = "everbeat_presence_flush_rows";
const UNAPPLIED: &str = "everbeat_presence_contacts_unapplied_total";
const PENDING: &str = "everbeat_presence_pending_devices";
const FLUSH_AGE: &str = "everbeat_presence_flush_age_seconds";
const TRANSITIONS: &str = "everbeat_presence_transitions_total";
const OUTAGES: &str = "everbeat_presence_outages_total";
const UNCOUNTED: &str = "everbeat_presence_outages_uncounted_total";
const SHED_BEYOND_CAP: &str = "everbeat_presence_shed_beyond_cap_total";
const TICK_AGE: &str = "everbeat_presence_tick_age_seconds";
const CLOCK_BACK: &str = "everbeat_presence_clock_back_total";
const CLOCK_OFFSET: &str = "everbeat_clock_offset_seconds";

pub(super) const METRICS: &[Metric] = &[
    counter(HEARTBEATS, "Heartbeats by outcome: accepted, or why not."),
    seconds(FLUSH, "Time of one flush of contacts, by outcome."),
    sizes(FLUSHED, "Devices in one flush."),
    counter(
        UNAPPLIED,
        "Contacts of devices that were no longer active, or whose credential was no longer live, at the flush.",
    ),
    gauge(PENDING, "Devices whose contacts wait in memory for the next flush."),
    gauge(FLUSH_AGE, "Time since everything acknowledged was last known to be in the database."),
    counter(TRANSITIONS, "Changes of what we believe of devices, made by this replica, by new state."),
    counter(OUTAGES, "Intervals in which silence proves nothing, recorded by this replica, by cause."),
    counter(UNCOUNTED, "Outages beyond the cap, which restart no deadlines: alert on any."),
    counter(
        SHED_BEYOND_CAP,
        "Flushes after refused heartbeats that excuse no silence any more, after 15 minutes in an hour: alert on any.",
    ),
    gauge(TICK_AGE, "Time since this replica's last successful tick."),
    counter(
        CLOCK_BACK,
        "Ticks that found the database's clock set back; the sweep stands still meanwhile: alert on any.",
    ),
    gauge(CLOCK_OFFSET, "The database's clock less this host's. Readings are judged by the database's: alert above 1."),
];

/// What became of a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heartbeat {
    Accepted,
    /// Too long without a successful flush.
    Blind,
    /// Too many devices wait in memory.
    Full,
    /// The promise could not be read or made longer.
    Promise,
}

impl Heartbeat {
    pub const ALL: [Self; 4] = [Self::Accepted, Self::Blind, Self::Full, Self::Promise];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Blind => "blind",
            Self::Full => "full",
            Self::Promise => "promise",
        }
    }
}

/// What a device became, as far as it can become it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    Online,
    Suspect,
    Offline,
}

impl To {
    pub const ALL: [Self; 3] = [Self::Online, Self::Suspect, Self::Offline];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Suspect => "suspect",
            Self::Offline => "offline",
        }
    }
}

/// Why silence proved nothing for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutageCause {
    Gap,
    Timeline,
    Restart,
    Start,
    Replica,
}

impl OutageCause {
    pub const ALL: [Self; 5] = [Self::Gap, Self::Timeline, Self::Restart, Self::Start, Self::Replica];

    /// As `outages.cause` spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gap => "gap",
            Self::Timeline => "timeline",
            Self::Restart => "restart",
            Self::Start => "start",
            Self::Replica => "replica",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| cause.as_str() == text)
    }
}

pub(super) fn zero() {
    for outcome in Heartbeat::ALL {
        metrics::counter!(HEARTBEATS, "outcome" => outcome.as_str()).absolute(0);
    }
    for to in To::ALL {
        metrics::counter!(TRANSITIONS, "to" => to.as_str()).absolute(0);
    }
    for cause in OutageCause::ALL {
        metrics::counter!(OUTAGES, "cause" => cause.as_str()).absolute(0);
    }
    metrics::counter!(UNAPPLIED).absolute(0);
    metrics::counter!(UNCOUNTED).absolute(0);
    metrics::counter!(CLOCK_BACK).absolute(0);
    metrics::counter!(SHED_BEYOND_CAP).absolute(0);
    metrics::gauge!(PENDING).set(0.0);
}

/// Heartbeats by outcome.
pub struct Heartbeats([metrics::Counter; Heartbeat::ALL.len()]);

impl Heartbeats {
    /// Counts with the recorder that is installed now.
    pub fn look_up() -> Self {
        Self(Heartbeat::ALL.map(|outcome| metrics::counter!(HEARTBEATS, "outcome" => outcome.as_str())))
    }

    pub fn count(&self, outcome: Heartbeat) {
        self.0[outcome as usize].increment(1);
    }
}

pub fn flush(outcome: &'static str, took: Duration, rows: usize) {
    metrics::histogram!(FLUSH, "outcome" => outcome).record(took.as_secs_f64());
    #[expect(clippy::cast_precision_loss, reason = "a count of devices is far below 2^52")]
    metrics::histogram!(FLUSHED).record(rows as f64);
}

pub fn unapplied(contacts: u64) {
    metrics::counter!(UNAPPLIED).increment(contacts);
}

pub fn pending(devices: usize) {
    #[expect(clippy::cast_precision_loss, reason = "a count of devices is far below 2^52")]
    metrics::gauge!(PENDING).set(devices as f64);
}

pub fn flush_age(age: Duration) {
    metrics::gauge!(FLUSH_AGE).set(age.as_secs_f64());
}

pub fn tick_age(age: Duration) {
    metrics::gauge!(TICK_AGE).set(age.as_secs_f64());
}

/// For the flush (online), a goodbye (offline), and the sweep's duty.
pub fn transitions(to: To, devices: i64) {
    metrics::counter!(TRANSITIONS, "to" => to.as_str()).increment(u64::try_from(devices).unwrap_or(0));
}

pub fn outage(cause: OutageCause, restarts: bool) {
    metrics::counter!(OUTAGES, "cause" => cause.as_str()).increment(1);
    if !restarts {
        metrics::counter!(UNCOUNTED).increment(1);
    }
}

pub fn shed_beyond_cap() {
    metrics::counter!(SHED_BEYOND_CAP).increment(1);
}

pub fn clock_offset(offset: time::Duration) {
    metrics::gauge!(CLOCK_OFFSET).set(offset.as_seconds_f64());
}

pub fn clock_back() {
    metrics::counter!(CLOCK_BACK).increment(1);
}
