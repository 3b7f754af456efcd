//! The other side of every attack: devices that keep to the contract, and the memory of the process.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::app::{TestApp, reading};

/// Rounds of honest requests for each attack, the last of them after its end.
const ROUNDS_MIN: u32 = 3;
/// What the process may grow by. Each test attacks with a multiple of it where memory is what the attack is after; other
/// tests run in this process, too.
const GROWTH_MAX: usize = 128 << 20;

/// Runs the attack, and beside it two honest devices: one on a connection of its own from the beginning, one that connects
/// anew each time. Every heartbeat and every reading must succeed, and the process must not grow.
pub async fn undisturbed<T>(app: &TestApp, attack: impl Future<Output = T>) -> T {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::SeqCst);
    let mut steady = app.enroll(&format!("steady-{number}")).await;
    let mut fresh = app.enroll(&format!("fresh-{number}")).await;
    let (before, is_over) = (resident_bytes(), AtomicBool::new(false));
    let attack = async {
        let outcome = attack.await;
        is_over.store(true, Ordering::SeqCst);
        outcome
    };
    let honest = async {
        let mut rounds = 0;
        let mut most = before;
        loop {
            let was_over = is_over.load(Ordering::SeqCst);
            steady.call(&steady.post("/v1/heartbeat")).await.ok(200);
            assert_eq!(steady.store(&reading()).await.ok(200)["stored"], json!(1));
            fresh.reconnect(app).await;
            assert_eq!(fresh.store(&reading()).await.ok(200)["stored"], json!(1));
            fresh.call(&fresh.post("/v1/heartbeat")).await.ok(200);
            rounds += 1;
            most = most.max(resident_bytes());
            if was_over && rounds >= ROUNDS_MIN {
                return most;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let (outcome, most) = tokio::join!(attack, honest);
    let grown = most.saturating_sub(before);
    assert!(grown < GROWTH_MAX, "the process grew by {grown} bytes");
    outcome
}

/// Memory of this process that is in RAM.
fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1_024
}
