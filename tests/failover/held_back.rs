//! The standby is there by name and does not answer: commits wait, and whoever left them comes again.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;
use uuid::Uuid;

use crate::app::{TestApp, eventually, hex};
use crate::pair::{Direct, LONG, Pair};
use crate::promotion::SETTINGS;
use crate::support::PASSWORD;
use crate::wire::{Answer, Ask};
use crate::writer::{Writer, numbered};

const DEVICES: usize = 10;
/// Longer than a lease, and than the time to blindness.
const FROZEN: Duration = Duration::from_secs(12);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn abandoned_commits_lock_nobody_out_and_nothing_is_lost() {
    let pair = Pair::start(40).await;
    let app = TestApp::on(pair.settings.clone(), &SETTINGS.replace("accept", "refuse")).await;
    let owner = pair.primary.owner().await;
    owner.client.batch_execute("create role human login password 'human'").await.unwrap();
    let mut writers = Vec::new();
    for n in 0..DEVICES {
        writers.push(Writer::start(&app, app.enroll(&format!("pump-{n}")).await));
    }
    let acknowledged = || writers.iter().map(Writer::acknowledged).sum::<usize>();
    eventually(LONG, async || acknowledged() > 5 * DEVICES).await;

    let frozen = pair.standby.freeze();
    // What the standby confirmed before is on its way.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = acknowledged();
    let until = Instant::now() + FROZEN;
    let (mut most, mut waiting) = ([0; 3], 0);
    while Instant::now() < until {
        assert_eq!(acknowledged(), before, "acknowledged without the standby");
        drop(pair.primary.connect("human", "human").await);
        drop(pair.primary.connect("everbeat_lease", PASSWORD).await);
        for (most, role) in most.iter_mut().zip(["fleet", "control", "lease"]) {
            let sql = format!("select count(*) from pg_stat_activity where usename = 'everbeat_{role}'");
            *most = owner.number(&sql).await.max(*most);
        }
        let sql = "select count(*) from pg_stat_activity where wait_event = 'SyncRep'";
        waiting = owner.number(sql).await.max(waiting);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    println!("sessions at most, fleet, control, lease: {most:?}; waiting for the standby: {waiting}");
    assert!(most[0] <= 12 && most[1] <= 6, "more than the pools: {most:?}");
    assert!(most[2] <= 12, "lease sessions pile up: {most:?}");

    drop(frozen);
    let marks: Vec<usize> = writers.iter().map(Writer::acknowledged).collect();
    for (writer, mark) in writers.iter().zip(marks) {
        eventually(LONG, async || writer.acknowledged() > mark + 1).await;
    }
    let mut begun = 0;
    for writer in writers {
        let (_, record) = writer.finish().await;
        assert_eq!(record.acknowledged.len() as u64, record.begun);
        begun += i64::try_from(record.begun).unwrap();
    }
    let all = "select count(*) from readings";
    assert_eq!(owner.number(all).await, begun, "each once");
    let _gone = pair.primary.freeze();
    assert_eq!(pair.standby.promote().await.number(all).await, begun, "what was acknowledged is on the standby");
}

/// Ends the backends that wait for the standby: their commits become visible on the primary, and nowhere else.
async fn cut(owner: &Direct, visible: &str) {
    eventually(LONG, async || {
        let sql = "select count(pg_terminate_backend(pid)) from pg_stat_activity
                   where wait_event = 'SyncRep' and usename in ('everbeat_fleet', 'everbeat_control')";
        owner.number(sql).await;
        owner.number(visible).await == 1
    })
    .await;
}

/// Asks until the outcome was left open once; nothing else than 503 may come back.
async fn stays_unknown(mut ask: impl AsyncFnMut() -> Answer) {
    let mut open = false;
    for _ in 0..8 {
        let answer = ask().await;
        assert_eq!(answer.status, 503, "acknowledged without the standby: {}", answer.text());
        open = answer.text().contains("outcome-unknown");
        if open {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(open, "it was never tried");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_after_a_cut_waits_for_the_standby_too() {
    let mut pair = Pair::start(60).await;
    let app = TestApp::on(pair.settings.clone(), SETTINGS).await;
    let owner = pair.primary.owner().await;
    let mut device = app.enroll("pump-1").await;
    device.store(&numbered(0)).await.ok(200);
    pair.standby.stop();
    let (body, stored) = (numbered(1), "select count(*) from readings where \"values\"->>'n' = '1'");
    stays_unknown(async || device.store(&body).await).await;
    cut(&owner, stored).await;
    stays_unknown(async || device.store(&body).await).await;

    let _gone = pair.primary.freeze();
    let connections = pair.connections;
    pair.standby.start_again(connections);
    let new = pair.standby.promote().await;
    assert_eq!(new.number(stored).await, 0, "the standby never saw it");
    eventually(LONG, async || device.store(&body).await.status == 200).await;
    assert_eq!(new.number(stored).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promise_that_only_the_primary_has_is_not_given() {
    let mut pair = Pair::start(60).await;
    let app = TestApp::on(pair.settings.clone(), &format!("{SETTINGS}[presence]\nheartbeat_blind_max_s = 60\n")).await;
    let owner = pair.primary.owner().await;
    let (mut known, mut sleeper) = (app.enroll("pump-1").await, app.enroll("pump-2").await);
    let beat = known.post("/v1/heartbeat");
    known.call(&beat).await.ok(200);
    let long = sleeper.post("/v1/heartbeat").json(&json!({"interval_s": 600}));
    pair.standby.stop();
    // It gets longer.
    sleeper.call(&long).await.refused(503, "outcome-unknown");
    cut(&owner, "select count(*) from presence where promise_ms = 600000").await;
    let answer = sleeper.call(&long).await;
    assert_eq!(answer.status, 503, "read, and given without the standby: {}", answer.text());
    known.call(&beat).await.ok(200);
    pair.standby.start_again(pair.connections);
    pair.synchronous().await;
    eventually(LONG, async || sleeper.call(&long).await.status == 200).await;
    let new = pair.standby.promote().await;
    assert_eq!(new.number("select count(*) from presence where promise_ms = 600000").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_change_waits_for_the_standby_too() {
    let mut pair = Pair::start(60).await;
    let app = TestApp::on(pair.settings.clone(), SETTINGS).await;
    let owner = pair.primary.owner().await;
    let (stolen, loud) = (app.enroll("pump-1").await.identity, app.enroll("pump-2").await.identity);
    let post = |path: String, body: serde_json::Value, key: &str| {
        Ask::post(&path).bearer(&app.admin).header("Idempotency-Key", key).json(&body)
    };
    let once = Uuid::new_v4().to_string();
    let fleet = json!({"name": "once", "heartbeat_interval_s": 30});
    let calls = [
        (
            post(format!("/v1/certificates/{}/revoke", hex(&stolen.fingerprint)), json!({}), "a"),
            "select count(*) from credentials where revoked_at is not null",
        ),
        (
            post(format!("/v1/devices/{}/suspend", loud.device), json!({}), "b"),
            "select count(*) from devices where state = 'suspended'",
        ),
        (post("/v1/fleets".to_owned(), fleet, &once), "select count(*) from fleets where name = 'once'"),
    ];
    for (call, visible) in &calls {
        // On a new connection each time: a replica that cannot flush sends operators away, too.
        let ask = async || app.connect_admin().await.call(call).await;
        pair.standby.stop();
        stays_unknown(ask).await;
        cut(&owner, visible).await;
        // It changes nothing any more.
        stays_unknown(ask).await;
        let connections = pair.connections;
        pair.standby.start_again(connections);
        pair.synchronous().await;
        eventually(LONG, async || [200, 201].contains(&ask().await.status)).await;
        assert_eq!(owner.number(visible).await, 1);
    }
}
