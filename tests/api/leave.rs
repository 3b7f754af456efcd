//! A replica that is cut off from the database, and its devices.

use std::net::SocketAddr;
use std::time::Duration;

use everbeat::lifecycle::readiness::Check;
use tokio::time::Instant;

use crate::app::{Caller, TestApp, eventually, reading};
use crate::proxy::{Cut, Proxy};
use crate::support::TestCluster;

const OVER: Duration = Duration::from_secs(16);

/// An app whose way to the database is the proxy.
pub async fn behind_a_proxy(extra: &str) -> (TestApp, Proxy) {
    let database = SocketAddr::from(([127, 0, 0, 1], TestCluster::shared().port()));
    let proxy = Proxy::to(database).await;
    let hosts = format!("[database]\nhosts = [\"{}\"]\n{extra}", proxy.addr);
    (TestApp::with(&hosts).await, proxy)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn devices_are_asked_to_leave_one_by_one_until_the_replica_is_well_again() {
    let presence = format!("[presence]\nheartbeat_blind_max_s = 2\nblind_close_over_s = {}\n", OVER.as_secs());
    let (app, proxy) = behind_a_proxy(&presence).await;
    let mut devices: Vec<Caller> = Vec::new();
    for n in 0..16 {
        devices.push(app.enroll(&format!("pump-{n}")).await);
    }
    let readiness = &app.replica.running.readiness;
    proxy.arm(Cut::BeforeAnswer);
    eventually(Duration::from_secs(30), async || !readiness.get(Check::Flush)).await;
    let began = Instant::now();

    let mut left = Vec::new();
    while began.elapsed() < OVER / 2 || left.len() < 3 {
        assert!(began.elapsed() < OVER * 2, "{left:?}");
        for (n, device) in devices.iter_mut().enumerate() {
            if !left.iter().any(|(gone, _)| *gone == n) && device.wire.has_ended().await {
                left.push((n, began.elapsed()));
            }
        }
    }
    assert!(left.len() < devices.len(), "not all at once: {left:?}");
    let (first, last) = (left[0].1, left[left.len() - 1].1);
    assert!(last.saturating_sub(first) > OVER / 12, "each at a moment of its own: {left:?}");

    proxy.arm(Cut::Never);
    eventually(Duration::from_secs(30), async || readiness.is_ready()).await;
    let mut stayed = Vec::new();
    for (n, mut device) in devices.into_iter().enumerate() {
        if left.iter().all(|(gone, _)| *gone != n) && !device.wire.has_ended().await {
            stayed.push(device);
        }
    }
    assert!(!stayed.is_empty(), "who had not left yet stays");
    // Readiness may come back moments before the change log's last proof is too old. Readings are taken with a new one.
    eventually(Duration::from_secs(30), async || stayed[0].store(&reading()).await.status == 200).await;
    // What was drawn while it was blind counts no more.
    while began.elapsed() < OVER + Duration::from_secs(2) {
        for device in &mut stayed {
            let beat = device.post("/v1/heartbeat");
            device.call(&beat).await.ok(200);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_with_nothing_left_to_do_ends_its_drain_by_itself() {
    let app = TestApp::new().await;
    app.still_serves("its start").await;
    let tasks = &app.replica.tasks;
    tasks.shutdown().drain();
    // Whoever runs until the abort stage is a foundation; anybody else would hold the drain until its limit.
    let ended = tokio::time::timeout(Duration::from_secs(10), tasks.finish(Duration::from_mins(1))).await;
    assert_eq!(ended, Ok(None), "a task did not end");
}
