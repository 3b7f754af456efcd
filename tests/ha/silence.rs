//! A device that dies: suspected, then offline, in the time that the formula names; and back when it is back.

use std::time::Duration;

use everbeat::domain::presence::{Deadlines, State};
use everbeat::domain::time::parse_rfc3339;
use everbeat::wire::admin::Event;

use super::database::until;
use super::devices::enroll;
use super::process::Process;
use super::world::{LONG, World};

/// A tick, a flush, a sweep, and a busy machine.
const LATE_MAX: time::Duration = time::Duration::seconds(6);

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_device_turns_suspect_then_offline_and_comes_back() {
    let world = World::start().await;
    let token = world.fleet("plant", 1).await;
    let client = enroll(&world, &token, "press-1").await;
    let device = client.device().id.0;
    let (state, log) = (world.path("press-1"), world.path("press-1.log"));
    let args = ["device", "run", "--state", state.to_str().unwrap(), "--readings-every-s", "1"];
    let becomes = async |wanted: State, limit: Duration| {
        until(&format!("{wanted:?}"), limit, async || (world.presence(device).await.state == wanted).then_some(()))
            .await;
    };

    let mut process = Process::start(&args, &log);
    becomes(State::Online, LONG).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    process.kill();
    becomes(State::Suspect, LONG).await;
    becomes(State::Offline, LONG).await;
    let why = world.presence(device).await;
    assert_eq!(why.cause, everbeat::domain::presence::Cause::Silence);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut process = Process::start(&args, &log);
    becomes(State::Online, LONG).await;
    process.kill();

    let events: Vec<Event> = world.events("device.").await;
    let changes: Vec<&Event> = events.iter().filter(|event| event.status_seq.is_some()).take(4).collect();
    let kinds: Vec<_> = changes.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(kinds, ["device.online", "device.suspect", "device.offline", "device.online"], "one for each change");
    assert_eq!(changes.iter().map(|event| event.status_seq.unwrap()).collect::<Vec<_>>(), [1, 2, 3, 4]);

    let deadlines = Deadlines::of(Duration::from_secs(1));
    for (event, deadline) in [(changes[1], deadlines.suspect), (changes[2], deadlines.offline)] {
        let last_seen = parse_rfc3339(event.detail["last_seen"].as_str().unwrap()).unwrap();
        let silence = event.at - last_seen;
        println!("{} after {silence} of silence; the formula says {deadline:?}", event.kind);
        assert!(silence >= deadline, "{} came too early: {silence}", event.kind);
        assert!(silence <= deadline + LATE_MAX, "{} came too late: {silence}", event.kind);
    }
}
