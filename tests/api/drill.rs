//! What answers say of themselves during a drill.

use std::time::Duration;

use serde_json::json;
use uuid::Uuid;

use crate::app::{TestApp, eventually, hex};
use crate::wire::{Answer, Ask};

/// Timeline and xmin.
fn position(answer: &Answer) -> (i32, i64) {
    let text = answer.header("x-everbeat-position").unwrap_or_else(|| panic!("no position: {}", answer.text()));
    let (timeline, xmin) = text.split_once(':').unwrap();
    (timeline.parse().unwrap(), xmin.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_says_which_replica_gave_it_and_how_far_it_had_read() {
    let app = TestApp::with("[observe]\ndrill = true\n").await;
    let mut device = app.enroll("pump-1").await;
    let running = &app.replica.running;
    let mut admin = app.connect_admin().await;
    let answers = [
        device.me().await,
        device.call(&Ask::get("/v1/me")).await,
        device.call(&Ask::get("/nothing")).await,
        admin.call(&Ask::get("/v1/whoami").bearer(&app.admin)).await,
        admin.call(&Ask::get("/v1/whoami")).await,
    ];
    assert_eq!(answers.each_ref().map(|answer| answer.status), [200, 401, 404, 200, 401]);
    for answer in &answers {
        let replica: Uuid = answer.header("x-everbeat-replica").unwrap().parse().unwrap();
        assert_eq!(replica, running.replica.0);
        assert_eq!(position(answer).0, 1);
    }

    let path = format!("/v1/certificates/{}/revoke", hex(&device.identity.fingerprint));
    app.admin_post(&path, &json!({})).await.ok(200);
    let revoked = app.count("select max(xid)::text::bigint from changes where kind = 'credential'").await;
    // Whoever says that they have read the revocation must act by it.
    let mut last = (0, 0);
    eventually(Duration::from_secs(20), async || {
        let answer = device.me().await;
        assert!(position(&answer) >= last, "{:?} after {last:?}", position(&answer));
        last = position(&answer);
        assert!(last.1 <= revoked || answer.status == 401, "let in at {last:?}, revoked by {revoked}");
        last.1 > revoked
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_drill_no_answer_names_a_replica() {
    let app = TestApp::new().await;
    let answer = app.enroll("pump-1").await.me().await;
    assert_eq!(answer.status, 200);
    assert_eq!((answer.header("x-everbeat-replica"), answer.header("x-everbeat-position")), (None, None));
}
