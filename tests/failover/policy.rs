//! What is acknowledged while there is no synchronous standby.

use everbeat::store::Policy;
use serde_json::json;

use crate::app::{TestApp, reading};
use crate::wire::{Answer, Ask, Wire};

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
    let ready = ops(&accepting, "/readyz?verbose").await;
    assert_eq!(ready.status, 200, "heartbeats need no standby");
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
    let goodbye = device.post("/v1/goodbye");
    device.call(&goodbye).await.refused(503, "outcome-unknown");
    let path = format!("/v1/devices/{}/suspend", device.identity.device);
    let mut admin = app.connect_to(refusing.running.admin_addr, None).await;
    admin.call(&Ask::post(&path).bearer(&app.admin).json(&json!({}))).await.refused(503, "outcome-unknown");
    // It was carried out, which nobody was promised; so was the reading.
    app.admin_post(&path.replace("suspend", "resume"), &json!({})).await.ok(200);
    crate::app::eventually(crate::pair::LONG, async || device.me().await.status == 200).await;
    let beat = beat.bearer(&device.token);
    device.call(&beat).await.ok(200);
    let mut single = app.caller(device.identity).await;
    assert_eq!(single.store(&fresh).await.ok(200)["duplicates"], 1);
}
