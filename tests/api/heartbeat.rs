//! Signs of life, and leaving on purpose.

use std::time::Duration;

use everbeat::domain::time::rfc3339;
use serde_json::{Value, json};

use crate::app::{Caller, TestApp, eventually, now, reading};

async fn presence(app: &TestApp, device: &Caller) -> Value {
    app.admin_get(&format!("/v1/devices/{}/presence", device.identity.device)).await
}

async fn is(app: &TestApp, device: &Caller, state: &str, cause: &str) -> bool {
    let presence = presence(app, device).await;
    presence["state"] == state && presence["cause"] == cause
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_heartbeat_is_due_about_an_interval_later() {
    let app = TestApp::new().await;
    let mut device = app.enroll("pump-1").await;
    let mut seen = Vec::new();
    for (body, interval) in
        [("", 30.0), ("{}", 30.0), (r#"{"seq":1,"status":"fine"}"#, 30.0), (r#"{"interval_s":60}"#, 60.0)]
    {
        for _ in 0..10 {
            let mut ask = device.post("/v1/heartbeat");
            if !body.is_empty() {
                ask = ask.text(body);
            }
            let answer = device.call(&ask).await.ok(200);
            let next = answer["next_in_s"].as_f64().unwrap();
            assert!((0.9 * interval..=1.1 * interval).contains(&next), "{body}: {answer}");
            assert!(answer["server_time"].as_str().unwrap().ends_with('Z') && answer["messages"] == 0, "{answer}");
            seen.push(next.to_bits());
        }
    }
    seen.dedup();
    assert!(seen.len() > 10, "devices that started together drift apart");
    eventually(Duration::from_secs(5), async || presence(&app, &device).await["why"]["seq"] == 1).await;
    assert_eq!(presence(&app, &device).await["why"]["status"], "fine", "what it said last");
    let long = device.post("/v1/heartbeat").json(&json!({"seq": u64::MAX, "status": "x".repeat(257)}));
    let refused = device.call(&long).await;
    assert_eq!(refused.status, 400, "{}", refused.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn goodbye_and_back_again() {
    let app = TestApp::new().await;
    let mut device = app.enroll("pump-1").await;
    // The token that enrollment got was a contact already, but a device that never called would be never_seen.
    let beat = device.post("/v1/heartbeat");
    device.call(&beat).await.ok(200);
    eventually(Duration::from_secs(5), async || is(&app, &device, "online", "contact").await).await;
    for (body, round) in
        [(json!({"reason": "night", "back_at": rfc3339(now() + Duration::from_hours(8))}), 1), (json!({}), 2)]
    {
        let goodbye = device.post("/v1/goodbye").json(&body);
        let answer = device.call(&goodbye).await;
        assert_eq!((answer.status, answer.body.len()), (204, 0), "{}", answer.text());
        let presence = presence(&app, &device).await;
        assert_eq!(
            (&presence["state"], &presence["cause"]),
            (&json!("offline"), &json!("goodbye")),
            "{round}: at once"
        );
        let beat = device.post("/v1/heartbeat");
        device.call(&beat).await.ok(200);
        eventually(Duration::from_secs(5), async || is(&app, &device, "online", "contact").await).await;
    }
    // Without a body, and then another sign of life than a heartbeat.
    let goodbye = device.post("/v1/goodbye");
    assert_eq!(device.call(&goodbye).await.status, 204);
    assert!(is(&app, &device, "offline", "goodbye").await);
    device.store(&reading()).await.ok(200);
    eventually(Duration::from_secs(5), async || is(&app, &device, "online", "contact").await).await;
    let expected: Vec<&str> =
        ["device.online", "device.offline"].repeat(3).into_iter().chain(["device.online"]).collect();
    // An event is given out once every transaction that began before it has ended: one of another database, too.
    eventually(Duration::from_secs(5), async || {
        let events = app.admin_get("/v1/events?limit=1000").await;
        let kinds = events["items"].as_array().unwrap().iter().map(|event| event["kind"].as_str().unwrap());
        kinds.filter(|kind| kind.starts_with("device.o")).eq(expected.iter().copied())
    })
    .await;
}
