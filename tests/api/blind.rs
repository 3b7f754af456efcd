//! A replica that cannot read the change log does not know who was shut out since, and says so.

use std::time::Duration;

use everbeat::lifecycle::readiness::Check;
use uuid::Uuid;

use crate::app::{TestApp, eventually, issue, now, other_ca, reading};
use crate::support::TestCluster;
use crate::wire::Ask;

/// Ten seconds without a proof, and then some.
const BLIND: Duration = Duration::from_secs(40);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blind_replica_takes_heartbeats_of_those_it_knows_and_nothing_else() {
    // The one that has not called waits longer than a stranger may.
    let app = TestApp::with("[devices]\nfirst_request_deadline_ms = 300000\nidle_max_ms = 300000\n").await;
    let replica = app.another().await;
    let (mut known, mut unknown) = (app.enroll("pump-1").await, app.enroll("pump-2").await);
    // The one has called this replica before, and the other has not.
    for device in [&mut known, &mut unknown] {
        device.wire = app.connect_to(replica.running.device_addr, Some(&device.identity)).await;
    }
    known.call(&known.post("/v1/heartbeat")).await.ok(200);
    // Of a CA that there is not; a blind replica might not have heard of it yet.
    let stranger = issue(&other_ca(), Uuid::now_v7(), now(), Duration::from_hours(1));
    let stranger = async || {
        let mut wire = app.connect_to(replica.running.device_addr, Some(&stranger)).await;
        wire.call(&Ask::post("/v1/token")).await
    };
    stranger().await.refused(401, "certificate-untrusted");
    let change = async |what: &str| TestCluster::shared().owner_batch(&app.database.database, what).await;
    change("revoke select on changes from everbeat_lease").await;
    eventually(BLIND, async || {
        // What it knew was forgotten again if its enrollment came late in the log; now nothing more comes.
        known.me().await;
        !replica.running.readiness.get(Check::ChangeLog)
    })
    .await;
    eventually(BLIND, async || known.me().await.status == 503).await;

    for ask in [
        Ask::get("/v1/me").bearer(&known.token),
        known.post("/v1/readings").json(&reading()),
        known.post("/v1/goodbye"),
        Ask::post("/v1/token"),
        Ask::post("/v1/heartbeat").bearer(&unknown.token),
    ] {
        let device = if ask.encode().starts_with(b"POST /v1/heartbeat") { &mut unknown } else { &mut known };
        let answer = device.call(&ask).await;
        answer.refused(503, "unavailable");
        assert!(answer.header("retry-after").unwrap().parse::<u64>().unwrap() > 0);
    }
    stranger().await.refused(503, "unavailable");
    let mut admin = app.connect_admin_of(&replica).await;
    for path in ["/v1/whoami", "/v1/devices", "/v1/leases"] {
        admin.call(&Ask::get(path).bearer(&app.admin)).await.refused(503, "unavailable");
    }
    // A sign of life is no change: what was known when the log was last seen will do.
    for _ in 0..3 {
        let beat = known.call(&known.post("/v1/heartbeat")).await.ok(200);
        assert!(beat["next_in_s"].as_f64().is_some(), "{beat}");
    }
    // The token is judged all the same, and so is the certificate.
    known.call(&Ask::post("/v1/heartbeat")).await.refused(401, "token-required");
    known.call(&Ask::post("/v1/heartbeat").bearer(&unknown.token)).await.refused(401, "token-mismatch");
    app.connect_to(replica.running.device_addr, None)
        .await
        .call(&known.post("/v1/heartbeat"))
        .await
        .refused(401, "certificate-required");
    assert!(!replica.running.readiness.is_ready(), "others should be asked");

    change("grant select on changes to everbeat_lease").await;
    eventually(BLIND, async || known.me().await.status == 200).await;
    unknown.call(&unknown.post("/v1/heartbeat")).await.ok(200);
    // It was not the only one.
    eventually(BLIND, async || app.replica.running.readiness.is_ready()).await;
    app.still_serves("blindness").await;
}
