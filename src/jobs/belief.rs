//! What this replica believes about its leases: told to the duties, to whoever asks, and to the log. The log has
//! every beginning and end with CLOCK_BOOTTIME, so that overlaps between replicas of one host can be looked for.

use tokio::sync::watch;

use crate::domain::ids::ReplicaId;
use crate::domain::lease::{Belief, BeliefEnd, Duty, Fence};
use crate::domain::time::Clock;
use crate::observe;

/// One duty's belief, for those who act on it. Clones share it.
#[derive(Clone)]
pub(super) struct Believer {
    belief: watch::Receiver<Option<Belief>>,
    clock: Clock,
}

impl Believer {
    /// The fence to act under. Judged by the clock, too: a process that was paused acts on nothing old.
    pub(super) fn fence(&self) -> Option<Fence> {
        let now = self.clock.boottime();
        self.belief.borrow().filter(|belief| belief.holds_at(now)).map(|belief| belief.fence)
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
    belief: watch::Sender<Option<Belief>>,
}

impl Publisher {
    pub(super) fn believer(&self) -> Believer {
        Believer { belief: self.belief.subscribe(), clock: self.clock.clone() }
    }

    /// Publishes a belief that begins or goes on.
    pub(super) fn believe(&self, belief: Belief) {
        let before = self.belief.send_replace(Some(belief));
        if before.map(|before| before.fence) == Some(belief.fence) {
            return;
        }
        observe::jobs::belief_began(self.duty.as_str(), belief.fence.epoch);
        tracing::info!(
            duty = self.duty.as_str(),
            holder = %self.replica,
            epoch = belief.fence.epoch,
            timeline = belief.fence.timeline,
            boottime_us = self.clock.boottime().as_us(),
            trust_until_us = belief.trust_until.as_us(),
            "belief began"
        );
    }

    /// Publishes the end of belief. `boottime_us` is when it ended, `noticed_us` when that was noticed: a process
    /// that was paused notices late, and has not believed meanwhile.
    pub(super) fn end(&self, why: BeliefEnd) {
        let Some(belief) = self.belief.send_replace(None) else { return };
        let now = self.clock.boottime();
        observe::jobs::belief_ended(self.duty.as_str(), why.as_str());
        tracing::info!(
            duty = self.duty.as_str(),
            holder = %self.replica,
            epoch = belief.fence.epoch,
            timeline = belief.fence.timeline,
            boottime_us = now.min(belief.trust_until).as_us(),
            noticed_us = now.as_us(),
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
