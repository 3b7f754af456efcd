//! From memory to the database: one task, one transaction at a time, in chunks in the order of the devices. Every
//! round writes, also when nothing waits: the replica's own row says how far it has flushed, and its commit proves
//! that the way is open. When much waits, a round takes a part of the devices and the next follows sooner, so that each
//! device is flushed as often as ever: thousands of rows at once would hold up the commits of requests.
//!
//! What fails is put back and grows older; an unknown outcome is sent again, which changes nothing but `hb_seq`
//! (evidence only). A chunk whose *data* the database refuses is halved until the one contact at fault stands alone:
//! that one is dropped, loudly, so that it does not keep the others from being heard. Any other refusal (a privilege,
//! a column that is missing) blames no contact: all are kept, and the replica goes blind until it is mended.
//!
//! The drain: rounds go on until two in a row find nothing, then nothing more is acknowledged, then a last round.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::coalescer::SLICES;
use super::{Inner, observed};
use crate::domain::time::Boottime;
use crate::lifecycle::shutdown::Shutdown;
use crate::lifecycle::tasks::Tasks;
use crate::observe::presence::OutageCause;
use crate::store::StoreError;
use crate::store::presence::{Contacts, Flush, Flushed, flush};

/// Ceilings of the back-off between two rounds that failed.
const RETRY_BASE: Duration = Duration::from_millis(100);
const RETRY_CAP: Duration = Duration::from_secs(2);
/// After the abort, `Tasks::finish` waits one second: the last round has to fit.
const ABORT_ROUND: Duration = Duration::from_millis(900);
/// Rounds in a row that find nothing, after which a draining replica is taken to be quiet.
const QUIET_ROUNDS: u32 = 2;
/// A round takes as many slices as have about so many devices. Fewer: more commits; more: a longer wait for others'.
const ROUND_ROWS: usize = 500;
/// A replica's wall clock and the database's further apart than this are warned of. Hosts with NTP are within
/// milliseconds.
const CLOCK_OFFSET_MAX: time::Duration = time::Duration::seconds(1);

pub(super) fn start(inner: Arc<Inner>, tasks: &Tasks, closed: CancellationToken) {
    let shutdown = tasks.shutdown().clone();
    tasks.essential("presence-flusher", async move {
        let mut flusher = Flusher {
            progress: Progress::new(inner.clock.own().boottime()),
            inner,
            clock_is_off: AtomicBool::new(false),
            sheds_beyond_cap: AtomicBool::new(false),
        };
        flusher.run(&shutdown).await;
        flusher.inner.health.close();
        closed.cancel();
        if tokio::time::timeout(ABORT_ROUND, flusher.round(SLICES)).await.is_err() {
            tracing::error!(
                devices = flusher.inner.coalescer.pending(),
                "contacts are lost: the last flush took too long"
            );
        }
    });
}

struct Flusher {
    inner: Arc<Inner>,
    progress: Progress,
    /// What was said last, so that it is said once.
    clock_is_off: AtomicBool,
    sheds_beyond_cap: AtomicBool,
}

impl Flusher {
    async fn run(&mut self, shutdown: &Shutdown) {
        let (mut failures, mut quiet) = (0, 0);
        while quiet < QUIET_ROUNDS {
            let (pending, draining) = (self.inner.coalescer.pending(), shutdown.is_draining());
            let slices = if draining { SLICES } else { slices_of_a_round(pending) };
            let round = tokio::select! {
                () = shutdown.aborting() => return,
                round = self.round(slices) => round,
            };
            failures = if round { 0 } else { failures + 1 };
            quiet = if draining && round && pending == 0 { quiet + 1 } else { 0 };
            let pause = match failures {
                0 => part_of(self.inner.settings.flush_interval, slices),
                n => self.inner.random.full_jitter(RETRY_BASE, RETRY_CAP, n),
            };
            tokio::select! {
                () = shutdown.aborting() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Flushes all that waits in the next slices. False: some of it was put back, and these slices are the next again.
    async fn round(&mut self, slices: usize) -> bool {
        let begun = tokio::time::Instant::now();
        let (moment, all) = self.inner.coalescer.take(self.progress.next(slices));
        let progress = self.progress.after(slices, moment);
        let through = progress.through();
        let rows = all.len();
        // A round that is dropped halfway (the abort) gives back what it holds.
        let mut left = Left { inner: &self.inner, chunks: chunks(all, self.inner.settings.flush_rows_max) };
        let done = self.chunks(&mut left, through).await;
        drop(left);
        if done {
            self.progress = progress;
            self.inner.health.flushed(through);
            self.judge_clock();
        }
        observed::flush(if done { "ok" } else { "failed" }, begun.elapsed(), rows);
        done
    }

    /// Refusals were recorded as an outage of this replica, or were too many for that.
    fn shed(&self, beyond_cap: bool) {
        if beyond_cap {
            observed::shed_beyond_cap();
        } else {
            observed::outage(OutageCause::Replica, true);
        }
        if self.sheds_beyond_cap.swap(beyond_cap, Ordering::Relaxed) != beyond_cap {
            if beyond_cap {
                tracing::error!(
                    "heartbeats are refused without end: the silence of this replica's devices counts again"
                );
            } else {
                tracing::warn!("refused heartbeats are taken out of silence again");
            }
        }
    }

    /// Readings are judged by the database's clock, so a wrong one here costs none; but logs and certificates go by it.
    fn judge_clock(&self) {
        let offset = self.inner.clock.offset();
        observed::clock_offset(offset);
        let is_off = offset.abs() > CLOCK_OFFSET_MAX;
        if self.clock_is_off.swap(is_off, Ordering::Relaxed) != is_off {
            let database_ahead_ms = i64::try_from(offset.whole_milliseconds()).unwrap_or(i64::MAX);
            if is_off {
                tracing::warn!(database_ahead_ms, "this host's clock and the database's are apart; is NTP running?");
            } else {
                tracing::info!(database_ahead_ms, "this host's clock and the database's agree again");
            }
        }
    }

    async fn chunks(&self, left: &mut Left<'_>, through: Boottime) -> bool {
        while let Some(chunk) = left.chunks.last().cloned() {
            let is_last = left.chunks.len() == 1;
            match self.chunk(chunk.clone(), is_last.then_some(through)).await {
                Ok(flushed) => {
                    report(chunk.len(), flushed);
                    left.chunks.pop();
                }
                Err(error) if !error.blames_data() => {
                    tracing::warn!(%error, devices = chunk.len(), "a flush failed; its contacts are kept");
                    return false;
                }
                Err(error) => {
                    left.chunks.pop();
                    match chunk.as_slice() {
                        [] => {
                            tracing::error!(%error, "the database refuses this replica's watermark");
                            return false;
                        }
                        [one] => {
                            tracing::error!(%error, device = %one.device, "the database refuses a contact; dropped");
                            // An empty chunk, so that the watermark is still written.
                            left.chunks.insert(0, Arc::new(Vec::new()));
                        }
                        many => {
                            let (a, b) = many.split_at(many.len() / 2);
                            left.chunks.extend([Arc::new(b.to_vec()), Arc::new(a.to_vec())]);
                        }
                    }
                }
            }
        }
        true
    }

    async fn chunk(&self, contacts: Arc<Vec<Contacts>>, through: Option<Boottime>) -> Result<Flushed, StoreError> {
        let refused_since = self.inner.health.take_refused();
        let me = self.inner.settings.me.clone();
        let work = Flush { me, contacts, through, refused_since };
        let outcome = flush(&self.inner.store, &self.inner.clock, work).await;
        match &outcome {
            Ok(flushed) if refused_since.is_some() => self.shed(flushed.shed_beyond_cap),
            Ok(_) => {}
            Err(_) => self.inner.health.still_refused(refused_since),
        }
        outcome
    }
}

/// How far each slice was flushed, and which is the next.
#[derive(Clone, Debug)]
struct Progress {
    flushed: [Boottime; SLICES],
    next: usize,
}

impl Progress {
    /// Nothing was acknowledged before this moment.
    fn new(moment: Boottime) -> Self {
        Self { flushed: [moment; SLICES], next: 0 }
    }

    /// The slices of a round.
    fn next(&self, slices: usize) -> impl Iterator<Item = usize> + use<> {
        (self.next..self.next + slices).map(|slice| slice % SLICES)
    }

    /// What holds once the next slices are flushed that were taken at this moment.
    fn after(&self, slices: usize, moment: Boottime) -> Self {
        let mut after = Self { flushed: self.flushed, next: (self.next + slices) % SLICES };
        for slice in self.next(slices) {
            after.flushed[slice] = moment;
        }
        after
    }

    /// Everything noted before this moment was flushed.
    fn through(&self) -> Boottime {
        self.flushed.into_iter().fold(self.flushed[0], Boottime::min)
    }
}

/// How many slices have about [`ROUND_ROWS`] devices, of so many that wait.
fn slices_of_a_round(pending: usize) -> usize {
    (SLICES * ROUND_ROWS / pending.max(1)).clamp(1, SLICES)
}

/// The part of an interval that these slices are of all.
fn part_of(interval: Duration, slices: usize) -> Duration {
    let [slices, all] = [slices, SLICES].map(|count| u32::try_from(count).unwrap_or(1));
    interval * slices / all
}

/// What a round has not flushed yet, the next chunk last. Goes back when the round ends, however it ends.
struct Left<'a> {
    inner: &'a Inner,
    chunks: Vec<Arc<Vec<Contacts>>>,
}

impl Drop for Left<'_> {
    fn drop(&mut self) {
        for chunk in self.chunks.drain(..) {
            self.inner.coalescer.put_back(chunk.iter().cloned());
        }
    }
}

/// Never none: an empty flush still moves the watermark. The last is flushed first.
fn chunks(all: Vec<Contacts>, rows_max: usize) -> Vec<Arc<Vec<Contacts>>> {
    if all.is_empty() {
        return vec![Arc::new(all)];
    }
    all.chunks(rows_max.max(1)).rev().map(|chunk| Arc::new(chunk.to_vec())).collect()
}

fn report(sent: usize, flushed: Flushed) {
    let sent = i64::try_from(sent).unwrap_or(i64::MAX);
    observed::unapplied(u64::try_from(sent - flushed.applied).unwrap_or(0));
    observed::transitions(observed::To::Online, flushed.revived);
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::super::coalescer::Coalescer;
    use super::*;
    use crate::domain::ids::{DeviceId, Fingerprint};
    use crate::domain::presence::Said;
    use crate::domain::time::Clock;

    #[test]
    fn chunks_go_in_order_and_are_never_none() {
        let now = crate::domain::time::Clock::manual(0).boottime();
        let contact = |n| Contacts {
            device: DeviceId(uuid::Uuid::from_u128(n)),
            fingerprint: Fingerprint([0; 32]),
            newest: now,
            count: 1,
            promise: None,
            said: crate::domain::presence::Said::default(),
        };
        let all: Vec<Contacts> = (0..7).map(contact).collect();
        let sizes: Vec<usize> = chunks(all.clone(), 3).iter().map(|chunk| chunk.len()).collect();
        assert_eq!(sizes, [1, 3, 3]);
        let again: Vec<Contacts> = chunks(all.clone(), 3).iter().rev().flat_map(|chunk| chunk.to_vec()).collect();
        assert_eq!(again, all);
        assert_eq!(chunks(Vec::new(), 3).len(), 1);
    }

    #[test]
    fn the_more_waits_the_smaller_and_the_sooner_a_round() {
        let rounds = [0, 500, 501, 1_000, 2_000, 4_000, 1_000_000].map(|pending| {
            let slices = slices_of_a_round(pending);
            (slices, part_of(Duration::from_millis(800), slices).as_millis())
        });
        assert_eq!(rounds, [(8, 800), (8, 800), (7, 700), (4, 400), (2, 200), (1, 100), (1, 100)]);
    }

    proptest! {
        /// Whatever the rounds take, and whichever of them fail.
        #[test]
        fn everything_before_the_watermark_was_flushed(
            rounds in prop::collection::vec((prop::collection::vec(0_u128..64, 0..20), 1..=SLICES, any::<bool>()), 1..40)
        ) {
            let clock = Clock::manual(0);
            let coalescer = Coalescer::new(1_000, clock.clone());
            let mut progress = Progress::new(clock.boottime());
            let (mut noted, mut flushed) = (Vec::new(), HashMap::new());
            for (devices, slices, fails) in rounds {
                for device in devices {
                    clock.advance(Duration::from_millis(1));
                    let device = DeviceId(uuid::Uuid::from_u128(device));
                    coalescer.note(device, Fingerprint([0; 32]), Said::default()).unwrap();
                    noted.push((device, clock.boottime()));
                }
                clock.advance(Duration::from_millis(1));
                let (moment, taken) = coalescer.take(progress.next(slices));
                if fails {
                    coalescer.put_back(taken);
                } else {
                    flushed.extend(taken.into_iter().map(|contact| (contact.device, contact.newest)));
                    progress = progress.after(slices, moment);
                }
                for (device, at) in noted.iter().filter(|(_, at)| *at < progress.through()) {
                    prop_assert!(flushed.get(device).is_some_and(|flushed| flushed >= at));
                }
            }
            // None is left behind: as many rounds as there are slices flush everything.
            let end = clock.boottime();
            for _ in 0..SLICES {
                clock.advance(Duration::from_millis(1));
                progress = progress.after(1, coalescer.take(progress.next(1)).0);
            }
            prop_assert!(coalescer.pending() == 0 && progress.through() > end);
        }
    }
}
