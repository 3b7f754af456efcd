//! What this replica believes about its leases: told to the duties, to whoever asks, and to the log.
//!
//! The log has one event for each beginning and each end, under the target `belief`, so that overlaps between the
//! replicas of one host can be looked for. With `observe.drill` each is also one JSON object on standard output:
//!
//! ```json
//! {"message":"belief began","duty":"sweeper","holder":"<replica>","epoch":3,"timeline":1,
//!  "since_boottime_ns":1,"trust_until_boottime_ns":2,"timestamp":"…","level":"INFO","target":"belief"}
//! {"message":"belief ended","duty":"sweeper","holder":"<replica>","epoch":3,"timeline":1,
//!  "since_boottime_ns":1,"until_boottime_ns":9,"noticed_boottime_ns":9,"reason":"drain",…}
//! ```
//!
//! Times are CLOCK_BOOTTIME. Belief was held from `since` to `until`, at most: the beginning is written before anybody
//! can act on it, the end after nobody can. A process that was paused notices an end late, and has not believed since
//! `until`. Extensions are not logged. So where an end is missing, the process was killed, and the time of the kill
//! takes its place; of one that was frozen before it was killed, the time of the freeze and ⅔ of the TTL, if earlier.

use tokio::sync::watch;

use crate::domain::ids::ReplicaId;
use crate::domain::lease::{Belief, BeliefEnd, Duty, Fence};
use crate::domain::time::{Boottime, Clock};
use crate::observe;
use crate::observe::log::BELIEF;

#[derive(Clone, Copy)]
struct Held {
    belief: Belief,
    since: Boottime,
}

/// One duty's belief, for those who act on it. Clones share it.
#[derive(Clone)]
pub(super) struct Believer {
    belief: watch::Receiver<Option<Held>>,
    clock: Clock,
}

impl Believer {
    /// The fence to act under. Judged by the clock, too: a process that was paused acts on nothing old.
    pub(super) fn fence(&self) -> Option<Fence> {
        let now = self.clock.boottime();
        self.belief.borrow().map(|held| held.belief).filter(|belief| belief.holds_at(now)).map(|belief| belief.fence)
    }

    /// Resolves when belief has been declared over.
    pub(super) async fn ended(&mut self) {
        let _ = self.belief.wait_for(Option::is_none).await;
    }
}

/// Where the holder of one duty publishes.
pub(super) struct Publisher {
    duty: Duty,
    replica: ReplicaId,
    clock: Clock,
    belief: watch::Sender<Option<Held>>,
}

impl Publisher {
    pub(super) fn believer(&self) -> Believer {
        Believer { belief: self.belief.subscribe(), clock: self.clock.clone() }
    }

    /// Publishes a belief that begins or goes on. A beginning is logged before anybody can act on it.
    pub(super) fn believe(&self, belief: Belief) {
        let before = self.belief.borrow().filter(|before| before.belief.fence == belief.fence);
        let since = before.map_or_else(|| self.begin(&belief), |before| before.since);
        self.belief.send_replace(Some(Held { belief, since }));
    }

    fn begin(&self, belief: &Belief) -> Boottime {
        let since = self.clock.boottime();
        observe::jobs::belief_began(self.duty.as_str(), belief.fence.epoch);
        tracing::info!(
            target: BELIEF,
            duty = self.duty.as_str(),
            holder = %self.replica,
            epoch = belief.fence.epoch,
            timeline = belief.fence.timeline,
            since_boottime_ns = since.as_ns(),
            trust_until_boottime_ns = belief.trust_until.as_ns(),
            "belief began"
        );
        since
    }

    /// Publishes the end of belief, and logs it afterwards.
    pub(super) fn end(&self, why: BeliefEnd) {
        let Some(Held { belief, since }) = self.belief.send_replace(None) else { return };
        let now = self.clock.boottime();
        observe::jobs::belief_ended(self.duty.as_str(), why.as_str());
        tracing::info!(
            target: BELIEF,
            duty = self.duty.as_str(),
            holder = %self.replica,
            epoch = belief.fence.epoch,
            timeline = belief.fence.timeline,
            since_boottime_ns = since.as_ns(),
            until_boottime_ns = now.min(belief.trust_until).as_ns(),
            noticed_boottime_ns = now.as_ns(),
            reason = why.as_str(),
            "belief ended"
        );
    }
}

/// What this replica believes now, by duty. Clones share it.
#[derive(Clone)]
pub struct Beliefs {
    clock: Clock,
    duties: Vec<(Duty, Believer)>,
}

impl Beliefs {
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, duties: Vec::with_capacity(Duty::ALL.len()) }
    }

    pub(super) fn add(&mut self, duty: Duty, replica: ReplicaId) -> Publisher {
        let publisher = Publisher { duty, replica, clock: self.clock.clone(), belief: watch::channel(None).0 };
        self.duties.push((duty, publisher.believer()));
        publisher
    }

    /// The fence under which this replica does `duty`; `None` when it does not.
    pub fn fence(&self, duty: Duty) -> Option<Fence> {
        self.duties.iter().find(|(of, _)| *of == duty).and_then(|(_, believer)| believer.fence())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use uuid::Uuid;

    use super::*;

    #[tokio::test]
    async fn belief_is_over_by_the_clock_before_anybody_says_so() {
        let clock = Clock::manual(0);
        let mut beliefs = Beliefs::new(clock.clone());
        let publisher = beliefs.add(Duty::Sweeper, ReplicaId(Uuid::nil()));
        assert_eq!(beliefs.fence(Duty::Sweeper), None);
        let fence = Fence { role: "sweeper", epoch: 3, timeline: 1 };
        publisher.believe(Belief { fence, trust_until: clock.boottime().plus(Duration::from_secs(1)) });
        assert_eq!(beliefs.fence(Duty::Sweeper), Some(fence));
        assert_eq!(beliefs.fence(Duty::Partitions), None);
        clock.advance(Duration::from_secs(1));
        assert_eq!(beliefs.fence(Duty::Sweeper), None);
        publisher.end(BeliefEnd::TrustEnded);
        publisher.believer().ended().await;
    }
}
