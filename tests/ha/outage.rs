//! The database stops, crashes or freezes for longer than a device may be silent. Readings are refused in time and
//! none that was acknowledged is lost, no device is called offline, and all is well again by itself.

use std::time::Duration;

use everbeat::client::exchange::Answer;
use everbeat::domain::presence::State;
use everbeat::wire::problem::Problem;
use tokio::time::Instant;

use super::database::until;
use super::devices::{Bare, Stream, assert_stored, enroll, keep_alive};
use super::world::{LONG, World};

/// Longer than a device of a 1 s fleet may be silent (13.3 s), after the time for which heartbeats are still taken.
const OUTAGE: Duration = Duration::from_secs(26);
/// Heartbeats are acknowledged so long without a flush (`presence.heartbeat_blind_max_s`).
const BLIND_MAX: Duration = Duration::from_secs(10);
/// From a request for readings to its refusal.
const REFUSED_WITHIN: Duration = Duration::from_millis(2_500);

/// 503 with a pause to keep, in the header and in the body.
fn assert_refused(answer: &Answer, what: &str) {
    assert_eq!(answer.status, 503, "{what}: {}", String::from_utf8_lossy(&answer.body));
    let pause = answer.retry_after.as_deref().and_then(|text| text.parse::<u64>().ok());
    assert!(pause.is_some_and(|seconds| (1..=60).contains(&seconds)), "{what}: Retry-After {:?}", answer.retry_after);
    let problem: Problem = serde_json::from_slice(&answer.body).expect("a problem");
    assert!(problem.retry_after_ms.is_some(), "{what}");
}

/// What a user sees while the database is away. `bare` is a device of a fleet with a long interval.
async fn endure(world: &mut World, bare: &[Bare], began: Instant) {
    let mut accepted = Duration::ZERO;
    let mut refused = false;
    let mut n = 1_000_000;
    while began.elapsed() < OUTAGE {
        for bare in bare {
            let asked = Instant::now();
            n += 1;
            let answer = bare.reading(n).await.expect("an answer, whatever it says");
            assert!(asked.elapsed() < REFUSED_WITHIN, "refused after {:?}", asked.elapsed());
            assert_refused(&answer, "readings");
            let asked = Instant::now();
            let answer = bare.heartbeat().await.expect("an answer, whatever it says");
            assert!(asked.elapsed() < REFUSED_WITHIN, "a heartbeat took {:?}", asked.elapsed());
            if answer.status == 200 {
                accepted = accepted.max(asked.duration_since(began));
                assert!(!refused, "a heartbeat was refused, and then taken, while nothing had changed");
            } else {
                assert_refused(&answer, "heartbeat");
                refused |= began.elapsed() > BLIND_MAX + Duration::from_secs(1);
            }
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    eprintln!("heartbeats were taken until {accepted:?} into the outage");
    assert!(accepted > BLIND_MAX / 2, "heartbeats go on for a while; the last was taken at {accepted:?}");
    assert!(accepted < BLIND_MAX + Duration::from_secs(1), "and not for ever; the last was taken at {accepted:?}");
    for replica in &mut world.replicas {
        if replica.process.has_ended() {
            continue;
        }
        let (status, lines) = replica.readyz().await;
        assert_eq!(status, 503, "{lines}");
        assert!(lines.lines().any(|line| line == "failed flush"), "{lines}");
        assert!(lines.lines().any(|line| line == "failed change_log"), "{lines}");
    }
}

/// `away` takes the database away, and gives what brings it back.
async fn outage<T>(away: impl FnOnce(&mut World) -> T, back: impl FnOnce(&mut World, T)) {
    let mut world = World::start().await;
    let token = world.fleet("plant", 1).await;
    let slow_token = world.fleet("meadow", 60).await;
    let sender = enroll(&world, &token, "sender").await;
    let mut beating = Vec::new();
    for n in 0..8 {
        beating.push(enroll(&world, &token, &format!("beating-{n}")).await);
    }
    let slow = enroll(&world, &slow_token, "slow").await;
    let _alive: Vec<_> = beating.iter().chain([&sender]).map(keep_alive).collect();
    let stream = Stream::start(&sender, Duration::from_millis(20));
    let mut bare = Vec::new();
    for url in world.device_urls() {
        let one = Bare::connect(&slow, url).await;
        assert_eq!(one.heartbeat().await.unwrap().status, 200);
        assert_eq!(one.reading(0).await.unwrap().status, 200);
        bare.push(one);
    }
    until("readings flow", LONG, async || (stream.acknowledged() > 20).then_some(())).await;
    let before = stream.acknowledged();

    let began = Instant::now();
    let held = away(&mut world);
    if world.replicas[0].process.has_ended() {
        bare.remove(0);
    }
    endure(&mut world, &bare, began).await;
    back(&mut world, held);

    let returned = Instant::now();
    for replica in &mut world.replicas {
        if replica.process.has_ended() {
            replica.start_again().await;
        }
        replica.ready(LONG).await;
    }
    eprintln!("ready again after {:?}", returned.elapsed());
    let sent = stream.acknowledged();
    until("readings flow again", LONG, async || (stream.acknowledged() > sent + 20).then_some(())).await;
    eprintln!("readings again after {:?}", returned.elapsed());
    assert!(sent >= before);
    // Whoever was held responsible for our silence would be so by now.
    tokio::time::sleep(Duration::from_secs(15)).await;
    let (device, told) = stream.finish().await;
    assert_stored(&world.database.owner().await, device, &told).await;
    let offline = world.events("device.offline").await;
    assert!(offline.is_empty(), "our outage is not the devices' fault: {offline:?}");
    eprintln!("suspected: {}", world.events("device.suspect").await.len());
    for client in &beating {
        until("the device is online", LONG, async || {
            (world.presence(client.device().id.0).await.state == State::Online).then_some(())
        })
        .await;
    }
    let outages: Vec<everbeat::wire::admin::Outage> = world.admin.pages("/v1/outages", &[]).take(100).await.unwrap();
    assert!(outages.iter().any(|outage| outage.ended_at - outage.started_at > OUTAGE / 2), "{outages:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_database_costs_nothing_that_was_acknowledged() {
    outage(|world| world.database.stop(), |world, ()| world.database.start()).await;
}

/// Devices that only the dead replica had heard are nobody's any more; they too were silenced by us.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_and_a_replica_that_crash_together_cost_nothing_that_was_acknowledged() {
    let away = |world: &mut World| {
        world.database.crash();
        world.replicas[0].process.kill();
    };
    outage(away, |world, ()| world.database.start()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_database_costs_nothing_that_was_acknowledged() {
    outage(|world| world.database.freeze(), |_, frozen| drop(frozen)).await;
}
