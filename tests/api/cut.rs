//! The way to the database is cut while a commit is under way, and two replicas write the same rows.

use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::app::{TestApp, eventually, now, reading};
use crate::leave::behind_a_proxy;
use crate::proxy::Cut;

const STORED: &str = "select count(*) from readings";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_answer_is_lost_is_unknown_and_stored_once() {
    let (app, proxy) = behind_a_proxy("").await;
    let mut device = app.enroll("pump-1").await;
    let body = reading();
    proxy.arm(Cut::AfterCommit);
    let first = device.store(&body).await;
    proxy.arm(Cut::Never);
    assert_eq!(first.status, 503, "nobody knows: {}", first.text());
    eventually(Duration::from_secs(20), async || app.count(STORED).await == 1).await;
    let mut again = Value::Null;
    eventually(Duration::from_secs(30), async || {
        let answer = device.store(&body).await;
        assert!(answer.status == 200 || answer.status == 503, "{}", answer.text());
        if answer.status == 200 {
            again = answer.json();
        }
        answer.status == 200
    })
    .await;
    assert_eq!((&again["stored"], &again["duplicates"]), (&json!(0), &json!(1)), "it was stored the first time");
    assert_eq!(app.count(STORED).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_rows_in_opposite_orders_at_two_replicas_are_stored_once() {
    const ROWS: i64 = 200;
    let app = TestApp::new().await;
    let other = app.another().await;
    let mut device = app.enroll("pump-1").await;
    let mut twin = app.connect_to(other.running.device_addr, Some(&device.identity)).await;
    for round in 1..=8 {
        let at = now().unix_timestamp() * 1_000;
        let row = |n: i64| json!({"id": Uuid::now_v7(), "ts": at - n, "values": {"n": n}});
        let rows: Vec<Value> = (0..ROWS).map(row).collect();
        let backwards: Vec<&Value> = rows.iter().rev().collect();
        let (body, ask) = (json!(rows), device.post("/v1/readings").json(&json!(backwards)));
        let (one, two) = tokio::join!(device.store(&body), twin.call(&ask));
        let (one, two) = (one.ok(200), two.ok(200));
        let both = |field: &str| one[field].as_i64().unwrap() + two[field].as_i64().unwrap();
        assert_eq!((both("stored"), both("duplicates")), (ROWS, ROWS), "{one} {two}");
        assert_eq!(app.count(STORED).await, ROWS * round);
    }
}
