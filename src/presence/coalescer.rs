//! Contacts in memory, one entry for each device, until the next flush. Bounded: a device that has no entry finds no
//! room when `devices_max` have one; what a failed flush puts back always finds room, so memory holds at most twice
//! as many.
//!
//! **Nothing slips past the watermark**: a contact's moment is read under its shard's lock, and the moment of a
//! [`Coalescer::take`] before any lock is taken. So a contact from before that moment is in what was taken.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::domain::ids::{DeviceId, Fingerprint};
use crate::domain::presence::Said;
use crate::domain::time::{Boottime, Clock};
use crate::store::presence::Contacts;

/// More than there are cores, so that two requests seldom meet at one lock. A multiple of [`SLICES`].
const SHARDS: usize = 64;
/// Parts in which devices can be taken, of about the same size.
pub const SLICES: usize = 8;

type Shard = HashMap<DeviceId, Contacts>;

/// No room for another device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

pub struct Coalescer {
    shards: Vec<Mutex<Shard>>,
    devices: AtomicUsize,
    devices_max: usize,
    clock: Clock,
}

impl Coalescer {
    pub fn new(devices_max: usize, clock: Clock) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { shards, devices: AtomicUsize::new(0), devices_max, clock }
    }

    /// Devices that wait for the next flush.
    pub fn pending(&self) -> usize {
        self.devices.load(Ordering::Relaxed)
    }

    /// Notes a contact that happens now, and what was said.
    pub fn note(&self, device: DeviceId, fingerprint: Fingerprint, said: Said) -> Result<(), Full> {
        self.add(device, fingerprint, said, None)
    }

    /// The same with the promise that is given for it, where nobody has to be waited for.
    pub fn note_promised(
        &self,
        device: DeviceId,
        fingerprint: Fingerprint,
        said: Said,
        promise_ms: i64,
    ) -> Result<(), Full> {
        self.add(device, fingerprint, said, Some(promise_ms))
    }

    fn add(&self, device: DeviceId, fingerprint: Fingerprint, said: Said, promise_ms: Option<i64>) -> Result<(), Full> {
        let mut shard = self.shard(device);
        let now = self.clock.boottime();
        let promise = promise_ms.map(|promise_ms| (promise_ms, now));
        let contact = Contacts { device, fingerprint, newest: now, count: 1, promise, said };
        match shard.entry(device) {
            Entry::Occupied(mut entry) => merge(entry.get_mut(), contact),
            Entry::Vacant(_) if self.pending() >= self.devices_max => return Err(Full),
            Entry::Vacant(entry) => {
                entry.insert(contact);
                self.devices.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Notes the promise given now to a device whose contact was noted at `heard`. It is no later contact: the device
    /// may have said goodbye elsewhere while it waited for the promise.
    pub fn promise(&self, device: DeviceId, fingerprint: Fingerprint, promise_ms: i64, heard: Boottime) {
        let mut shard = self.shard(device);
        let now = self.clock.boottime();
        let given = Contacts {
            device,
            fingerprint,
            newest: heard,
            count: 0,
            promise: Some((promise_ms, now)),
            said: Said::default(),
        };
        self.merge_into(&mut shard, given);
    }

    /// All that waits in these slices, in the order of the flush, and the moment: what was noted before it is in here, or
    /// was taken earlier.
    pub fn take(&self, slices: impl IntoIterator<Item = usize>) -> (Boottime, Vec<Contacts>) {
        let moment = self.clock.boottime();
        let mut all = Vec::new();
        for shard in slices.into_iter().flat_map(|slice| self.shards.iter().skip(slice).step_by(SLICES)) {
            let taken = std::mem::take(&mut *lock(shard));
            self.devices.fetch_sub(taken.len(), Ordering::Relaxed);
            all.extend(taken.into_values());
        }
        all.sort_unstable_by_key(|contact| contact.device);
        (moment, all)
    }

    /// Gives back what could not be flushed; what came in since is kept.
    pub fn put_back(&self, contacts: impl IntoIterator<Item = Contacts>) {
        for contact in contacts {
            let mut shard = self.shard(contact.device);
            self.merge_into(&mut shard, contact);
        }
    }

    fn merge_into(&self, shard: &mut Shard, contact: Contacts) {
        match shard.entry(contact.device) {
            Entry::Occupied(mut entry) => merge(entry.get_mut(), contact),
            Entry::Vacant(entry) => {
                entry.insert(contact);
                self.devices.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn shard(&self, device: DeviceId) -> MutexGuard<'_, Shard> {
        // The last byte of a UUIDv7 is random.
        let byte = device.0.as_bytes()[15];
        lock(&self.shards[usize::from(byte) % SHARDS])
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The newest contact with its credential, the newest promise, the newest words, all the contacts.
fn merge(into: &mut Contacts, other: Contacts) {
    let said = std::mem::take(&mut into.said);
    if other.newest >= into.newest {
        into.newest = other.newest;
        into.fingerprint = other.fingerprint;
        into.said = said.then(other.said);
    } else {
        into.said = other.said.then(said);
    }
    into.count = into.count.saturating_add(other.count);
    into.promise = match (into.promise, other.promise) {
        (Some(mine), Some(theirs)) if theirs.1 < mine.1 => Some(mine),
        (mine, theirs) => theirs.or(mine),
    };
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    const PRINT: Fingerprint = Fingerprint([7; 32]);

    fn device(n: u128) -> DeviceId {
        DeviceId(Uuid::from_u128(n))
    }

    fn said(seq: Option<i64>, status: Option<&str>) -> Said {
        Said { seq, status: status.map(Arc::from) }
    }

    #[test]
    fn full_refuses_new_devices_only() {
        let coalescer = Coalescer::new(2, Clock::manual(0));
        assert_eq!(
            [1, 2, 3, 1].map(|n| coalescer.note(device(n), PRINT, Said::default())),
            [Ok(()), Ok(()), Err(Full), Ok(())]
        );
        let (_, taken) = coalescer.take(0..SLICES);
        assert_eq!(taken.iter().map(|c| (c.device, c.count)).collect::<Vec<_>>(), [(device(1), 2), (device(2), 1)]);
        assert_eq!(coalescer.note(device(3), PRINT, Said::default()), Ok(()));
        coalescer.put_back(taken);
        assert_eq!(coalescer.pending(), 3, "what comes back always finds room");
    }

    #[test]
    fn what_is_put_back_never_replaces_what_is_newer() {
        let clock = Clock::manual(0);
        let coalescer = Coalescer::new(9, clock.clone());
        coalescer.note(device(1), Fingerprint([1; 32]), said(Some(7), Some("cold"))).unwrap();
        coalescer.promise(device(1), Fingerprint([1; 32]), 5_000, clock.boottime());
        let (_, old) = coalescer.take(0..SLICES);
        clock.advance(Duration::from_secs(1));
        let newer = clock.boottime();
        coalescer.note(device(1), Fingerprint([2; 32]), said(Some(0), None)).unwrap();
        coalescer.promise(device(1), Fingerprint([2; 32]), 9_000, newer);
        coalescer.put_back(old);
        let expected = Contacts {
            device: device(1),
            fingerprint: Fingerprint([2; 32]),
            newest: newer,
            count: 2,
            promise: Some((9_000, newer)),
            said: said(Some(0), Some("cold")),
        };
        assert_eq!(coalescer.take(0..SLICES).1, [expected]);
    }

    #[test]
    fn a_promise_that_was_waited_for_is_no_later_contact() {
        let clock = Clock::manual(0);
        let coalescer = Coalescer::new(9, clock.clone());
        let heard = clock.boottime();
        coalescer.note(device(1), PRINT, said(Some(1), None)).unwrap();
        coalescer.take(0..SLICES);
        clock.advance(Duration::from_secs(2));
        coalescer.promise(device(1), PRINT, 5_000, heard);
        let taken = coalescer.take(0..SLICES).1;
        assert_eq!((taken[0].newest, taken[0].promise), (heard, Some((5_000, clock.boottime()))));
    }

    #[test]
    fn a_contact_with_its_promise_is_a_contact_and_a_promise() {
        let clock = Clock::manual(0);
        let [one, two] = [0, 1].map(|_| Coalescer::new(9, clock.clone()));
        one.note_promised(device(1), PRINT, said(Some(1), None), 5_000).unwrap();
        two.note(device(1), PRINT, said(Some(1), None)).unwrap();
        two.promise(device(1), PRINT, 5_000, clock.boottime());
        assert_eq!(one.take(0..SLICES).1, two.take(0..SLICES).1);
        let full = Coalescer::new(0, clock);
        assert_eq!(full.note_promised(device(1), PRINT, Said::default(), 5_000), Err(Full));
        assert_eq!(full.pending(), 0);
    }

    type Model = (Boottime, i64, Option<(i64, Boottime)>);

    #[derive(Clone, Debug)]
    enum Step {
        Note(u128),
        Promise(u128),
        Advance,
        Take,
        PutBack,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0_u128..6).prop_map(Step::Note),
            1 => (0_u128..6).prop_map(Step::Promise),
            2 => Just(Step::Advance),
            1 => Just(Step::Take),
            1 => Just(Step::PutBack),
        ];
        prop::collection::vec(step, 0..60)
    }

    proptest! {
        /// Flushes may fail at any point: the newest contact, the newest promise and the count survive, and a take
        /// holds everything that was noted before its moment.
        #[test]
        fn nothing_is_lost(steps in steps()) {
            let clock = Clock::manual(0);
            let coalescer = Coalescer::new(100, clock.clone());
            let mut model: HashMap<DeviceId, Model> = HashMap::new();
            let mut taken: Vec<Contacts> = Vec::new();
            for (n, step) in (0_i64..).zip(steps) {
                match step {
                    Step::Note(n) => {
                        coalescer.note(device(n), PRINT, Said::default()).unwrap();
                        let entry = model.entry(device(n)).or_insert((clock.boottime(), 0, None));
                        *entry = (clock.boottime(), entry.1 + 1, entry.2);
                    }
                    Step::Promise(d) => {
                        coalescer.promise(device(d), PRINT, n, clock.boottime());
                        let entry = model.entry(device(d)).or_insert((clock.boottime(), 0, None));
                        *entry = (clock.boottime(), entry.1, Some((n, clock.boottime())));
                    }
                    Step::Advance => clock.advance(Duration::from_millis(3)),
                    Step::Take => taken.extend(coalescer.take(0..SLICES).1),
                    Step::PutBack => coalescer.put_back(taken.drain(..).rev()),
                }
            }
            coalescer.put_back(taken);
            prop_assert_eq!(coalescer.pending(), model.len());
            for found in coalescer.take(0..SLICES).1 {
                let (newest, count, promise) = model[&found.device];
                prop_assert_eq!((found.newest, found.count), (newest, count));
                prop_assert_eq!(found.promise.map(|p| p.1), promise.map(|p| p.1));
            }
        }
    }
}
