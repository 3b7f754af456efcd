//! Operators: they take the right to call from devices that go on calling, and they change and read a resource whose
//! version only ever grows.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::lane::Lane;
use super::population::Member;
use crate::client::exchange::Call as Request;
use crate::tools::drill::evidence::Call;
use crate::wire::admin::Reason;
use crate::wire::device::HeartbeatRequest;

/// Between two calls of one of a victim's connections.
const VICTIM_EVERY: Duration = Duration::from_millis(250);

/// Goes on calling, until `done`. `fresh`: over a new connection each time, to the endpoints in turn.
pub(super) async fn insist(mut lane: Lane, fresh: bool, done: CancellationToken) {
    let mut beats = false;
    while !lane.is_over() && !done.is_cancelled() {
        if fresh {
            lane.reconnect();
            lane.move_on();
        }
        beats = !beats;
        let beat = || Request::post_json("/v1/heartbeat", &HeartbeatRequest::default());
        match beats.then(beat) {
            Some(Ok(request)) => lane.ask(Call::Heartbeat, request).await,
            _ => lane.ask(Call::Me, Request::get("/v1/me")).await,
        };
        tokio::select! {
            () = tokio::time::sleep(lane.random.scale(VICTIM_EVERY, 0.5, 1.5)) => {}
            () = done.cancelled() => {}
            () = lane.over() => {}
        }
    }
}

/// Asks until it is acknowledged. False: it was over before.
async fn until_done(lane: &mut Lane, what: &Call, path: &str) -> bool {
    let reason = Reason { reason: Some("drill".to_owned()) };
    let mut failures = 0;
    loop {
        let Ok(request) = Request::post_json(path, &reason) else { return false };
        if lane.ask(what.clone(), request).await.is_acknowledged() {
            return true;
        }
        if !lane.back_off(failures).await {
            return false;
        }
        failures += 1;
    }
}

/// Suspends and resumes a victim until the drain; leaves it resumed.
pub(super) async fn suspend_and_resume(mut lane: Lane, victim: Uuid, done: CancellationToken) {
    let (revoke, restore) = (Call::Revoke { device: victim }, Call::Restore { device: victim });
    let (suspend, resume) = (format!("/v1/devices/{victim}/suspend"), format!("/v1/devices/{victim}/resume"));
    let _done = done.drop_guard();
    // An earlier run may have ended in between.
    if !until_done(&mut lane, &restore, &resume).await {
        return;
    }
    loop {
        let (work, denied) = (lane.run.settings.revoke_after, lane.run.settings.try_for);
        let stop = lane.run.stop.clone();
        tokio::select! {
            on = lane.pause(work) => if !on { return },
            () = stop.draining() => return,
        }
        let cycle = until_done(&mut lane, &revoke, &suspend).await
            && lane.pause(denied).await
            && until_done(&mut lane, &restore, &resume).await;
        if !cycle {
            return;
        }
    }
}

/// Lets the victim work, revokes its certificate, and lets it try.
pub(super) async fn revoke(mut lane: Lane, victim: Arc<Member>, done: CancellationToken) -> Lane {
    let _done = done.drop_guard();
    let (work, denied) = (lane.run.settings.revoke_after, lane.run.settings.try_for);
    let path = format!("/v1/certificates/{}/revoke", victim.fingerprint);
    if lane.pause(work).await && until_done(&mut lane, &Call::Revoke { device: victim.id }, &path).await {
        lane.pause(denied).await;
    }
    lane
}

/// Changes the resource through one endpoint after the other.
pub(super) async fn change(mut lane: Lane, device: Uuid) {
    let what = Call::Change { resource: resource(device), version: None };
    let every = lane.run.settings.change_every;
    let mut suspended = false;
    while !lane.run.stop.is_draining() && lane.pause(every).await {
        suspended = !suspended;
        let verb = if suspended { "suspend" } else { "resume" };
        lane.move_on();
        until_done(&mut lane, &what, &format!("/v1/devices/{device}/{verb}")).await;
    }
}

/// Reads it at one endpoint.
pub(super) async fn read(mut lane: Lane, device: Uuid) {
    let what = Call::Read { resource: resource(device), version: None };
    let every = lane.run.settings.read_every;
    while !lane.run.stop.is_draining() && lane.pause(every).await {
        lane.ask(what.clone(), Request::get(format!("/v1/devices/{device}"))).await;
    }
}

fn resource(device: Uuid) -> String {
    format!("devices/{device}")
}
