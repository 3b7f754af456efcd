//! A replica is stopped as every deployment stops it, while devices send: nobody notices.

use std::time::Duration;

use rustix::process::Signal;

use super::database::until;
use super::devices::{Stream, assert_stored, enroll, keep_alive};
use super::world::{LONG, World};

#[tokio::test(flavor = "multi_thread")]
async fn replicas_drain_one_after_the_other_and_no_device_sees_an_error() {
    let mut world = World::start().await;
    let token = world.fleet("plant", 2).await;
    let (mut streams, mut alive) = (Vec::new(), Vec::new());
    for n in 0..6 {
        let client = enroll(&world, &token, &format!("press-{n}")).await;
        alive.push(keep_alive(&client));
        streams.push(Stream::start(&client, Duration::from_millis(10)));
    }
    for index in 0..world.replicas.len() {
        let before: Vec<usize> = streams.iter().map(Stream::acknowledged).collect();
        let flow = async || {
            let all = streams.iter().zip(&before).all(|(stream, before)| stream.acknowledged() > before + 10);
            all.then_some(())
        };
        until("every device sends", LONG, flow).await;
        world.replicas[index].signal(Signal::TERM);
        let status = world.replicas[index].process.ended(Duration::from_secs(15)).await;
        assert!(status.success(), "the replica's end: {status}");
        let before: Vec<usize> = streams.iter().map(Stream::acknowledged).collect();
        let flow = async || {
            let all = streams.iter().zip(&before).all(|(stream, before)| stream.acknowledged() > before + 10);
            all.then_some(())
        };
        until("every device goes on at the other replica", LONG, flow).await;
        world.replicas[index].start_again().await;
    }
    let owner = world.database.owner().await;
    for stream in streams {
        let (device, told) = stream.finish().await;
        assert!(told.errors.is_empty(), "{:?}", told.errors);
        assert_stored(&owner, device, &told).await;
    }
    let events = world.events("device.offline").await;
    assert!(events.is_empty(), "{events:?}");
}
