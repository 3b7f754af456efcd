//! A cache that the change log keeps coherent.
//!
//! - Bounded, and single flight: many callers of one missing key wait for one load.
//! - A load remembers the [`Position`] in the log at which it began, and the timeline that answered it. What began
//!   before an invalidation is not kept, and is not given to callers who came after that invalidation; what an older
//!   timeline answered is not used at all.
//! - Failures are never kept, and neither is "not there": a device that has just enrolled is let in at once.
//!
//! The order that makes it right: an invalidation first moves the position, then removes the key; a load inserts its
//! value, then compares the position. Whichever of the two comes last takes the entry away.

use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering};

use moka::future::Cache;

use crate::lifecycle::tasks;
use crate::observe::identity as observe;
use crate::store::devices::Loaded;
use crate::store::{Fault, StoreError};

/// A caller waits for the flight it met, and for one of its own; a third if the key changes meanwhile.
const TRIES_MAX: u32 = 3;

/// How far the change log was applied. Shared by all caches of a replica.
#[derive(Debug, Default)]
pub(super) struct Position {
    applied: AtomicU64,
    /// As far as the keys of invalidations are gone, too.
    settled: AtomicU64,
    /// Loads whose value may have to be taken away again.
    loads: AtomicUsize,
    /// The timeline whose log is followed; 0: none.
    timeline: AtomicI32,
}

/// Counts as a load until it is dropped.
struct Loading(Arc<Position>);

impl Position {
    pub(super) fn now(&self) -> u64 {
        self.applied.load(Ordering::SeqCst)
    }

    /// To be called before the keys are removed.
    pub(super) fn advance(&self) {
        self.applied.fetch_add(1, Ordering::SeqCst);
    }

    /// To be called when the keys are gone.
    pub(super) fn settle(&self) {
        self.settled.store(self.now(), Ordering::SeqCst);
    }

    /// The position, if what is cached from now on is as of it: no invalidation is under way, and no load that began
    /// before one. Whoever keeps what the caches say afterwards may use it for as long as [`Self::now`] is the same.
    pub(super) fn calm(&self) -> Option<u64> {
        // In this order: loads that begin after they were counted begin at this position.
        let settled = self.settled.load(Ordering::SeqCst);
        let calm = self.loads.load(Ordering::SeqCst) == 0 && self.now() == settled;
        calm.then_some(settled)
    }

    fn loading(self: &Arc<Self>) -> Loading {
        self.loads.fetch_add(1, Ordering::SeqCst);
        Loading(self.clone())
    }

    pub(super) fn timeline(&self) -> i32 {
        self.timeline.load(Ordering::SeqCst)
    }

    /// Follows another timeline. The position moves as well, so that no load that began before is kept.
    pub(super) fn restart(&self, timeline: i32) {
        self.timeline.store(timeline, Ordering::SeqCst);
        self.advance();
    }
}

impl Drop for Loading {
    fn drop(&mut self) {
        self.0.loads.fetch_sub(1, Ordering::SeqCst);
    }
}

struct Entry<V> {
    value: Arc<V>,
    position: u64,
}

impl<V> Clone for Entry<V> {
    fn clone(&self) -> Self {
        Self { value: self.value.clone(), position: self.position }
    }
}

/// Why a load gave no entry.
#[derive(Debug)]
enum Miss {
    Absent { position: u64 },
    Failed(StoreError),
}

pub(super) struct Coherent<K, V> {
    look_ups: observe::LookUps,
    entries: Cache<K, Entry<V>>,
    position: Arc<Position>,
}

impl<K, V> Coherent<K, V>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    V: Send + Sync + 'static,
{
    pub(super) fn new(label: observe::Cache, entries_max: u64, position: Arc<Position>) -> Arc<Self> {
        let entries = Cache::builder().name(label.as_str()).max_capacity(entries_max).build();
        Arc::new(Self { look_ups: observe::LookUps::of(label), entries, position })
    }

    /// What is cached; never loads.
    pub(super) async fn peek(&self, key: &K) -> Option<Arc<V>> {
        let entry = self.entries.get(key).await;
        self.look_ups.count(entry.is_some());
        entry.map(|entry| entry.value)
    }

    /// The value, loaded if need be; `None` if there is no such row.
    pub(super) async fn get<L, F>(self: &Arc<Self>, key: K, load: L) -> Result<Option<Arc<V>>, StoreError>
    where
        L: Fn() -> F,
        F: Future<Output = Result<Loaded<V>, StoreError>> + Send + 'static,
    {
        if let Some(value) = self.peek(&key).await {
            return Ok(Some(value));
        }
        let wanted = self.position.now();
        for _ in 0..TRIES_MAX {
            // In a task of its own: a caller who leaves between the insertion and the check that follows it would
            // leave a stale entry behind.
            let flight = tasks::spawn({
                let (this, key, load) = (self.clone(), key.clone(), load());
                async move { this.fill(key, load).await }
            });
            match flight.await {
                Ok(Ok(entry)) if entry.position >= wanted => return Ok(Some(entry.value)),
                Ok(Ok(_)) => self.entries.invalidate(&key).await,
                Ok(Err(miss)) => match &*miss {
                    Miss::Absent { position } if *position >= wanted => return Ok(None),
                    Miss::Absent { .. } => {}
                    Miss::Failed(error) => return Err(error.clone()),
                },
                Err(panicked) => return Err(StoreError::new("cache_load", Fault::Unavailable, panicked.to_string())),
            }
        }
        Err(StoreError::new("cache_load", Fault::Unavailable, "it changed faster than it could be loaded"))
    }

    async fn fill<F>(&self, key: K, load: F) -> Result<Entry<V>, Arc<Miss>>
    where
        F: Future<Output = Result<Loaded<V>, StoreError>> + Send,
    {
        let _loading = self.position.loading();
        let mut loaded_on = None;
        let init = async {
            let position = self.position.now();
            let loaded = load.await.map_err(Miss::Failed)?;
            if loaded.timeline < self.position.timeline() {
                let detail = "answered by a primary of an older timeline";
                return Err(Miss::Failed(StoreError::new("cache_load", Fault::Unavailable, detail)));
            }
            loaded_on = Some(loaded.timeline);
            let value = loaded.row.map(Arc::new).ok_or(Miss::Absent { position })?;
            Ok(Entry { value, position })
        };
        let outcome = self.entries.try_get_with(key.clone(), init).await;
        if let (Some(timeline), Ok(entry)) = (loaded_on, &outcome)
            && (entry.position != self.position.now() || timeline != self.position.timeline())
        {
            if timeline != self.position.timeline() {
                // Nobody may keep it either: the position that they asked for is over.
                self.position.advance();
            }
            self.entries.invalidate(&key).await;
        }
        outcome
    }

    /// After [`Position::advance`].
    pub(super) async fn forget(&self, key: &K) {
        self.entries.invalidate(key).await;
    }

    /// After [`Position::advance`].
    pub(super) fn forget_all(&self) {
        self.entries.invalidate_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;

    const TIMELINE: i32 = 3;

    fn cache() -> (Arc<Coherent<u32, String>>, Arc<Position>) {
        let position = Arc::new(Position::default());
        position.restart(TIMELINE);
        (Coherent::new(observe::Cache::Device, 100, position.clone()), position)
    }

    #[expect(clippy::unnecessary_wraps, reason = "the type of a load's outcome")]
    fn answer(text: &str) -> Result<Loaded<String>, StoreError> {
        Ok(Loaded { timeline: TIMELINE, row: Some(text.to_owned()) })
    }

    async fn ready(
        cache: &Arc<Coherent<u32, String>>,
        outcome: Result<Loaded<String>, StoreError>,
    ) -> Result<Option<String>, Fault> {
        let got = cache.get(1, || std::future::ready(outcome.clone())).await;
        got.map(|value| value.map(|text| (*text).clone())).map_err(|error| error.fault)
    }

    #[tokio::test]
    async fn kept_until_it_is_forgotten() {
        let (cache, position) = cache();
        assert_eq!(ready(&cache, answer("old")).await, Ok(Some("old".to_owned())));
        assert_eq!(ready(&cache, answer("new")).await, Ok(Some("old".to_owned())));
        position.advance();
        cache.forget(&1).await;
        assert_eq!(ready(&cache, answer("new")).await, Ok(Some("new".to_owned())));
        position.advance();
        cache.forget_all();
        assert_eq!(ready(&cache, answer("newer")).await, Ok(Some("newer".to_owned())));
    }

    #[tokio::test]
    async fn it_is_calm_when_nothing_is_being_taken_away_or_loaded() {
        let (cache, position) = cache();
        assert_eq!(position.calm(), None, "the restart has not forgotten yet");
        position.settle();
        let before = position.calm().unwrap();
        let (release, held) = oneshot::channel::<()>();
        let load = tasks::spawn({
            let cache = cache.clone();
            let mut held = Some(held);
            let held = Mutex::new(held.take());
            async move {
                let load = || {
                    let held = held.lock().unwrap().take();
                    async move {
                        let _ = held.unwrap().await;
                        answer("old")
                    }
                };
                cache.get(1, load).await
            }
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(position.calm(), None, "its value may have to go");
        position.advance();
        cache.forget(&1).await;
        position.settle();
        assert_eq!(position.calm(), None, "a load from before");
        release.send(()).unwrap();
        load.await.unwrap().unwrap();
        assert_eq!(position.calm(), Some(before + 1));
    }

    #[tokio::test]
    async fn failures_and_absence_are_not_kept() {
        let (cache, _) = cache();
        let failed = StoreError::new("t", Fault::Unavailable, "");
        assert_eq!(ready(&cache, Err(failed)).await, Err(Fault::Unavailable));
        assert_eq!(ready(&cache, Ok(Loaded { timeline: TIMELINE, row: None })).await, Ok(None));
        assert_eq!(ready(&cache, answer("there")).await, Ok(Some("there".to_owned())));
    }

    #[tokio::test]
    async fn an_older_timeline_is_not_believed_and_a_newer_one_not_kept() {
        let (cache, _) = cache();
        let of = |timeline, row: Option<&str>| Ok(Loaded { timeline, row: row.map(str::to_owned) });
        assert_eq!(ready(&cache, of(TIMELINE - 1, Some("x"))).await, Err(Fault::Unavailable));
        assert_eq!(ready(&cache, of(TIMELINE - 1, None)).await, Err(Fault::Unavailable), "nor that it is not there");
        assert_eq!(ready(&cache, of(TIMELINE + 1, Some("x"))).await, Ok(Some("x".to_owned())));
        assert!(cache.peek(&1).await.is_none());
    }

    /// A load in flight when its key is invalidated: its caller gets what it read, but it is not kept, and a caller
    /// who comes after the invalidation is given something newer.
    #[tokio::test]
    async fn a_load_in_flight_never_outlives_an_invalidation() {
        let (cache, position) = cache();
        let (release, held) = oneshot::channel::<()>();
        let held = Arc::new(Mutex::new(Some(held)));
        let first = tasks::spawn({
            let cache = cache.clone();
            async move {
                let load = || {
                    let held = held.lock().unwrap().take();
                    async move {
                        if let Some(held) = held {
                            let _ = held.await;
                        }
                        answer("old")
                    }
                };
                cache.get(1, load).await
            }
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
        position.advance();
        cache.forget(&1).await;
        let second = tasks::spawn({
            let cache = cache.clone();
            async move { cache.get(1, || std::future::ready(answer("new"))).await }
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
        release.send(()).unwrap();
        assert_eq!(*first.await.unwrap().unwrap().unwrap(), "old");
        assert_eq!(*second.await.unwrap().unwrap().unwrap(), "new");
        assert_ne!(cache.peek(&1).await.as_deref().map(String::as_str), Some("old"));
    }
}
