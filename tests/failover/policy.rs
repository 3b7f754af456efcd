//! What is acknowledged while there is no synchronous standby.

use std::time::Duration;

use everbeat::store::Policy;
use serde_json::json;

use crate::app::{TestApp, reading};
use crate::pair::Pair;
use crate::promotion::SETTINGS;
use crate::wire::{Answer, Ask, Wire};
use crate::writer::numbered;

async fn ops(replica: &crate::app::Replica, path: &str) -> Answer {
    Wire::plain(replica.running.ops_addr).await.call(&Ask::get(path)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_standby_the_policy_decides() {
    let app = TestApp::new().await;
    let (body, beat) = (reading(), Ask::post("/v1/heartbeat"));

    let mut single = app.enroll("pump-1").await;
    let answer = single.store(&body).await.ok(200);
    assert_eq!((&answer["stored"], answer.get("durability")), (&json!(1), None));
    assert!(ops(&app.replica, "/readyz?verbose").await.text().contains("ok durability"));

    let accepting = app.another_under(Policy::Accept).await;
    let mut device = app.caller_at(accepting.running.device_addr, single.identity).await;
    let answer = device.store(&body).await.ok(200);
    assert_eq!((&answer["duplicates"], &answer["durability"]), (&json!(1), &json!("degraded")));
    let mut admin = app.connect_to(accepting.running.admin_addr, None).await;
    let fleet =
        Ask::post("/v1/fleets").bearer(&app.admin).header("Idempotency-Key", "alone").json(&json!({"name": "alone"}));
    let goodbye = device.post("/v1/goodbye");
    let heartbeat = beat.clone().bearer(&device.token);
    for (answer, is_degraded) in [
        (device.store(&body).await, true),
        // Its promise was made known by a commit of another task; given again it is in memory.
        (device.call(&heartbeat).await, true),
        (device.call(&heartbeat).await, false),
        (device.call(&goodbye).await, true),
        (admin.call(&fleet).await, true),
        (device.me().await, false),
    ] {
        assert!((200..300).contains(&answer.status), "{}", answer.text());
        assert_eq!(answer.header("x-everbeat-durability"), is_degraded.then_some("degraded"), "{}", answer.text());
    }
    let ready = ops(&accepting, "/readyz?verbose").await;
    assert_eq!(ready.status, 200, "who has its promise needs no standby");
    assert!(ready.text().contains("degraded durability"), "{}", ready.text());
    let metrics = ops(&accepting, "/metrics").await.text();
    let value = |name: &str| -> f64 {
        let line = metrics.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    assert!(value("everbeat_ingest_degraded_total") >= 1.0);
    assert!(value("everbeat_store_uncovered_commits_total{plane=\"fleet\"}") >= 1.0);

    let refusing = app.another_under(Policy::Refuse).await;
    let mut device = app.caller_at(refusing.running.device_addr, device.identity).await;
    let fresh = reading();
    device.store(&fresh).await.refused(503, "outcome-unknown");
    device.call(&goodbye).await.refused(503, "outcome-unknown");
    let path = format!("/v1/devices/{}/suspend", device.identity.device);
    let mut admin = app.connect_to(refusing.running.admin_addr, None).await;
    admin.call(&Ask::post(&path).bearer(&app.admin).json(&json!({}))).await.refused(503, "outcome-unknown");
    // It was carried out, which nobody was promised; so was the reading.
    app.admin_post(&path.replace("suspend", "resume"), &json!({})).await.ok(200);
    crate::app::eventually(crate::pair::LONG, async || device.me().await.status == 200).await;
    // This replica has not promised it anything yet, and what is stored may be on this server alone.
    device.call(&beat.bearer(&device.token)).await.refused(503, "outcome-unknown");
    let mut single = app.caller(device.identity).await;
    assert_eq!(single.store(&fresh).await.ok(200)["duplicates"], 1);
}

/// Two standbys are to have each commit, and one of them is not there: what the other has is not enough, since the one
/// that comes back may be promoted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_wait_for_two_standbys_is_not_acknowledged_because_one_has_it() {
    let pair = Pair::start(60).await;
    let app = TestApp::on(pair.settings.clone(), &SETTINGS.replace("accept", "refuse")).await;
    let owner = pair.primary.owner().await;
    let mut device = app.enroll("pump-1").await;
    let has = "select application_name from pg_stat_replication";
    let standby: String = owner.client.query_one(has, &[]).await.unwrap().get(0);
    let both = format!("alter system set synchronous_standby_names = 'first 2 ({standby}, missing)'");
    for sql in [both.as_str(), "select pg_reload_conf()"] {
        owner.client.batch_execute(sql).await.unwrap();
    }
    let cancel = async {
        loop {
            let sql = "select count(pg_cancel_backend(pid)) from pg_stat_activity
                       where wait_event = 'SyncRep' and usename = 'everbeat_fleet'";
            owner.number(sql).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let body = numbered(1);
    let answer = tokio::select! {
        answer = device.store(&body) => answer,
        () = cancel => unreachable!(),
    };
    answer.refused(503, "outcome-unknown");
    let visible = "select count(*) from readings where \"values\"->>'n' = '1'";
    assert_eq!(owner.number(visible).await, 1, "the wait was cancelled, and not only given up");
}
