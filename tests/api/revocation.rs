//! What an operator decides at one replica acts at another, on connections that are open there.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::app::{Caller, TestApp, hex};
use crate::wire::Ask;

const WITHIN: Duration = Duration::from_secs(1);

/// How long until the device's open connection gets this status.
async fn until(device: &mut Caller, status: u16) -> Duration {
    let begun = Instant::now();
    loop {
        let answer = device.me().await;
        if answer.status == status {
            return begun.elapsed();
        }
        assert!(begun.elapsed() < 10 * WITHIN, "still {}", answer.text());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn decisions_act_on_another_replica_within_a_second() {
    let app = TestApp::new().await;
    let other = app.another().await;
    let (mut one, mut two) = (app.enroll("pump-1").await, app.enroll("pump-2").await);
    for device in [&mut one, &mut two] {
        device.wire = app.connect_to(other.running.device_addr, Some(&device.identity)).await;
        device.me().await.ok(200);
    }
    let path = format!("/v1/devices/{}", two.identity.device);
    for _ in 0..3 {
        app.admin_post(&format!("{path}/suspend"), &json!({})).await.ok(200);
        let took = until(&mut two, 403).await;
        assert!(took < WITHIN, "the suspension took {took:?}");
        app.admin_post(&format!("{path}/resume"), &json!({})).await.ok(200);
        let took = until(&mut two, 200).await;
        assert!(took < WITHIN, "the resumption took {took:?}");
    }
    let path = format!("/v1/certificates/{}/revoke", hex(&one.identity.fingerprint));
    app.admin_post(&path, &json!({"reason": "stolen"})).await.ok(200);
    let took = until(&mut one, 401).await;
    assert!(took < WITHIN, "the revocation took {took:?}");
    one.me().await.refused(401, "certificate-revoked");
    // The other device was never in question.
    two.me().await.ok(200);
    app.still_serves("a revocation").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_enrolled_at_one_replica_is_known_at_the_other() {
    let app = TestApp::new().await;
    let other = app.another().await;
    let device = app.enroll("pump-1").await;
    let mut there = app.caller_at(other.running.device_addr, device.identity).await;
    there.store(&crate::app::reading()).await.ok(200);
    // A token of one replica is good at the other.
    let ask = Ask::get("/v1/me").bearer(&device.token);
    assert_eq!(there.call(&ask).await.ok(200)["device"]["name"], "pump-1");
}
