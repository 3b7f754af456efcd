//! A replica ends while devices send, as every deployment stops it or as a crash does: nobody notices.

use std::time::Duration;

use rustix::process::Signal;
use tokio_util::task::AbortOnDropHandle;

use super::database::until;
use super::devices::{Stream, assert_stored, enroll, keep_alive};
use super::world::{LONG, World};

/// Devices that send all the time, through both replicas.
struct Load {
    streams: Vec<Stream>,
    _alive: Vec<AbortOnDropHandle<()>>,
}

impl Load {
    async fn start(world: &World) -> Self {
        let token = world.fleet("plant", 2).await;
        let (mut streams, mut alive) = (Vec::new(), Vec::new());
        for n in 0..6 {
            let client = enroll(world, &token, &format!("press-{n}")).await;
            alive.push(keep_alive(&client));
            streams.push(Stream::start(&client, Duration::from_millis(10)));
        }
        Self { streams, _alive: alive }
    }

    /// Every device is acknowledged again, from now on.
    async fn flows(&self) {
        let before: Vec<usize> = self.streams.iter().map(Stream::acknowledged).collect();
        until("every device sends", LONG, async || {
            let mut all = self.streams.iter().zip(&before);
            all.all(|(stream, before)| stream.acknowledged() > before + 10).then_some(())
        })
        .await;
    }

    /// No error, nothing lost, nothing twice, nobody offline.
    async fn assert_unharmed(self, world: &World) {
        let owner = world.database.owner().await;
        for stream in self.streams {
            let (device, told) = stream.finish().await;
            assert!(told.errors.is_empty(), "{:?}", told.errors);
            assert_stored(&owner, device, &told).await;
        }
        let events = world.events("device.offline").await;
        assert!(events.is_empty(), "{events:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_drain_one_after_the_other_and_no_device_sees_an_error() {
    let mut world = World::start().await;
    let load = Load::start(&world).await;
    for index in 0..world.replicas.len() {
        load.flows().await;
        world.replicas[index].signal(Signal::TERM);
        let status = world.replicas[index].process.ended(Duration::from_secs(15)).await;
        assert!(status.success(), "the replica's end: {status}");
        load.flows().await;
        world.replicas[index].start_again().await;
    }
    load.assert_unharmed(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_are_killed_one_after_the_other_and_no_device_sees_an_error() {
    let mut world = World::start().await;
    let load = Load::start(&world).await;
    for index in 0..world.replicas.len() {
        load.flows().await;
        world.replicas[index].process.kill();
        load.flows().await;
        world.replicas[index].start_again().await;
    }
    load.assert_unharmed(&world).await;
}
