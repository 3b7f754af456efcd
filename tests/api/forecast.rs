//! What ends soon is said while there is time.

use std::time::Duration;

use crate::app::{TestApp, eventually, now};
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
    device("ends-soon", &[3]).await;
    device("ends-later", &[20]).await;
    device("far-off", &[60]).await;
    device("renewed", &[3, 20, 60]).await;
    device("renewed-but-soon", &[1, 5]).await;
    device("has-ended", &[]).await;
    let suspended = device("suspended", &[3]).await;
    app.admin_post(&format!("/v1/devices/{suspended}/suspend"), &serde_json::json!({})).await.ok(200);
    let expiring = everbeat::store::credential_views::expiring;
    let store = crate::support::TestStore::on(app.database.clone()).await;
    let found = expiring(&store.control).await.unwrap();
    assert_eq!((found.within_7_days, found.within_30_days), (2, 3));
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
    for within in ["7d", "30d"] {
        let series = format!("everbeat_identity_certificates_expiring{{within=\"{within}\"}}");
        eventually(Duration::from_secs(20), async || gauge(&app, &series).await.is_some()).await;
    }
}
