//! Connections that leave for another replica while this one cannot do its work. Each that was open when the trouble
//! began draws a moment of its own within its caller's interval, so that a trouble which all replicas share (the database is down)
//! makes no storm: each connection is closed once, and one that came later is left alone.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::peer::ConnInfo;
use crate::domain::random::Random;

/// Tells the connections of a listener when they should leave.
#[derive(Clone)]
pub struct Clearing {
    /// Absent where connections stay.
    told: Option<Told>,
    /// Absent where no connection is meant.
    of: Option<Arc<ConnInfo>>,
}

#[derive(Clone)]
struct Told {
    is_on: watch::Receiver<bool>,
    over: Duration,
    random: Random,
}

impl Clearing {
    /// While `is_on` says so. `over`: the longest that a caller stays, about the interval at which callers are heard;
    /// shorter, and they all shake hands at once; longer, and they stay where nobody hears them. One who is heard more
    /// often is silent sooner, and leaves within its own interval.
    pub fn new(is_on: watch::Receiver<bool>, over: Duration, random: Random) -> Self {
        Self { told: Some(Told { is_on, over, random }), of: None }
    }

    /// For a listener whose connections stay.
    pub fn never() -> Self {
        Self { told: None, of: None }
    }

    /// For this connection.
    pub(super) fn of(&self, info: Arc<ConnInfo>) -> Self {
        Self { of: Some(info), ..self.clone() }
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
        let over = self.of.as_ref().map_or(told.over, |info| info.pace.within(told.over));
        is_on.then(|| Instant::now() + told.random.scale(over, 0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use futures_util::FutureExt;
    use tokio::task::coop::unconstrained;

    use super::super::peer::{Away, Listener, Memo, Outcast, Pace, Peer};
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

    #[tokio::test]
    async fn who_is_heard_more_often_leaves_sooner() {
        let (switch, is_on) = watch::channel(false);
        let clearing = Clearing::new(is_on, Duration::from_secs(30), Random::seeded(1));
        let paced = |interval_ms| {
            let info = ConnInfo {
                number: 1,
                remote: ([127, 0, 0, 1], 1).into(),
                listener: Listener::Device,
                peer: Peer::None,
                memo: Memo::default(),
                away: Away::default(),
                pace: Pace::default(),
                outcast: Outcast::default(),
            };
            info.pace.keep(interval_ms);
            let info = Arc::new(info);
            (0..100).map(|_| clearing.of(Arc::clone(&info)).begin()).collect::<Vec<_>>()
        };
        let (mut often, mut seldom) = (paced(2_000), paced(300_000));
        let now = Instant::now();
        switch.send_replace(true);
        let last = |open: &mut Vec<Clearing>| {
            let at = open.iter_mut().filter_map(|one| match told_now(one) {
                Poll::Ready(at) => at,
                Poll::Pending => None,
            });
            at.max().map(|at| at - now)
        };
        assert!(last(&mut often).is_some_and(|last| last < Duration::from_secs(3)));
        let seldom = last(&mut seldom);
        assert!(seldom.is_some_and(|last| (20..31).contains(&last.as_secs())), "{seldom:?}");
    }
}
