//! Following what happens, as `everbeat admin events --follow` does.

use std::time::Duration;

use everbeat::client::{AdminClient, ClientSettings, Context, EventFeed};
use everbeat::domain::random::Random;
use everbeat::domain::time::Clock;
use serde_json::Value;

use crate::app::{TestApp, eventually};
use crate::support::TestCluster;

fn kinds(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["kind"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_follows_is_told_of_each_event_once_also_of_late_commits() {
    let app = TestApp::new().await;
    let url = format!("https://{}", app.replica.running.admin_addr);
    let context = Context { settings: ClientSettings::operator(), clock: Clock::System, random: Random::seeded(1) };
    let client = AdminClient::new(&[url], &app.pki.ca_bundle.pem(), app.admin.clone().into(), context).unwrap();
    let mut feed = EventFeed::new(client, vec![("kind", "t.".to_owned())]);

    let (writer, _driver) = TestCluster::shared().owner(&app.database.database).await;
    let (slow, _other) = TestCluster::shared().owner(&app.database.database).await;
    let insert = |kind: &str| format!("insert into events (kind) values ('t.{kind}')");
    for kind in ["one", "two", "three"] {
        writer.batch_execute(&insert(kind)).await.unwrap();
    }
    let mut newest = Vec::new();
    // Other transactions of the cluster hold events back for a moment.
    eventually(Duration::from_secs(20), async || {
        newest = feed.newest(2).await.unwrap();
        kinds(&newest) == ["t.two", "t.three"]
    })
    .await;
    // Draws its number first, commits last.
    slow.batch_execute(&format!("begin; {}", insert("late"))).await.unwrap();
    writer.batch_execute(&insert("early")).await.unwrap();
    let mut seen = feed.next().await.unwrap();
    slow.batch_execute("commit").await.unwrap();
    eventually(Duration::from_secs(20), async || {
        seen.extend(feed.next().await.unwrap());
        seen.len() >= 2
    })
    .await;
    assert_eq!(kinds(&seen), ["t.late", "t.early"], "in the order of the log, whoever committed first");
    assert!(feed.next().await.unwrap().is_empty(), "and not again");
}
