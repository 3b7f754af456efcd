//! The tick that proves the write path, on the same way to the database as the flush, and the watch over both.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch::Sender;

use super::health::Health;
use super::{Inner, observed};
use crate::domain::time::{Boottime, Clock};
use crate::lifecycle::readiness::{Check, Readiness};
use crate::lifecycle::tasks::Tasks;
use crate::observe::presence::OutageCause;
use crate::store::presence::{Ticked, tick};

/// Readiness and gauges follow within this time, also while a statement hangs.
const WATCH: Duration = Duration::from_millis(250);

pub(super) fn start(inner: &Arc<Inner>, readiness: Readiness, clock: &Clock, tasks: &Tasks) {
    let ticking = inner.clone();
    let (shutdown, tick_clock) = (tasks.shutdown().clone(), clock.clone());
    tasks.essential("presence-tick", async move {
        let mut last = tick_clock.boottime();
        while !shutdown.is_draining() {
            beat(&ticking, &tick_clock, &mut last).await;
            tokio::select! {
                () = shutdown.draining() => return,
                () = tokio::time::sleep(ticking.settings.tick_interval) => {}
            }
        }
    });
    let watched = inner.clone();
    let shutdown = tasks.shutdown().clone();
    tasks.essential("presence-watch", async move {
        while !shutdown.is_draining() {
            watch(&watched.health, &readiness, &watched.blind);
            observed::pending(watched.coalescer.pending());
            observed::flush_age(watched.health.age());
            tokio::select! {
                () = shutdown.draining() => return,
                () = tokio::time::sleep(WATCH) => {}
            }
        }
    });
}

fn watch(health: &Health, readiness: &Readiness, blind: &Sender<bool>) {
    // Before blindness: a load balancer takes two or three seconds to see it, and who is asked to leave must not be sent
    // back here.
    readiness.set(Check::Flush, !health.is_nearly_blind());
    let is_blind = health.is_blind();
    blind.send_if_modified(|was| std::mem::replace(was, is_blind) != is_blind);
}

async fn beat(inner: &Inner, clock: &Clock, last: &mut Boottime) {
    let settings = &inner.settings;
    let sent = clock.boottime();
    // A tick says that somebody is heard. The row of the tick may well be written while those of devices cannot be (the
    // disk is full): when no replica can flush, nobody ticks, and that is an outage of all.
    if inner.health.is_nearly_blind() {
        observed::tick_age(sent.since(*last));
        return;
    }
    match tick(&inner.store, settings.me.id, settings.tick_gap_max, settings.cap).await {
        Ok(ticked) => {
            *last = sent;
            if let Some(ticked) = ticked {
                record(&ticked);
            }
        }
        Err(error) => tracing::warn!(%error, "a tick failed"),
    }
    observed::tick_age(clock.boottime().since(*last));
}

fn record(ticked: &Ticked) {
    if ticked.since_us < 0 {
        observed::clock_back();
        tracing::error!(
            back_us = -ticked.since_us,
            "the database's clock was set back: the sweep stands still until it has caught up"
        );
    }
    let Some(cause) = ticked.cause.as_deref().filter(|_| ticked.opened) else { return };
    if let Some(cause) = OutageCause::parse(cause) {
        observed::outage(cause, ticked.restarts);
    }
    if ticked.restarts {
        tracing::warn!(cause, since_us = ticked.since_us, "an outage was recorded; silence in it counts for nothing");
    } else {
        tracing::error!(cause, since_us = ticked.since_us, "too many outages: this one restarts no deadlines");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_follows_the_flush_both_ways() {
        let (clock, readiness, blind) = (Clock::manual(0), Readiness::default(), Sender::new(true));
        let health = Health::new(clock.clone(), Duration::from_secs(10));
        let ready = |health| {
            watch(health, &readiness, &blind);
            (readiness.get(Check::Flush), *blind.borrow())
        };
        assert_eq!(ready(&health), (false, true));
        health.flushed(clock.boottime());
        assert_eq!(ready(&health), (true, false));
        clock.advance(Duration::from_secs(6));
        assert_eq!(ready(&health), (true, false));
        clock.advance(Duration::from_secs(1));
        assert_eq!(ready(&health), (false, false), "time for the load balancer to see it");
        clock.advance(Duration::from_secs(4));
        assert_eq!(ready(&health), (false, true));
        health.flushed(clock.boottime());
        assert_eq!(ready(&health), (true, false));
    }
}
