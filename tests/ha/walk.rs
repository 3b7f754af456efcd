//! The way of a first-time user: enroll, heartbeat, readings; then look at it as an operator, at either replica.

use everbeat::client::{AdminClient, Batch};
use everbeat::domain::presence::State;
use everbeat::wire::admin::{Device, Lease, Reading};
use everbeat::wire::device::HeartbeatRequest;

use super::database::until;
use super::devices::{enroll, reading};
use super::process::run;
use super::world::{LONG, World, context};

#[tokio::test(flavor = "multi_thread")]
async fn a_device_enrolls_and_an_operator_sees_it_at_both_replicas() {
    let world = World::start().await;
    let token = world.fleet("plant", 1).await;
    let client = enroll(&world, &token, "press-1").await;
    let device = client.device().id.0;

    let beat = client.heartbeat(&HeartbeatRequest::default()).await.unwrap();
    assert!((0.9..=1.1).contains(&beat.next_in_s), "{beat:?}");
    for batch in [1..=3, 4..=4, 5..=7] {
        let readings: Vec<_> = batch.map(reading).collect();
        let answer = client.readings(&Batch::new(&readings).unwrap()).await.unwrap();
        assert_eq!((answer.stored, answer.duplicates), (readings.len() as u64, 0));
        let again = client.readings(&Batch::new(&readings).unwrap()).await.unwrap();
        assert_eq!((again.stored, again.duplicates), (0, readings.len() as u64), "the same again stores nothing");
    }

    for replica in &world.replicas {
        let admin =
            AdminClient::new(&[replica.admin_url()], &world.ca_pem(), world.token.clone().into(), context()).unwrap();
        let listed = until("the list shows the device online", LONG, async || {
            let devices: Vec<Device> = admin.pages("/v1/devices", &[]).take(10).await.unwrap();
            assert_eq!(devices.iter().map(|d| d.name.as_str()).collect::<Vec<_>>(), ["press-1"]);
            devices.into_iter().find(|device| device.presence.as_ref().is_some_and(|p| p.state != State::NeverSeen))
        })
        .await;
        assert_eq!((listed.id, listed.fleet.as_str()), (device, "plant"));
        assert_eq!(listed.latest.expect("its newest reading").values["n"], 7);

        let query = [("order", "asc".to_owned()), ("limit", "2".to_owned())];
        let readings: Vec<Reading> =
            admin.pages(&format!("/v1/devices/{device}/readings"), &query).take(100).await.unwrap();
        let numbers: Vec<_> = readings.iter().map(|reading| reading.values["n"].as_u64().unwrap()).collect();
        assert_eq!(numbers, [1, 2, 3, 4, 5, 6, 7], "page by page, the oldest first");

        let leases: Vec<Lease> = admin.pages("/v1/leases", &[]).take(10).await.unwrap();
        let addresses: Vec<_> = world.replicas.iter().map(super::world::Replica::device_addr).collect();
        for role in ["sweeper", "partitions"] {
            let lease = leases.iter().find(|lease| lease.role == role).expect("each duty has a lease");
            assert!(lease.holder.is_some() && !lease.expired && addresses.contains(&lease.addr), "{lease:?}");
        }
    }
    let events = world.events("device.").await;
    let kinds: Vec<_> = events.iter().map(|event| event.kind.as_str()).take(2).collect();
    assert_eq!(kinds, ["device.enrolled", "device.online"]);
    assert!(events.iter().all(|event| event.device_id == Some(device)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_alone_enroll_a_device_and_show_it() {
    let world = World::start().await;
    let token = world.fleet("plant", 1).await;
    let state = world.path("typed");
    let url = &world.device_urls()[1];
    let args = ["device", "enroll", "--url", url, "--name", "typed", "--state", state.to_str().unwrap()];
    let said = run(&args, &[("EVERBEAT_ENROLLMENT_TOKEN", &token)]);
    assert!(said.starts_with("typed (") && said.ends_with("in fleet plant"), "{said}");
    // The same again, as after a lost answer: the same device.
    assert_eq!(run(&args, &[("EVERBEAT_ENROLLMENT_TOKEN", &token)]), said);

    let devices: Vec<Device> = world.admin.pages("/v1/devices", &[]).take(10).await.unwrap();
    assert_eq!(devices.len(), 1);
    assert_eq!(devices[0].presence.as_ref().unwrap().state, State::NeverSeen);
}
