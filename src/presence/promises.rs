//! Promises: a longer one is committed before it is given.
//!
//! This replica remembers the stored promise of each device that it heard lately, so that a steady device costs
//! nothing. Whoever is not remembered, or not surely, or asks for more, goes through one task that takes all who wait
//! at once: it reads their promises in one statement (no WAL), and writes only those that get longer in another. So
//! after a restart a whole fleet costs a read and an empty commit for a thousand devices, and a new policy for a fleet
//! one commit for a thousand devices.
//!
//! What can be read may be on the primary alone: a restart after a crash makes commits visible that no standby has, and
//! so does a wait that somebody cut short. So a stored promise that this replica has not given before is given behind
//! a commit of something, made after the reading: where that is, the promise is.
//!
//! What is stored alone does not say whether a promise gets longer: a shorter one, given since, may still wait for its
//! flush. So a wish is longer when it exceeds what is stored *or* what this replica gave last; writing it makes
//! the shorter one void.
//!
//! What is remembered may be too long for `promise_trust` at most, when another replica stored a shorter promise
//! meanwhile: then the longer one travels with the flush, and a crash before that flush may cost one false silence.
//! While the database does not answer, a remembered promise is given again, and never a longer one.

use std::collections::HashMap;
use std::time::Duration;

use moka::future::Cache;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::PresenceSettings;
use crate::domain::ids::{DeviceId, ReplicaId};
use crate::domain::time::{Boottime, Clock};
use crate::lifecycle::tasks::Tasks;
use crate::store::durability::tell;
use crate::store::presence::{extend, promises, settle};
use crate::store::{Durability, Fault, FleetStore, StoreError};

/// Devices in one statement.
const BATCH_MAX: usize = 1_000;
/// Heartbeats that may wait for their promise.
const QUEUE_MAX: usize = 16_384;
const NAME: &str = "presence_promises";

/// The promise given last, and when it was last compared with what is stored.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Known {
    promise_ms: i64,
    verified: Boottime,
}

/// What came of asking.
struct Told {
    /// The stored promise, at least what was wanted; `None` when the device has no row, or is not active.
    stored_ms: Option<i64>,
    /// Where everything is that was committed for it.
    durability: Durability,
}

struct Ask {
    device: DeviceId,
    wanted_ms: i64,
    /// What this replica gave last, if it remembers: perhaps not flushed yet.
    given_ms: Option<i64>,
    answer: oneshot::Sender<Result<Told, Fault>>,
}

pub(super) struct Promises {
    known: Cache<DeviceId, Known>,
    asks: mpsc::Sender<Ask>,
    clock: Clock,
    trust: Duration,
    deadline: Duration,
}

impl Promises {
    /// Answers until `closed`: a draining replica goes on promising until its last flush.
    pub(super) fn start(
        settings: &PresenceSettings,
        store: FleetStore,
        clock: Clock,
        tasks: &Tasks,
        closed: CancellationToken,
    ) -> Self {
        let (asks, mut inbox) = mpsc::channel(QUEUE_MAX);
        let deadline = store.deadline();
        let shutdown = tasks.shutdown().clone();
        let me = settings.me.id;
        tasks.essential("presence-promises", async move {
            let mut batch = Vec::new();
            loop {
                tokio::select! {
                    () = closed.cancelled() => return,
                    () = shutdown.aborting() => return,
                    taken = inbox.recv_many(&mut batch, BATCH_MAX) => if taken == 0 { return },
                }
                answer(&store, me, std::mem::take(&mut batch)).await;
            }
        });
        let known = Cache::new(u64::try_from(settings.devices_max).unwrap_or(u64::MAX));
        Self { known, asks, clock, trust: settings.promise_trust, deadline }
    }

    /// Is this what was given to the device last, and what is stored surely no shorter? Then there is nothing to ask for and
    /// nothing to remember. The flush has to say it all the same.
    pub(super) async fn stands(&self, device: DeviceId, wanted_ms: i64) -> bool {
        let known = self.known.get(&device).await;
        known.is_some_and(|known| {
            known.promise_ms == wanted_ms && self.clock.boottime().since(known.verified) <= self.trust
        })
    }

    /// The promise, in milliseconds, that may be given to a device that asks for `wanted_ms`. The flush has to say it.
    pub(super) async fn grant(&self, device: DeviceId, wanted_ms: i64) -> Result<i64, StoreError> {
        let known = self.known.get(&device).await;
        let sure = known.filter(|known| self.clock.boottime().since(known.verified) <= self.trust);
        let (bound, verified) = match sure {
            Some(known) if wanted_ms <= known.promise_ms => (Some(known.promise_ms), known.verified),
            _ => {
                let asked = self.clock.boottime();
                match (self.ask(device, wanted_ms, known.map(|known| known.promise_ms)).await, known) {
                    (Ok(stored), _) => (stored, asked),
                    (Err(_), Some(known)) => (Some(known.promise_ms), known.verified),
                    (Err(error), None) => return Err(error),
                }
            }
        };
        // A device that nothing is stored of cannot be called silent, so any promise is safe.
        let Some(bound) = bound else { return Ok(wanted_ms) };
        let now = Known { promise_ms: wanted_ms.min(bound), verified };
        if known != Some(now) {
            self.known.insert(device, now).await;
        }
        Ok(now.promise_ms)
    }

    async fn ask(&self, device: DeviceId, wanted_ms: i64, given_ms: Option<i64>) -> Result<Option<i64>, StoreError> {
        let unavailable = |detail: &str| StoreError::new(NAME, Fault::Unavailable, detail);
        let (answer, answered) = oneshot::channel();
        self.asks.try_send(Ask { device, wanted_ms, given_ms, answer }).map_err(|_| unavailable("too many wait"))?;
        match tokio::time::timeout(self.deadline, answered).await {
            Ok(Ok(Ok(told))) => {
                // It was committed in another task than that of the request.
                tell(told.durability);
                Ok(told.stored_ms)
            }
            Ok(Ok(Err(fault))) => Err(StoreError::new(NAME, fault, "the promise could not be read or committed")),
            Ok(Err(_)) => Err(unavailable("shutting down")),
            // A longer promise may be on its way to a commit.
            Err(_) => Err(StoreError::new(NAME, Fault::Unknown, "no answer in time")),
        }
    }
}

async fn answer(store: &FleetStore, me: ReplicaId, batch: Vec<Ask>) {
    let devices: Vec<DeviceId> = batch.iter().map(|ask| ask.device).collect();
    let mut stored: HashMap<DeviceId, i64> = match promises(store, &devices).await {
        Ok(rows) => rows.into_iter().collect(),
        Err(error) => return fail(batch, &error),
    };
    let longer = longer(&batch, &stored);
    let (mut batch, mut written) = (batch, None);
    if !longer.is_empty() {
        match extend(store, me, &longer).await {
            // A device that is no longer active gets no answer about what is stored: nothing will be believed of it.
            Ok((rows, durability)) => {
                written = Some(durability).filter(|_| !rows.is_empty());
                for (device, _) in &longer {
                    stored.remove(device);
                }
                stored.extend(rows);
            }
            Err(error) => batch = fail_those(batch, &error, |ask| longer.iter().any(|(d, _)| *d == ask.device)),
        }
    }
    let is_unproved = |ask: &Ask| ask.given_ms.is_none() && stored.contains_key(&ask.device);
    if written.is_none() && batch.iter().any(is_unproved) {
        match settle(store).await {
            Ok(durability) => written = Some(durability),
            Err(error) => batch = fail_those(batch, &error, is_unproved),
        }
    }
    let has_longer = |ask: &Ask| longer.iter().any(|(device, _)| *device == ask.device);
    let durability = |ask: &Ask| match written {
        Some(durability) if has_longer(ask) || is_unproved(ask) => durability,
        // Nothing was committed for it.
        _ => Durability::Full,
    };
    reply(batch, &stored, durability);
}

/// The others are left.
fn fail_those(batch: Vec<Ask>, error: &StoreError, whom: impl Fn(&Ask) -> bool) -> Vec<Ask> {
    let (failed, others) = batch.into_iter().partition(whom);
    fail(failed, error);
    others
}

/// The longest wish of each device that wishes for more than is stored, or than it was given last.
fn longer(batch: &[Ask], stored: &HashMap<DeviceId, i64>) -> Vec<(DeviceId, i64)> {
    let mut wishes: HashMap<DeviceId, i64> = HashMap::new();
    for ask in batch {
        let proved = |stored: &i64| ask.given_ms.map_or(*stored, |given_ms| given_ms.min(*stored));
        if stored.get(&ask.device).is_some_and(|stored| ask.wanted_ms > proved(stored)) {
            let wish = wishes.entry(ask.device).or_insert(ask.wanted_ms);
            *wish = ask.wanted_ms.max(*wish);
        }
    }
    wishes.into_iter().collect()
}

fn reply(batch: Vec<Ask>, stored: &HashMap<DeviceId, i64>, durability: impl Fn(&Ask) -> Durability) {
    for ask in batch {
        let durability = durability(&ask);
        // Whoever asked may have left.
        let _ = ask.answer.send(Ok(Told { stored_ms: stored.get(&ask.device).copied(), durability }));
    }
}

fn fail(batch: Vec<Ask>, error: &StoreError) {
    tracing::warn!(%error, waiting = batch.len(), "promises could not be read or committed");
    for ask in batch {
        let _ = ask.answer.send(Err(error.fault));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wish_for_each_device_that_wants_more() {
        let device = |n| DeviceId(uuid::Uuid::from_u128(n));
        let given = |n, wanted_ms, given_ms| {
            let answer = oneshot::channel().0;
            Ask { device: device(n), wanted_ms, given_ms, answer }
        };
        let ask = |n, wanted_ms| given(n, wanted_ms, None);
        let stored = HashMap::from([(device(1), 10), (device(2), 10)]);
        let batch = [ask(1, 20), ask(1, 40), ask(1, 30), ask(2, 10), given(2, 10, Some(20)), ask(3, 99)];
        assert_eq!(longer(&batch, &stored), [(device(1), 40)], "3 has no row");
        let batch = [given(2, 10, Some(5)), given(1, 5, Some(5))];
        assert_eq!(longer(&batch, &stored), [(device(2), 10)], "5 may still wait for its flush");
    }
}
