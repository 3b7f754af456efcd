//! Who connects: certificates that are none, not ours, not now, or not any more.

use std::time::Duration;

use everbeat::identity::ca::Root;
use rcgen::KeyPair;
use serde_json::json;
use uuid::Uuid;

use crate::app::{Identity, TestApp, csr_of, eventually, hex, issue, now, other_ca, reading};
use crate::support::TestCluster;
use crate::wire::{Answer, Ask};

const HOUR: Duration = Duration::from_hours(1);
const WITHIN: Duration = Duration::from_secs(1);

/// What a certificate gets at a route that takes a token too, and at the one that gives tokens.
async fn at_both(app: &TestApp, identity: Option<&Identity>) -> [Answer; 2] {
    let mut wire = app.connect(identity).await;
    let token = wire.call(&Ask::post("/v1/token")).await;
    let mut wire = app.connect(identity).await;
    [token, wire.call(&Ask::post("/v1/readings").bearer(&app.admin).json(&reading())).await]
}

async fn refused(app: &TestApp, identity: Option<&Identity>, expected: (u16, &str, &str)) {
    let (status, slug, help) = expected;
    for answer in at_both(app, identity).await {
        let problem = answer.refused(status, slug);
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(help), "{slug}: {detail}");
    }
    app.still_serves(slug).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_ca_is_given_to_clients_without_a_restart() {
    let app = TestApp::new().await;
    let file = app.settings.pki_dir.join("ca.pem");
    let old = std::fs::read_to_string(&file).unwrap();
    let next = Root::make(now()).unwrap();
    let new = format!("{old}{}", next.certificate_pem());
    let given = async || {
        let key = KeyPair::generate().unwrap();
        let asked = json!({"token": app.token, "name": format!("pump-{}", Uuid::now_v7()), "csr": csr_of(&key)});
        let mut wire = app.connect(None).await;
        let enrolled = wire.call(&Ask::post("/v1/enroll").json(&asked)).await.ok(201);
        let bundle = wire.call(&Ask::get("/v1/ca")).await;
        assert_eq!(bundle.status, 200);
        (bundle.text(), enrolled["ca"].as_str().unwrap().to_owned())
    };
    assert_eq!(given().await, (old.clone(), old.clone()));
    // On demand, as by SIGHUP.
    std::fs::write(&file, &new).unwrap();
    app.replica.running.reload().await;
    assert_eq!(given().await, (new.clone(), new.clone()));
    // Cut off in the middle of the copy: never half of it.
    std::fs::write(&file, &new[..new.len() - 100]).unwrap();
    app.replica.running.reload().await;
    assert_eq!(given().await, (new.clone(), new.clone()));
    // And by itself.
    std::fs::write(&file, &old).unwrap();
    eventually(Duration::from_mins(1), async || app.connect(None).await.call(&Ask::get("/v1/ca")).await.text() == old)
        .await;
    app.still_serves("a change of the CA bundle").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_that_are_no_good() {
    let app = TestApp::new().await;
    let device = app.enroll("pump-1").await.identity.device;
    refused(&app, None, (401, "certificate-required", "enrollment")).await;

    let foreign = issue(&other_ca(), device, now(), HOUR);
    refused(&app, Some(&foreign), (401, "certificate-untrusted", "enrollment")).await;

    let expired = app.issue(device, now() - 10 * HOUR, HOUR);
    refused(&app, Some(&expired), (401, "certificate-expired", "/v1/renew")).await;
    app.record(&expired).await;
    refused(&app, Some(&expired), (401, "certificate-expired", "/v1/renew")).await;

    // A stranger's certificate is a stranger's first, and expired second.
    let foreign = issue(&other_ca(), device, now() - 10 * HOUR, HOUR);
    refused(&app, Some(&foreign), (401, "certificate-untrusted", "enrollment")).await;

    let early = app.issue(device, now() + HOUR, HOUR);
    app.record(&early).await;
    refused(&app, Some(&early), (401, "certificate-not-yet-valid", "clock")).await;

    let unknown = app.issue(device, now(), HOUR);
    refused(&app, Some(&unknown), (401, "certificate-unknown", "Enroll again")).await;
    let nobody = app.issue(Uuid::now_v7(), now(), HOUR);
    refused(&app, Some(&nobody), (401, "certificate-unknown", "Enroll again")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replicas_own_certificate_is_no_devices() {
    let app = TestApp::new().await;
    let mut server = app.issue(Uuid::now_v7(), now(), HOUR);
    server.chain.clone_from(&app.pki.server_chain_pem);
    server.key = rcgen::KeyPair::from_pem(secrecy::ExposeSecret::expose_secret(&app.pki.server_key_pem)).unwrap();
    refused(&app, Some(&server), (401, "certificate-untrusted", "enrollment")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_certificate_stays_revoked() {
    let app = TestApp::new().await;
    let mut device = app.enroll("pump-1").await;
    device.me().await.ok(200);
    let path = format!("/v1/certificates/{}/revoke", hex(&device.identity.fingerprint));
    let first = app.admin_post(&path, &json!({"reason": "stolen"})).await.ok(200);
    assert_eq!(first["revoked"], json!([hex(&device.identity.fingerprint)]));
    let second = app.admin_post(&path, &json!({})).await.ok(200);
    assert_eq!((&second["revoked"], &second["certificate"]["revoke_reason"]), (&json!([]), &json!("stolen")));
    eventually(WITHIN, async || device.me().await.status == 401).await;
    device.me().await.refused(401, "certificate-revoked");
    refused(&app, Some(&device.identity), (401, "certificate-revoked", "operator")).await;
    let renewal = json!({"csr": csr_of(&device.identity.key)});
    device.call(&Ask::post("/v1/renew").json(&renewal)).await.refused(401, "certificate-revoked");
    // Nor does the key come back under another name.
    let again = json!({"token": app.token, "name": "pump-2", "csr": csr_of(&device.identity.key)});
    app.connect(None).await.call(&Ask::post("/v1/enroll").json(&again)).await.refused(409, "key-taken");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_was_revoked_is_never_certified_again() {
    let app = TestApp::new().await;
    let (mut device, mut other) = (app.enroll("pump-1").await, app.enroll("pump-2").await);
    let bad = KeyPair::generate().unwrap();
    let renewal = Ask::post("/v1/renew").json(&json!({"csr": csr_of(&bad)}));
    let renewed = device.call(&renewal).await.ok(200);
    let print = Identity::of(&renewed, KeyPair::from_pem(&bad.serialize_pem()).unwrap()).fingerprint;
    let path = format!("/v1/certificates/{}/revoke", hex(&print));
    let revoked = app.admin_post(&path, &json!({"reason": "stolen"})).await.ok(200);
    assert_eq!(revoked["revoked"], json!([hex(&print)]), "the one that asked for it is another key's, and stays");
    device.me().await.ok(200);
    device.call(&renewal).await.refused(409, "key-taken");
    other.call(&renewal).await.refused(409, "key-taken");
    let another_token = app.enrollment_token(5).await;
    for (token, name) in [(&app.token, "pump-3"), (&another_token, "pump-3")] {
        let ask = Ask::post("/v1/enroll").json(&json!({"token": token, "name": name, "csr": csr_of(&bad)}));
        app.connect(None).await.call(&ask).await.refused(409, "key-taken");
    }
    assert_eq!(app.count("select count(*) from devices where name = 'pump-3'").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fourth_certificate_ends_the_oldest_which_is_told_so() {
    let app = TestApp::new().await;
    let mut first = app.enroll("pump-1").await;
    let renew = |key: &KeyPair| Ask::post("/v1/renew").json(&json!({"csr": csr_of(key)}));
    let mut renewed = Vec::new();
    for _ in 0..3 {
        let key = KeyPair::generate().unwrap();
        let answer = first.call(&renew(&key)).await.ok(200);
        renewed.push(Identity::of(&answer, key));
    }
    // The one that asks stays; of the others the oldest has ended.
    first.me().await.ok(200);
    let mut oldest = app.connect(Some(&renewed[0])).await;
    let problem = oldest.call(&Ask::post("/v1/token")).await.refused(401, "certificate-revoked");
    assert!(problem["detail"].as_str().unwrap().contains("newer"), "{problem}");
    oldest.call(&renew(&renewed[0].key)).await.refused(401, "certificate-revoked");
    for identity in renewed.into_iter().skip(1) {
        app.caller(identity).await.me().await.ok(200);
    }
    let live = "select count(*) from credentials where revoked_at is null";
    assert_eq!(app.count(live).await, 3);
    app.still_serves("renewals").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_never_stops_asking_has_twenty_certificates_a_day() {
    let app = TestApp::new().await;
    let key = KeyPair::generate().unwrap();
    let enroll = Ask::post("/v1/enroll").json(&json!({"token": app.token, "name": "pump-1", "csr": csr_of(&key)}));
    let answer = app.connect(None).await.call(&enroll).await.ok(201);
    let mut device = app.caller(Identity::of(&answer, key)).await;
    let renew = Ask::post("/v1/renew").json(&json!({"csr": csr_of(&device.identity.key)}));
    for _ in 0..19 {
        device.call(&renew).await.ok(200);
    }
    for answer in [device.call(&renew).await, app.connect(None).await.call(&enroll).await] {
        assert_eq!(answer.header("retry-after").map(|text| text.parse::<u64>().unwrap() >= 3_600), Some(true));
        assert_eq!(answer.refused(429, "rate-limited")["limit"], "certificates_per_device");
    }
    assert_eq!(app.count("select count(*) from credentials").await, 20);
    device.me().await.ok(200);
    TestCluster::shared()
        .owner_batch(&app.database.database, "update credentials set created_at = created_at - interval '1 day'")
        .await;
    device.call(&renew).await.ok(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_decommissioned_device_gets_nothing() {
    let app = TestApp::new().await;
    let identity = app.enroll("pump-1").await.identity;
    let sql = format!(
        "with d as (update devices set state = 'decommissioned' where id = '{0}' returning id)
         insert into changes (kind, key) select 'device', id::text from d",
        identity.device
    );
    crate::support::TestCluster::shared().owner_batch(&app.database.database, &sql).await;
    let mut wire = app.connect(Some(&identity)).await;
    eventually(Duration::from_secs(5), async || wire.call(&Ask::post("/v1/token")).await.status == 403).await;
    wire.call(&Ask::post("/v1/token")).await.refused(403, "device-suspended");
    let renewal = Ask::post("/v1/renew").json(&json!({"csr": csr_of(&identity.key)}));
    wire.call(&renewal).await.refused(403, "device-suspended");
    // Nor by the way of an answer that got lost.
    let again = json!({"token": app.token, "name": "pump-1", "csr": csr_of(&identity.key)});
    app.connect(None).await.call(&Ask::post("/v1/enroll").json(&again)).await.refused(403, "device-suspended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspended_device_waits_for_its_resumption() {
    let app = TestApp::new().await;
    let mut device = app.enroll("pump-1").await;
    device.me().await.ok(200);
    let path = format!("/v1/devices/{}", device.identity.device);
    let answer = app.admin_post(&format!("{path}/suspend"), &json!({})).await.ok(200);
    assert_eq!(answer["state"], "suspended");
    eventually(WITHIN, async || device.me().await.status == 403).await;
    let problem = device.me().await.refused(403, "device-suspended");
    assert!(problem["detail"].as_str().unwrap().contains("resume"));
    refused(&app, Some(&device.identity), (403, "device-suspended", "resume")).await;
    let renewal = json!({"csr": csr_of(&device.identity.key)});
    device.call(&Ask::post("/v1/renew").json(&renewal)).await.refused(403, "device-suspended");
    app.admin_post(&format!("{path}/resume"), &json!({})).await.ok(200);
    eventually(WITHIN, async || device.me().await.status == 200).await;
    device.store(&reading()).await.ok(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_certificate_may_be_renewed_within_the_window() {
    let app = TestApp::new().await;
    let device = app.enroll("pump-1").await.identity;
    let expired = app.issue(device.device, now() - 10 * HOUR, HOUR);
    let renewal = Ask::post("/v1/renew").json(&json!({"csr": csr_of(&expired.key)}));
    // Ours by its signature, but unknown: the window is for credentials.
    app.connect(Some(&expired)).await.call(&renewal).await.refused(401, "certificate-unknown");
    app.record(&expired).await;
    let answer = app.connect(Some(&expired)).await.call(&renewal).await.ok(200);
    assert_eq!(answer["device"]["id"], json!(device.device));
    let name = answer["device"]["name"].clone();
    assert_eq!(name, "pump-1");
    let key = rcgen::KeyPair::from_pem(&expired.key.serialize_pem()).unwrap();
    let mut renewed = app.caller(Identity::of(&answer, key)).await;
    renewed.store(&reading()).await.ok(200);

    let sql = "update fleets set renew_expired_within_s = 3600";
    crate::support::TestCluster::shared().owner_batch(&app.database.database, sql).await;
    let late = app.connect(Some(&expired)).await.call(&renewal).await.refused(401, "certificate-expired");
    let detail = late["detail"].as_str().unwrap();
    assert!(detail.contains("3600 s ago") && detail.contains("enroll again"), "{late}");
    app.connect(None).await.call(&renewal).await.refused(401, "certificate-required");
    let foreign = issue(&other_ca(), device.device, now() - 10 * HOUR, HOUR);
    app.connect(Some(&foreign)).await.call(&renewal).await.refused(401, "certificate-untrusted");
    app.still_serves("renewals").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_ends_during_a_connection_is_refused_on_it() {
    let app = TestApp::new().await;
    let device = app.enroll("pump-1").await.identity.device;
    let brief = app.issue(device, now(), Duration::from_secs(4));
    app.record(&brief).await;
    let mut caller = app.caller(brief).await;
    caller.store(&reading()).await.ok(200);
    eventually(Duration::from_secs(8), async || caller.me().await.status == 401).await;
    caller.me().await.refused(401, "certificate-expired");
    app.still_serves("an expiry").await;
}
