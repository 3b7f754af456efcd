//! The primary's host stands still, its standby is promoted, and the old one wakes up again.

use std::time::Duration;

use everbeat::store::Policy;
use serde_json::json;
use tokio::time::Instant;
use uuid::Uuid;

use crate::app::{Caller, TestApp, eventually};
use crate::pair::{Direct, LONG, Pair};
use crate::writer::Writer;

pub const SETTINGS: &str = "[observe]\ndrill = true\n[durability]\npolicy = \"accept\"\n\
    [database]\nstatement_deadline_ms = 2500\n[http]\nsubmit_deadline_ms = 2500\n\
    [leases]\nttl_ms = 3000\nrenew_ms = 600\npoll_ms = 300\n";

/// From the promotion to the first write. Where the machine is not busy it takes about a second.
const FOLLOWED: Duration = Duration::from_secs(10);
/// Rounds of the tracker while a zombie calls itself writable.
const ZOMBIE: Duration = Duration::from_secs(3);

#[derive(Debug, PartialEq, Eq)]
struct Lease {
    holder: Option<Uuid>,
    epoch: i64,
    timeline: i32,
}

async fn lease(owner: &Direct) -> Option<Lease> {
    let sql = "select holder, epoch, timeline from leader_lease
               where role = 'sweeper' and holder is not null and expires_at > clock_timestamp()";
    let row = owner.client.query_opt(sql, &[]).await.unwrap()?;
    Some(Lease { holder: row.get(0), epoch: row.get(1), timeline: row.get(2) })
}

/// Of the change log that the replica follows.
async fn timeline(device: &mut Caller) -> i32 {
    let answer = device.me().await;
    answer.header("x-everbeat-position").unwrap().split(':').next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promoted_standby_is_followed_and_what_was_acknowledged_is_there() {
    let pair = Pair::start(60).await;
    let app = TestApp::on(pair.settings.clone(), SETTINGS).await;
    assert_eq!(app.settings.store.durability, Policy::Accept);
    let old = pair.primary.owner().await;
    let mut suspended = app.enroll("pump-1").await;
    let mut device = app.enroll("pump-2").await;
    let writer = Writer::start(&app, app.enroll("pump-3").await);
    eventually(LONG, async || writer.acknowledged() >= 20 && lease(&old).await.is_some()).await;
    let before = lease(&old).await.unwrap();
    assert_eq!(timeline(&mut device).await, 1);
    // Not through the change log: only a cache that was dropped learns of it.
    suspended.me().await.ok(200);
    let sql = "update devices set state = 'suspended' where id = $1";
    old.client.execute(sql, &[&suspended.identity.device]).await.unwrap();
    suspended.me().await.ok(200);

    let replicated = writer.acknowledged() as u64;
    let frozen = pair.primary.freeze();
    let new = pair.standby.promote().await;
    let writable = Instant::now();
    let (acknowledged, limit) = (writer.acknowledged(), FOLLOWED);
    let fleet = async {
        eventually(limit, async || writer.acknowledged() > acknowledged).await;
        writable.elapsed()
    };
    let control = async {
        let body = json!({"name": "after", "heartbeat_interval_s": 30});
        eventually(limit, async || [201, 409].contains(&app.admin_post("/v1/fleets", &body).await.status)).await;
        writable.elapsed()
    };
    let (fleet, control) = tokio::join!(fleet, control);
    println!("after the new primary took writes: a reading in {fleet:?}, a fleet in {control:?}");
    eventually(LONG, async || suspended.me().await.status == 403).await;
    eventually(LONG, async || lease(&new).await.is_some_and(|lease| lease.timeline == 2)).await;
    let after = lease(&new).await.unwrap();
    assert_eq!(after.holder, before.holder, "the sitting leader goes on");
    assert!(after.epoch > before.epoch);

    // The old one calls itself writable again, on its old timeline.
    let begun = i64::try_from(writer.acknowledged()).unwrap();
    drop(frozen);
    let until = Instant::now() + ZOMBIE;
    while Instant::now() < until {
        assert_eq!(timeline(&mut device).await, 2, "a zombie is followed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(i64::try_from(writer.acknowledged()).unwrap() > begun + 1, "the new one is still written to");
    let late = format!("select count(*) from readings where (\"values\"->>'n')::bigint > {begun}");
    assert_eq!(old.number(&late).await, 0, "written to a zombie");
    // A backend that waits for a standby notices nothing of its client's end; the tracker goes on probing.
    let left = |names: &str| {
        format!(
            "select count(*) from pg_stat_activity where application_name {names} and coalesce(wait_event, '') <> 'SyncRep'"
        )
    };
    eventually(LONG, async || old.number(&left("in ('everbeat/fleet', 'everbeat/control')")).await == 0).await;
    eventually(LONG, async || old.number(&left("like 'everbeat/%'")).await <= 1).await;

    let (caller, record) = writer.finish().await;
    let sql = "select (\"values\"->>'n')::bigint, count(*) from readings where device_id = $1 group by 1 order by 1";
    let rows = new.client.query(sql, &[&caller.identity.device]).await.unwrap();
    let stored: Vec<(i64, i64)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let expected: Vec<(i64, i64)> = (0..i64::try_from(record.begun).unwrap()).map(|n| (n, 1)).collect();
    assert_eq!(stored, expected, "each acknowledged reading once");
    assert_eq!(record.acknowledged.len() as u64, record.begun);
    for (n, durability) in &record.acknowledged {
        let degraded = durability.as_deref() == Some("degraded");
        assert!(*n >= replicated || !degraded, "{n} was replicated");
        assert!(*n < record.begun - 1 || degraded, "{n} has no standby");
    }
    println!("{} readings; answers {:?}", record.begun, record.answers);
}
