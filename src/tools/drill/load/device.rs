//! A device of the load: a heart and a sense, each with connections of its own, so that readings that wait for their
//! commit hold no heartbeat back.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::encode::{self, Form};
use super::lane::{Lane, Told};
use super::population::{Habit, Member};
use super::reading::Reading;
use crate::client::exchange::Call as Request;
use crate::tools::drill::evidence::{Call, Item, Outcome};
use crate::wire::device::{GoodbyeRequest, HeartbeatRequest, Timestamp};

/// A device that wishes for a longer interval wishes for this many times the fleet's.
pub(super) const SLOW_FACTOR: u64 = 4;
/// How long a device that naps is awake, on average, and how long it sleeps: in intervals of the fleet.
const AWAKE_INTERVALS: f64 = 5.0;
const NAP_INTERVALS: f64 = 3.0;
/// A device that comes late beats after so many intervals: suspect by then (1.5), and far from offline (3.3 and 10 s).
const LATE_INTERVALS: (f64, f64) = (1.6, 2.6);
/// After an unknown outcome, the next attempt goes over a new connection with this chance.
const RECONNECT_AFTER_UNKNOWN: f64 = 0.5;

pub(super) struct Device {
    pub member: Arc<Member>,
    pub heart: Lane,
    pub sense: Lane,
}

/// Readings that were acknowledged, and the attempt that sent them first.
struct Delivered {
    readings: Vec<Reading>,
    first: u64,
    form: Form,
}

impl Device {
    /// Works until the drain, and says goodbye then; or until it is killed, and says nothing.
    pub async fn work(mut self) {
        let interval = Duration::from_secs(self.heart.run.settings.heartbeat_interval_s);
        loop {
            let naps = self.member.habit == Habit::Naps;
            let awake = interval.mul_f64(AWAKE_INTERVALS);
            let shift = naps.then(|| self.heart.random.scale(awake, 0.5, 1.5));
            self.shift(shift).await;
            if self.heart.is_over() {
                return;
            }
            if self.heart.run.stop.is_draining() {
                return leave(&mut self.heart).await;
            }
            let nap = interval.mul_f64(NAP_INTERVALS);
            // It wakes earlier than it said. If its goodbye did not arrive, it stays awake.
            if goodbye(&mut self.heart, Some(nap + interval)).await {
                tokio::select! {
                    () = sleep(nap) => {}
                    () = self.heart.run.stop.draining() => return,
                    () = self.heart.over() => return,
                }
            }
        }
    }

    /// Heartbeats for as long as there are readings to send; `awake`: no new ones after it.
    async fn shift(&mut self, awake: Option<Duration>) {
        let done = CancellationToken::new();
        let sensing = async {
            sense(&mut self.sense, &self.member, awake).await;
            done.cancel();
        };
        tokio::join!(sensing, beat(&mut self.heart, self.member.habit, &done));
    }
}

/// Was it heard?
async fn goodbye(lane: &mut Lane, back_in: Option<Duration>) -> bool {
    let back_at = back_in.map(|span| {
        let at_us = lane.run.clock.unix_us() + i64::try_from(span.as_micros()).unwrap_or(0);
        Timestamp::UnixMs(at_us / 1_000)
    });
    let request = GoodbyeRequest { reason: Some("drill".to_owned()), back_at };
    let Ok(request) = Request::post_json("/v1/goodbye", &request) else { return false };
    lane.ask(Call::Goodbye, request).await.is_acknowledged()
}

/// Says goodbye until it is heard, or all is over.
async fn leave(lane: &mut Lane) {
    let mut failures = 0;
    while !goodbye(lane, None).await && lane.back_off(failures).await {
        failures += 1;
    }
}

/// A heart that always beats too late; nothing else is heard of it before its goodbye.
pub(super) async fn come_late(mut lane: Lane) {
    let interval = Duration::from_secs(lane.run.settings.heartbeat_interval_s);
    let mut failures = 0;
    while !lane.is_over() && !lane.run.stop.is_draining() {
        let Ok(request) = Request::post_json("/v1/heartbeat", &HeartbeatRequest::default()) else { return };
        let pause = if lane.ask(Call::Heartbeat, request).await.is_acknowledged() {
            failures = 0;
            lane.random.scale(interval, LATE_INTERVALS.0, LATE_INTERVALS.1)
        } else {
            failures += 1;
            let settings = &lane.run.settings;
            lane.random.full_jitter(settings.backoff_base, settings.backoff_max, failures)
        };
        let stop = lane.run.stop.clone();
        tokio::select! {
            () = sleep(pause) => {}
            () = stop.draining() => {}
            () = lane.over() => {}
        }
    }
    leave(&mut lane).await;
}

/// Heartbeats when they are wanted, until `done`.
async fn beat(lane: &mut Lane, habit: Habit, done: &CancellationToken) {
    let interval_s = lane.run.settings.heartbeat_interval_s.saturating_mul(SLOW_FACTOR);
    let request = HeartbeatRequest { interval_s: (habit == Habit::Slow).then_some(interval_s), ..Default::default() };
    let mut failures = 0;
    while !lane.is_over() && !done.is_cancelled() {
        let Ok(request) = Request::post_json("/v1/heartbeat", &request) else { return };
        let told = lane.ask(Call::Heartbeat, request).await;
        let settings = &lane.run.settings;
        let pause = if let Outcome::Acknowledged { next_in_ms: Some(next_in_ms), .. } = told.outcome {
            failures = 0;
            Duration::from_millis(next_in_ms)
        } else {
            failures += 1;
            lane.random.full_jitter(settings.backoff_base, settings.backoff_max, failures)
        };
        tokio::select! {
            () = sleep(pause) => {}
            () = done.cancelled() => {}
            () = lane.over() => {}
        }
    }
}

/// Readings at the load's pace, until the drain or for `awake`; each batch until it is acknowledged.
async fn sense(lane: &mut Lane, member: &Member, awake: Option<Duration>) {
    let (pace, repeated_share) = (lane.run.settings.pace(), lane.run.settings.repeated_share);
    let end = awake.map(|awake| Instant::now() + awake);
    let mut next_at = Instant::now() + lane.random.scale(pace, 0.0, 1.0);
    let mut last: Option<Delivered> = None;
    while !lane.is_over() && end.is_none_or(|end| Instant::now() < end) {
        tokio::select! {
            () = sleep_until(next_at) => {}
            () = lane.run.rush() => {}
            () = lane.run.stop.draining() => return,
            () = lane.over() => return,
        }
        // What a slow call delayed is not made up for, and what was sent in a rush is not saved later.
        let now = Instant::now();
        next_at = (next_at + pace).clamp(now, now + pace);
        match &last {
            Some(sent) if lane.random.chance(repeated_share) => {
                let form = another(sent.form, sent.readings.len(), lane);
                send(lane, &sent.readings, form, Some(sent.first)).await;
            }
            _ => last = deliver(lane, batch(lane, member)).await.or(last),
        }
    }
}

/// Half of the batches are a single reading.
fn batch(lane: &Lane, member: &Member) -> Vec<Reading> {
    let max = lane.run.settings.batch_max.max(1);
    let count = if lane.random.chance(0.5) { 1 } else { 1 + lane.random.below(max) };
    let numbers = (0..count).map(|_| member.readings.fetch_add(1, Ordering::Relaxed) + 1);
    numbers.map(|n| Reading::measure(n, &lane.run.clock, &lane.random)).collect()
}

/// Sends until all of it is acknowledged. `None`: it was over before.
async fn deliver(lane: &mut Lane, readings: Vec<Reading>) -> Option<Delivered> {
    let mut form = Form::draw(readings.len(), &lane.random);
    let (mut first, mut failures) = (None, 0);
    loop {
        let told = send(lane, &readings, form, first).await;
        let first = *first.get_or_insert(told.number);
        match told.outcome {
            Outcome::Acknowledged { rejected: 0, .. } => return Some(Delivered { readings, first, form }),
            Outcome::Unknown { .. } if lane.random.chance(RECONNECT_AFTER_UNKNOWN) => lane.reconnect(),
            _ => {}
        }
        if !lane.back_off(failures).await {
            return None;
        }
        failures += 1;
        form = another(form, readings.len(), lane);
    }
}

/// Any form but this one.
fn another(form: Form, count: usize, lane: &Lane) -> Form {
    loop {
        let drawn = Form::draw(count, &lane.random);
        if drawn != form {
            return drawn;
        }
    }
}

async fn send(lane: &mut Lane, readings: &[Reading], form: Form, retry_of: Option<u64>) -> Told {
    let items = readings.iter().map(|reading| Item { n: reading.n, ts_unix_us: reading.ts_us }).collect();
    let what = Call::Readings { items, retry_of };
    match encode::call(readings, form, &lane.random) {
        Ok(request) => lane.ask(what, request).await,
        Err(error) => lane.unsent(what, &error.to_string()).await,
    }
}
