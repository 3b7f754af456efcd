//! What ends soon is said while there is time.

use std::time::Duration;

use everbeat::domain::time::rfc3339;
use serde_json::{Value, json};

use crate::app::{Caller, TestApp, csr_of, eventually, hex, now};
use crate::support::TestCluster;
use crate::wire::Ask;

const DAY: Duration = Duration::from_hours(24);

async fn gauge(app: &TestApp, series: &str) -> Option<f64> {
    let text = app.connect_ops().await.call(&Ask::get("/metrics")).await.text();
    text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_that_end_soon_are_counted_unless_they_have_successors() {
    let app = TestApp::new().await;
    let device = async |name: &str, days: &[u32]| {
        let device = app.enroll(name).await.identity.device;
        let all = format!("update credentials set not_after = now() - interval '1 hour' where device_id = '{device}'");
        crate::support::TestCluster::shared().owner_batch(&app.database.database, &all).await;
        for days in days {
            let identity = app.issue(device, now(), DAY * *days);
            app.record(&identity).await;
        }
        device
    };
    device("ends-now", &[1]).await;
    device("ends-soon", &[3]).await;
    device("ends-later", &[20]).await;
    device("far-off", &[60]).await;
    device("renewed", &[3, 20, 60]).await;
    device("renewed-but-soon", &[1, 5]).await;
    device("has-ended", &[]).await;
    let suspended = device("suspended", &[3]).await;
    app.admin_post(&format!("/v1/devices/{suspended}/suspend"), &serde_json::json!({})).await.ok(200);
    let store = crate::support::TestStore::on(app.database.clone()).await;
    let found = everbeat::store::expiry::count(&store.control).await.unwrap();
    assert_eq!((found.within_1_day, found.within_7_days, found.within_30_days), (1, 3, 4));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ends_are_metrics() {
    let app = TestApp::new().await;
    let issuing = gauge(&app, "everbeat_identity_issuing_ca_expiry_timestamp_seconds").await.unwrap();
    // Other replicas of this process have CAs of other tests; all are as old.
    let expected = app.pki.held.issuers[0].issuer.not_after().unix_timestamp();
    assert!((f64::from(u32::try_from(expected).unwrap()) - issuing).abs() < 3_600.0, "{issuing} is not {expected}");
    let server = "everbeat_net_server_certificate_expiry_timestamp_seconds{listener=\"device\"}";
    let server = gauge(&app, server).await.unwrap();
    assert!(server > f64::from(u32::try_from(now().unix_timestamp()).unwrap()), "{server}");
    for within in ["1d", "7d", "30d"] {
        let series = format!("everbeat_identity_certificates_expiring{{within=\"{within}\"}}");
        eventually(Duration::from_secs(20), async || gauge(&app, &series).await.is_some()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_listed_by_their_end_one_for_each_device() {
    let app = TestApp::new().await;
    let mut newest = Vec::new();
    let plan =
        [("late", vec![60_u32]), ("soon", vec![3]), ("renewed", vec![1, 20]), ("ended", vec![]), ("idle", vec![2])];
    for (name, days) in plan {
        let device = app.enroll(name).await.identity.device;
        let all = format!("update credentials set not_after = now() - interval '1 hour' where device_id = '{device}'");
        TestCluster::shared().owner_batch(&app.database.database, &all).await;
        for days in days {
            let identity = app.issue(device, now(), DAY * days);
            app.record(&identity).await;
            newest.push((name, hex(&identity.fingerprint)));
        }
        if name == "idle" {
            app.admin_post(&format!("/v1/devices/{device}/suspend"), &json!({})).await.ok(200);
        }
    }
    let print = |name: &str| newest.iter().rfind(|(of, _)| *of == name).unwrap().1.clone();
    let prints = |page: &Value| {
        page["items"].as_array().unwrap().iter().map(|item| item["fingerprint"].clone()).collect::<Vec<_>>()
    };
    let all = app.admin_get("/v1/certificates").await;
    assert_eq!(prints(&all), [print("soon"), print("renewed"), print("late")]);
    let first = &all["items"][0];
    assert_eq!((&first["device"], &first["fleet"]), (&json!("soon"), &json!("pumps")));
    assert!(first["renew_after"].as_str().unwrap() < first["not_after"].as_str().unwrap(), "{first}");
    let before = rfc3339(now() + DAY * 21);
    let soon = app.admin_get(&format!("/v1/certificates?fleet=pumps&expires_before={before}")).await;
    assert_eq!(prints(&soon), [print("soon"), print("renewed")]);
    // Page by page it is the same list.
    let (mut paged, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = app.admin_get(&format!("/v1/certificates?limit=1{cursor}")).await;
        paged.extend(prints(&page));
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(paged, prints(&all));
    let ask = |path: &str| Ask::get(path).bearer(&app.admin);
    let mut admin = app.connect_admin().await;
    admin.call(&ask("/v1/certificates?expires_before=soon")).await.refused(400, "invalid");
    admin.call(&ask("/v1/certificates?fleet=nowhere")).await.refused(404, "not-found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_did_not_renew_is_announced_once() {
    let app = TestApp::with("[leases]\npartitions_interval_ms = 100\n").await;
    let other = app.another().await;
    let mut devices = Vec::new();
    for name in ["overdue", "renewed", "well", "suspended"] {
        devices.push(app.enroll(name).await);
    }
    let suspended = format!("/v1/devices/{}", devices[3].identity.device);
    app.admin_post(&format!("{suspended}/suspend"), &json!({})).await.ok(200);
    let renewal = Ask::post("/v1/renew").json(&json!({"csr": csr_of(&rcgen::KeyPair::generate().unwrap())}));
    let successor = devices[1].call(&renewal).await.ok(200);
    // Of ninety days, ten are left to three of them, and to the renewed one's first.
    let age = async |device: &Caller| {
        let aged = format!(
            "update credentials set not_before = not_before - interval '80 days', not_after = not_after - interval '80 days'
             where fingerprint = '\\x{}'",
            hex(&device.identity.fingerprint)
        );
        TestCluster::shared().owner_batch(&app.database.database, &aged).await;
    };
    for device in [&devices[0], &devices[1], &devices[3]] {
        age(device).await;
    }
    let announced =
        async || app.admin_get("/v1/events?kind=certificate.expiring").await["items"].as_array().unwrap().clone();
    eventually(Duration::from_secs(20), async || announced().await.len() == 1).await;
    let event = &announced().await[0];
    assert_eq!(event["device_id"], json!(devices[0].identity.device));
    assert_eq!(event["detail"]["fingerprint"], json!(hex(&devices[0].identity.fingerprint)));
    assert!(event["detail"]["not_after"].as_str().unwrap().ends_with('Z'), "{event}");

    // Who may call again is looked at again, and so is a certificate whose successor was revoked.
    app.admin_post(&format!("{suspended}/resume"), &json!({})).await.ok(200);
    eventually(Duration::from_secs(20), async || announced().await.len() == 2).await;
    let key = rcgen::KeyPair::generate().unwrap();
    let successor = crate::app::Identity::of(&successor, key).fingerprint;
    app.admin_post(&format!("/v1/certificates/{}/revoke", hex(&successor)), &json!({})).await.ok(200);
    eventually(Duration::from_secs(20), async || announced().await.len() == 3).await;
    // Another leader says nothing anew, only what is new.
    app.replica.tasks.shutdown().drain();
    let leads =
        format!("select count(*) from leader_lease where role = 'partitions' and holder = '{}'", other.running.replica);
    eventually(Duration::from_secs(20), async || app.count(&leads).await == 1).await;
    age(&devices[2]).await;
    let mut admin = app.connect_admin_of(&other).await;
    let ask = Ask::get("/v1/events?kind=certificate.expiring").bearer(&app.admin);
    let mut last = Value::Null;
    eventually(Duration::from_secs(20), async || {
        last = admin.call(&ask).await.ok(200);
        last["items"].as_array().unwrap().len() == 4
    })
    .await;
    assert_eq!(last["items"][3]["device_id"], json!(devices[2].identity.device));
    let noted = "select count(*) from leader_effects where kind = 'certificates.judged' and role = 'partitions'";
    let noted = app.count(noted).await;
    assert!((4..=5).contains(&noted), "{noted} effects: none that changed nothing");
    assert_eq!(app.count("select count(*) from credentials where expiry_notice = 'announced'").await, 4);
}
