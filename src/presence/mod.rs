//! Heartbeats in: acknowledged from memory, coalesced for each device, flushed in batches. Beliefs out: the rule is
//! [`detector`]'s, applied by the sweep (a leader's duty, `store::sweep`).
//!
//! Invariants:
//! * **A promise is committed before it is given when it gets longer** ([`promises`]); every one travels with the
//!   flush, and loses to any contact that the database has already seen and that is younger than it.
//! * **Only a contact after `state_since` revives**, and a contact's time is never later than the contact
//!   (`store::presence`), so a late flush does not undo a goodbye.
//! * **A replica that cannot flush stops acknowledging** after min(`blind_max`, the fleet's interval), is not ready from
//!   two thirds of `blind_max` on, and recovers by itself. What it refused is recorded as an outage of its own.
//! * **Who cannot flush does not tick**: when no replica can, that is an outage of all, and the sweep stands still.
//! * A crash loses at most the contacts of one flush interval and of the flush under way.
//!
//! Deliberately absent: probes, mass-outage holds, load steering, flap damping; closing connections while blind is
//! for whoever owns them, by [`Presence::blindness`].

pub mod coalescer;
pub mod detector;
mod flusher;
mod health;
mod promises;
mod pulse;

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::coalescer::Coalescer;
use self::health::Health;
use self::promises::Promises;
use crate::domain::database_clock::DatabaseClock;
use crate::domain::ids::{DeviceId, Fingerprint};
use crate::domain::presence::Said;
use crate::domain::random::Random;
use crate::lifecycle::readiness::Readiness;
use crate::lifecycle::tasks::Tasks;
use crate::observe::presence as observed;
use crate::store::presence::{Goodbye, Me, RestartCap};
use crate::store::{self, FleetStore, StoreError};

/// No device is asked to come more often.
const PROMISE_MIN_MS: i64 = 1_000;

/// No `Default`: `config` decides.
#[derive(Clone, Debug)]
pub struct PresenceSettings {
    /// This replica, as `replicas` names it.
    pub me: Me,
    /// Between two flushes; at most 1 s. Shorter: more commits; longer: a crash forgets more, presence lags more.
    pub flush_interval: Duration,
    /// Devices in one transaction (1,000 to 2,000). Fewer: more commits; more: longer locks, and beyond about 5,000
    /// the planner reads the whole table.
    pub flush_rows_max: usize,
    /// Devices whose contacts may wait in memory. Too few: heartbeats of the rest are refused with 503.
    pub devices_max: usize,
    /// Acknowledge heartbeats this long without a successful flush, or for the fleet's interval if that is shorter.
    /// Longer: devices of a cut-off replica look silent elsewhere; shorter: every hiccup of the database is a 503.
    pub blind_max: Duration,
    /// A stored promise that this replica remembers is read again after this time: another replica may have made it
    /// shorter. Shorter: more reads.
    pub promise_trust: Duration,
    /// Between two ticks of this replica: 1 s.
    pub tick_interval: Duration,
    /// A longer time between two ticks, of whatever replica, is an outage: 3 s. Shorter: slow commits are outages;
    /// longer: short outages count as silence.
    pub tick_gap_max: Duration,
    /// The same as the sweep's.
    pub cap: RestartCap,
}

/// A device was here, authenticated.
#[derive(Clone, Copy, Debug)]
pub struct Contact {
    pub device: DeviceId,
    pub fingerprint: Fingerprint,
    /// The fleet's policy, in milliseconds.
    pub interval_ms: i64,
    /// The longest interval the fleet allows a device to ask for.
    pub interval_max_ms: i64,
    /// What the device asked for.
    pub requested_ms: Option<i64>,
    /// It was a heartbeat. Says nothing to this module, which is told by the function that is called.
    pub heartbeat: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeartbeatReply {
    /// The promised interval × U(0.9, 1.1).
    pub next_in: Duration,
    /// The database's time, by which readings are judged.
    pub at: OffsetDateTime,
}

#[derive(Debug, thiserror::Error)]
pub enum PresenceError {
    /// Too long without a successful flush, or shutting down: 503. Never counts against the device.
    #[error("no successful flush for {blind_for:?}")]
    Blind { blind_for: Duration },
    /// Too many devices wait in memory: 503. Never counts against the device.
    #[error("too many devices wait to be flushed")]
    Full,
    /// The device is no longer active, or its credential no longer live (goodbye only).
    #[error("the device is no longer active, or its credential no longer live")]
    Gone,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Clones share everything.
#[derive(Clone)]
pub struct Presence(Arc<Inner>);

struct Inner {
    settings: PresenceSettings,
    store: FleetStore,
    coalescer: Coalescer,
    promises: Promises,
    health: Health,
    clock: DatabaseClock,
    /// What the watch has seen last.
    blind: watch::Sender<bool>,
    random: Random,
    heartbeats: observed::Heartbeats,
}

impl Presence {
    /// Starts the flusher, the tick, and the reader of promises. Blind until the first flush has succeeded. Each flush
    /// reads the database's clock, and keeps `clock` true by it.
    pub fn start(
        settings: PresenceSettings,
        store: FleetStore,
        readiness: Readiness,
        clock: DatabaseClock,
        random: Random,
        tasks: &Tasks,
    ) -> Self {
        let own = clock.own().clone();
        let closed = CancellationToken::new();
        let inner = Arc::new(Inner {
            coalescer: Coalescer::new(settings.devices_max, own.clone()),
            promises: Promises::start(&settings, store.clone(), own.clone(), tasks, closed.clone()),
            health: Health::new(own.clone(), settings.blind_max),
            settings,
            store,
            clock,
            blind: watch::Sender::new(true),
            random,
            heartbeats: observed::Heartbeats::look_up(),
        });
        pulse::start(&inner, readiness, &own, tasks);
        flusher::start(inner.clone(), tasks, closed);
        Self(inner)
    }

    /// Takes a heartbeat with what the device said of itself, and promises when the next is due.
    ///
    /// # Errors
    /// All of them mean 503 to the device.
    pub async fn heartbeat(&self, contact: Contact, said: Said) -> Result<HeartbeatReply, PresenceError> {
        let outcome = self.0.heartbeat(&contact, said).await;
        self.0.heartbeats.count(match &outcome {
            Ok(_) => observed::Heartbeat::Accepted,
            Err(PresenceError::Blind { .. }) => observed::Heartbeat::Blind,
            Err(PresenceError::Full) => observed::Heartbeat::Full,
            Err(PresenceError::Store(_) | PresenceError::Gone) => observed::Heartbeat::Promise,
        });
        // Where only its promise could not be had, it was heard.
        if matches!(outcome, Err(PresenceError::Blind { .. } | PresenceError::Full)) {
            self.0.health.refused();
        }
        outcome
    }

    /// Any other authenticated request of a device is a sign of life as well. Never waits, never fails: without room
    /// it is forgotten, and counts as refused by us.
    pub fn touch(&self, contact: Contact) {
        if self.0.coalescer.note(contact.device, contact.fingerprint, Said::default()).is_err() {
            self.0.health.refused();
        }
    }

    /// Some other part of this replica refused a device's request because we are overloaded. Never counts against
    /// the devices of this replica.
    pub fn shed(&self) {
        self.0.health.refused();
    }

    /// The device leaves on purpose: offline once this returns.
    pub async fn goodbye(
        &self,
        contact: Contact,
        reason: Option<String>,
        back_at: Option<OffsetDateTime>,
    ) -> Result<(), PresenceError> {
        let Contact { device, fingerprint, .. } = contact;
        let goodbye = Goodbye { device, fingerprint, reason, back_at };
        if store::presence::goodbye(&self.0.store, self.0.settings.me.id, goodbye).await? {
            observed::transitions(observed::To::Offline, 1);
            return Ok(());
        }
        Err(PresenceError::Gone)
    }

    /// Heartbeats have been refused for want of a successful flush, for all fleets, since longer than `blind_max`.
    pub fn is_blind(&self) -> bool {
        self.0.health.is_blind()
    }

    /// [`Presence::is_blind`] as it changes, until the drain.
    pub fn blindness(&self) -> watch::Receiver<bool> {
        self.0.blind.subscribe()
    }
}

impl Inner {
    async fn heartbeat(&self, contact: &Contact, said: Said) -> Result<HeartbeatReply, PresenceError> {
        let limit = self.settings.blind_max.min(millis(contact.interval_ms));
        self.health.check(limit).map_err(|blind_for| PresenceError::Blind { blind_for })?;
        let Contact { device, fingerprint, .. } = *contact;
        let wanted = promise_ms(contact);
        let granted_ms = if self.promises.stands(device, wanted).await {
            self.coalescer.note_promised(device, fingerprint, said, wanted).map_err(|_| PresenceError::Full)?;
            wanted
        } else {
            let heard = self.clock.own().boottime();
            // The sign of life counts, also when the promise below fails.
            self.coalescer.note(device, fingerprint, said).map_err(|_| PresenceError::Full)?;
            let granted_ms = self.promises.grant(device, wanted).await?;
            // Always, not only when it is shorter than what is stored: the newest promise has to win in the flush.
            self.coalescer.promise(device, fingerprint, granted_ms, heard);
            granted_ms
        };
        Ok(HeartbeatReply { next_in: self.random.scale(millis(granted_ms), 0.9, 1.1), at: self.clock.now() })
    }
}

/// What the device asked for, or else its fleet's policy; within the fleet's limits.
fn promise_ms(contact: &Contact) -> i64 {
    let max = contact.interval_max_ms.max(PROMISE_MIN_MS);
    contact.requested_ms.unwrap_or(contact.interval_ms).clamp(PROMISE_MIN_MS, max)
}

fn millis(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promises_stay_within_the_fleets_limits() {
        let contact = |requested_ms| Contact {
            device: DeviceId(uuid::Uuid::nil()),
            fingerprint: Fingerprint([0; 32]),
            interval_ms: 30_000,
            interval_max_ms: 60_000,
            requested_ms,
            heartbeat: true,
        };
        for (requested, promised) in [
            (None, 30_000),
            (Some(5_000), 5_000),
            (Some(1), 1_000),
            (Some(-7), 1_000),
            (Some(60_000), 60_000),
            (Some(i64::MAX), 60_000),
        ] {
            assert_eq!(promise_ms(&contact(requested)), promised, "{requested:?}");
        }
    }
}
