//! Connections that leave for another replica while this one cannot do its work. Each that was open when the trouble
//! began draws a moment of its own within `over`, so that a trouble which all replicas share (the database is down)
//! makes no storm: each connection is closed once, and one that came later is left alone.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::domain::random::Random;

/// Tells the connections of a listener when they should leave.
#[derive(Clone)]
pub struct Clearing {
    /// Absent where connections stay.
    told: Option<Told>,
}

#[derive(Clone)]
struct Told {
    is_on: watch::Receiver<bool>,
    over: Duration,
    random: Random,
}

impl Clearing {
    /// While `is_on` says so. `over`: about the interval at which callers are heard; shorter, and they all shake hands
    /// at once; longer, and they stay where nobody hears them.
    pub fn new(is_on: watch::Receiver<bool>, over: Duration, random: Random) -> Self {
        Self { told: Some(Told { is_on, over, random }) }
    }

    /// For a listener whose connections stay.
    pub fn never() -> Self {
        Self { told: None }
    }

    /// For a connection that begins now: what is on already does not concern it.
    pub(super) fn begin(&self) -> Self {
        let mut this = self.clone();
        if let Some(told) = &mut this.told {
            told.is_on.mark_unchanged();
        }
        this
    }

    /// Waits for the next change: leave at this moment, or (`None`) stay.
    pub(super) async fn changed(&mut self) -> Option<Instant> {
        let Some(told) = &mut self.told else { return std::future::pending().await };
        if told.is_on.changed().await.is_err() {
            // Whoever told us has ended, at the drain: that asks all connections by itself.
            return std::future::pending().await;
        }
        let is_on = *told.is_on.borrow_and_update();
        is_on.then(|| Instant::now() + told.random.scale(told.over, 0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use futures_util::FutureExt;
    use tokio::task::coop::unconstrained;

    use super::*;

    /// What is to be told now. So many at once would use up what a task may do in one turn.
    fn told_now(one: &mut Clearing) -> Poll<Option<Instant>> {
        unconstrained(one.changed()).now_or_never().map_or(Poll::Pending, Poll::Ready)
    }

    #[tokio::test]
    async fn each_connection_leaves_at_a_moment_of_its_own_and_stays_once_all_is_well() {
        let over = Duration::from_secs(30);
        let (switch, is_on) = watch::channel(false);
        let clearing = Clearing::new(is_on, over, Random::seeded(1));
        let mut open: Vec<Clearing> = (0..400).map(|_| clearing.begin()).collect();
        assert!(open.iter_mut().all(|one| told_now(one).is_pending()));
        let now = Instant::now();
        switch.send_replace(true);
        let mut late = clearing.begin();
        assert_eq!(told_now(&mut late), Poll::Pending, "who comes now is left alone");
        let mut early = 0;
        for one in &mut open {
            let Poll::Ready(Some(at)) = told_now(one) else { panic!("not told") };
            assert!(at >= now && at < Instant::now() + over);
            early += usize::from(at < now + over / 4);
        }
        assert!((60..140).contains(&early), "{early} of 400 in the first quarter");
        switch.send_replace(false);
        assert!(open.iter_mut().all(|one| told_now(one) == Poll::Ready(None)));
        switch.send_replace(true);
        assert!(matches!(told_now(&mut late), Poll::Ready(Some(_))), "the next trouble concerns it");
        drop(switch);
        assert_eq!(told_now(&mut late), Poll::Pending);
    }
}
