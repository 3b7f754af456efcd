//! What was acknowledged is stored, and what was not may be sent again: it is stored once.

use std::time::Duration;

use serde_json::{Value, json};

use crate::app::{Caller, TestApp, eventually, reading};
use crate::proxy::{Cut, Proxy};
use crate::wire::Ask;

async fn rows(app: &TestApp, device: &Caller) -> i64 {
    app.count(&format!("select count(*) from readings where device_id = '{}'", device.identity.device)).await
}

/// Sends a batch through the proxy, which cuts as it is told to. Nothing comes back.
async fn lose(app: &TestApp, device: &Caller, proxy: &Proxy, cut: Cut, batch: &Value) {
    let mut wire = app.connect_to(proxy.addr, Some(&device.identity)).await;
    wire.call(&Ask::get("/v1/me").bearer(&device.token)).await.ok(200);
    proxy.arm(cut);
    wire.send(&device.post("/v1/readings").json(batch).encode()).await;
    assert!(wire.try_answer().await.is_none(), "the connection is cut");
    proxy.arm(Cut::Never);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_got_lost_after_the_commit() {
    let app = TestApp::new().await;
    let mut device = app.enroll("pump-1").await;
    let proxy = Proxy::to(app.replica.running.device_addr).await;
    for round in 1..=5 {
        let batch = json!([reading(), reading(), reading()]);
        lose(&app, &device, &proxy, Cut::BeforeAnswer, &batch).await;
        assert_eq!(proxy.swallowed(), round, "there was an answer");
        // Success answers follow their commits, so it is there now.
        assert_eq!(rows(&app, &device).await, 3 * i64::try_from(round).unwrap());
        let answer = device.store(&batch).await.ok(200);
        assert_eq!((&answer["stored"], &answer["duplicates"]), (&json!(0), &json!(3)), "round {round}: {answer}");
        assert_eq!(rows(&app, &device).await, 3 * i64::try_from(round).unwrap(), "nothing is stored twice");
    }
    app.still_serves("lost answers").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_hangs_up_cancels_nothing() {
    let app = TestApp::new().await;
    let mut device = app.enroll("pump-1").await;
    let proxy = Proxy::to(app.replica.running.device_addr).await;
    let mut sent = Vec::new();
    for round in 0..20 {
        let item = reading();
        if round % 2 == 0 {
            lose(&app, &device, &proxy, Cut::AfterRequest, &item).await;
        } else {
            let mut wire = app.connect(Some(&device.identity)).await;
            wire.send(&device.post("/v1/readings").json(&item).encode()).await;
            drop(wire);
        }
        sent.push(item);
    }
    // Sent again while some of them may still be on their way.
    let answer = device.store(&Value::from(sent.clone())).await.ok(200);
    let (stored, duplicates) = (answer["stored"].as_u64().unwrap(), answer["duplicates"].as_u64().unwrap());
    assert_eq!(stored + duplicates, 20, "{answer}");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(rows(&app, &device).await, 20, "each is stored once");
    let answer = device.store(&Value::from(sent)).await.ok(200);
    assert_eq!((&answer["stored"], &answer["duplicates"]), (&json!(0), &json!(20)), "{answer}");
    app.still_serves("callers that hang up").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_reading_of_a_caller_that_left_is_stored_once() {
    let app = TestApp::new().await;
    let mut device = app.enroll("pump-1").await;
    let item = reading();
    let mut wire = app.connect(Some(&device.identity)).await;
    wire.send(&device.post("/v1/readings").json(&item).encode()).await;
    // The request is in the server's hands now; its caller leaves while it commits.
    eventually(Duration::from_secs(5), async || rows(&app, &device).await == 1).await;
    drop(wire);
    let answer = device.store(&item).await.ok(200);
    assert_eq!((&answer["stored"], &answer["duplicates"]), (&json!(0), &json!(1)), "{answer}");
    assert_eq!(rows(&app, &device).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_reading_by_many_at_once() {
    let app = TestApp::new().await;
    let other = app.another().await;
    let device = app.enroll("pump-1").await;
    let addrs = [app.replica.running.device_addr, other.running.device_addr];
    for _ in 0..5 {
        let ask = device.post("/v1/readings").json(&reading());
        let one = |n: usize| {
            let (app, device, ask) = (&app, &device, &ask);
            async move {
                let mut wire = app.connect_to(addrs[n % 2], Some(&device.identity)).await;
                wire.call(ask).await.ok(200)
            }
        };
        let answers = futures_util::future::join_all((0..8).map(one)).await;
        let sum = |name: &str| answers.iter().map(|answer| answer[name].as_u64().unwrap()).sum::<u64>();
        assert_eq!((sum("stored"), sum("duplicates")), (1, 7), "{answers:?}");
    }
    assert_eq!(rows(&app, &device).await, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idempotency_key_makes_one_thing_of_many_requests() {
    let app = TestApp::new().await;
    let mut admin = app.connect_admin().await;
    let ask = |key: &str, body: &Value| {
        Ask::post("/v1/enrollment-tokens").bearer(&app.admin).header("Idempotency-Key", key).json(body)
    };
    let body = json!({"fleet": "pumps", "uses_max": 1});
    let first = admin.call(&ask("one", &body)).await.ok(201);
    let again = admin.call(&ask("one", &body)).await.ok(201);
    assert_eq!(first["id"], again["id"]);
    assert!(first["token"].is_string() && again["token"].is_null() && again["token_omitted"].is_string(), "{again}");
    let other = json!({"fleet": "pumps", "uses_max": 2});
    admin.call(&ask("one", &other)).await.refused(409, "idempotency-conflict");
    assert_ne!(admin.call(&ask("two", &body)).await.ok(201)["id"], first["id"]);
}
