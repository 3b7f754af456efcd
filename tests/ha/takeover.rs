//! The duties go on when the replica that does them is killed, and when it is stopped and later wakes up.

use std::time::Duration;

use rustix::process::Signal;
use tokio::time::Instant;

use super::database::{Owner, until};
use super::devices::{Bare, enroll};
use super::world::{LONG, TTL, World};

/// When, by our clock, somebody else than `before` holds the lease of a duty, under a higher epoch.
async fn taken_over(owner: &Owner, role: &str, before: &str, limit: Duration) -> (Duration, i64) {
    let began = Instant::now();
    let sql = "select epoch from leader_lease
               where role = $1 and holder is not null and addr <> $2 and expires_at > clock_timestamp()";
    let epoch = until("another replica holds the lease", limit, async || {
        owner.client.query_opt(sql, &[&role, &before]).await.unwrap().map(|row| row.get(0))
    })
    .await;
    (began.elapsed(), epoch)
}

/// What the replicas said about one duty on standard output, in the order of their times: whether it is a beginning,
/// the epoch, since when, and until when if it is an end.
fn beliefs(world: &World, duty: &str) -> Vec<(bool, i64, u64, Option<u64>)> {
    let logs = world.replicas.iter().map(|replica| replica.process.log()).collect::<String>();
    let lines = logs.lines().filter(|line| line.starts_with('{'));
    let lines = lines.map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let mut all: Vec<_> = lines
        .filter(|line| line["duty"] == duty && line["target"] == "belief")
        .inspect(|line| assert!(line["holder"].is_string() && line["timeline"] == 1, "{line}"))
        .map(|line| {
            let since = line["since_boottime_ns"].as_u64().unwrap();
            (
                line["message"] == "belief began",
                line["epoch"].as_i64().unwrap(),
                since,
                line["until_boottime_ns"].as_u64(),
            )
        })
        .collect();
    all.sort_by_key(|(began, _, since, _)| (*since, !began));
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn the_duties_of_a_killed_replica_are_taken_over() {
    let mut world = World::start().await;
    let owner = world.database.owner().await;
    let (first, lease) = world.holder("sweeper").await;
    let others = world.holder("partitions").await;
    world.replicas[first].process.kill();
    let (took, epoch) = taken_over(&owner, "sweeper", &lease.addr, Duration::from_secs(3)).await;
    println!("take-over after kill -9: {took:?}");
    assert_eq!(epoch, lease.epoch + 1);
    if others.0 == first {
        taken_over(&owner, "partitions", &lease.addr, Duration::from_secs(3)).await;
    }
    // The lease API says so at the replica that is left, without anybody telling the client where to go.
    assert_eq!(world.holder("sweeper").await.0, 1 - first);
    // The killed one could say no more than that it began.
    let said: Vec<_> = beliefs(&world, "sweeper").iter().map(|(began, epoch, ..)| (*began, *epoch)).collect();
    assert_eq!(said, [(true, lease.epoch), (true, epoch)]);

    // The first comes back as a follower.
    world.replicas[first].start_again().await;
    tokio::time::sleep(TTL).await;
    let (holder, lease) = world.holder("sweeper").await;
    assert_eq!((holder, lease.epoch), (1 - first, epoch));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_drains_hands_its_duties_over() {
    let mut world = World::start().await;
    let owner = world.database.owner().await;
    let (first, lease) = world.holder("sweeper").await;
    world.replicas[first].signal(Signal::TERM);
    let (took, epoch) = taken_over(&owner, "sweeper", &lease.addr, Duration::from_secs(3)).await;
    println!("take-over after SIGTERM: {took:?}");
    assert_eq!(epoch, lease.epoch + 1);
    assert!(world.replicas[first].process.ended(Duration::from_secs(15)).await.success());
    match beliefs(&world, "sweeper").as_slice() {
        [(true, first, since, None), (false, ended, again, Some(until)), (true, second, taken, None)] => {
            assert_eq!((first, ended, since), (&lease.epoch, first, again));
            assert_eq!(*second, epoch);
            assert!(since < until && until < taken, "an overlap: until {until}, from {taken}");
        }
        other => panic!("{other:?}"),
    }
    let (holder, lease) = world.holder("sweeper").await;
    assert_eq!((holder, lease.epoch), (1 - first, epoch));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_replica_loses_its_duties_and_steps_down_when_it_wakes_up() {
    let world = World::start().await;
    let owner = world.database.owner().await;
    let token = world.fleet("plant", 1).await;
    let client = enroll(&world, &token, "press-1").await;
    let (first, lease) = world.holder("sweeper").await;
    let second = 1 - first;

    // Heard every 4 s: suspect, and online again, over and over. So every leader has effects.
    let at_second = Bare::connect(&client, world.replicas[second].device_url()).await;
    let blinking = tokio::time::timeout(Duration::from_mins(5), async {
        loop {
            let _ = at_second.heartbeat().await;
            tokio::time::sleep(Duration::from_secs(4)).await;
        }
    });
    let course = async {
        let effects_of = async |epoch: i64| {
            let sql = "select count(*) from leader_effects where role = 'sweeper' and epoch = $1";
            until("the leader has an effect", LONG, async || {
                let count: i64 = owner.client.query_one(sql, &[&epoch]).await.unwrap().get(0);
                (count > 0).then_some(())
            })
            .await;
        };
        effects_of(lease.epoch).await;
        world.replicas[first].signal(Signal::STOP);
        let (took, epoch) = taken_over(&owner, "sweeper", &lease.addr, TTL + Duration::from_secs(5)).await;
        println!("take-over after SIGSTOP: {took:?} (TTL {TTL:?})");
        effects_of(epoch).await;
        world.replicas[first].signal(Signal::CONT);
        // The one that wakes up must not take it back: nothing is wrong with the second.
        let woken = Instant::now();
        while woken.elapsed() < 2 * TTL + Duration::from_secs(1) {
            let sql = "select epoch, addr from leader_lease where role = 'sweeper'";
            let row = owner.client.query_one(sql, &[]).await.unwrap();
            let (now, addr): (i64, String) = (row.get(0), row.get(1));
            assert_eq!((now, &addr), (epoch, &world.replicas[second].device_addr()));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        world.replicas[first].ready(LONG).await;
    };
    tokio::select! {
        _ = blinking => unreachable!("the course has limits of its own"),
        () = course => {}
    }

    let sql = "select timeline, epoch from leader_effects where role = 'sweeper' order by seq";
    let fences: Vec<(i32, i64)> =
        owner.client.query(sql, &[]).await.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect();
    assert!(fences.is_sorted(), "an effect of a lower epoch after one of a higher: {fences:?}");
    assert!(fences.first() < fences.last(), "both leaders had effects: {fences:?}");
}
