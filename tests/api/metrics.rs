//! The ops listener.

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::process::{Command, Stdio};

use everbeat::observe::CATALOGUE;
use uuid::Uuid;

use crate::app::{TestApp, hex, reading};
use crate::wire::Ask;

/// Checks the text format (version 0.0.4): returns names and types, and every sample's labels.
fn parse(text: &str) -> (HashMap<String, String>, Vec<(String, String)>) {
    let (mut types, mut helps, mut samples) = (HashMap::new(), HashSet::new(), Vec::new());
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "two TYPEs of {name}");
        } else if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(help.len() > 5 && helps.insert(name.to_owned()), "the help of {name}");
        } else {
            assert!(!line.starts_with('#'), "{line}");
            let (series, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b':'), "{line}");
            samples.push((name.to_owned(), labels.to_owned()));
        }
    }
    for (name, _) in &samples {
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
        let family = family.filter(|family| types.contains_key(*family)).unwrap_or(name);
        assert!(types.contains_key(family), "{name} has no TYPE");
        assert!(!family.starts_with("everbeat_") || helps.contains(family), "{name} has no HELP");
    }
    (types, samples)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_can_be_read_and_name_nobody() {
    let app = TestApp::new().await;
    let mut device = app.enroll("unmistakable-name").await;
    let secret_path = format!("/{}", Uuid::now_v7());
    device.store(&reading()).await.ok(200);
    let beat = device.post("/v1/heartbeat");
    device.call(&beat).await.ok(200);
    device.call(&Ask::get(&secret_path)).await.refused(404, "not-found");
    device.call(&Ask::of("UNMISTAKABLE", "/v1/me")).await.refused(405, "method-not-allowed");
    app.admin_get("/v1/devices/name:pumps:unmistakable-name").await;

    let answer = app.connect_ops().await.call(&Ask::get("/metrics")).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/plain; version=0.0.4")));
    let text = answer.text();
    let (types, samples) = parse(&text);
    let id = device.identity.device;
    for nobody in [
        "unmistakable",
        "UNMISTAKABLE",
        "pumps",
        "127.0.0.1",
        &id.to_string(),
        &id.simple().to_string(),
        &secret_path[1..],
    ] {
        assert!(!text.contains(nobody), "{nobody} is among the metrics");
    }
    assert!(!text.contains(&hex(&device.identity.fingerprint)) && !text.contains(&app.database.database));
    for name in ["everbeat_http_requests_total", "everbeat_http_request_seconds", "everbeat_store_statement_seconds"] {
        assert!(types.contains_key(name), "{name} is missing");
    }
    let ours = types.keys().filter(|name| name.starts_with("everbeat_"));
    let catalogue: HashSet<&str> = CATALOGUE.iter().copied().flatten().map(|metric| metric.name).collect();
    for name in ours {
        assert!(catalogue.contains(name.as_str()), "{name} is not in the catalogue");
    }
    // A closed set of labels: a scanner makes no series.
    let before = samples.len();
    for n in 0..50 {
        device.call(&Ask::get(&format!("/{n}/{}", Uuid::now_v7()))).await.refused(404, "not-found");
        device.call(&Ask::of(&format!("M{n}"), "/v1/me")).await.refused(405, "method-not-allowed");
    }
    let after = parse(&app.connect_ops().await.call(&Ask::get("/metrics")).await.text()).1;
    // Other tests of this process count too; a hundred series they do not make.
    assert!(after.len() < before + 50, "{before} series became {}", after.len());
    promtool(&text);
}

/// `promtool check metrics`, where there is one.
fn promtool(text: &str) {
    let started = Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).spawn();
    let Ok(mut child) = started else {
        eprintln!("SKIPPED: promtool is not installed, so `promtool check metrics` was not run");
        return;
    };
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "promtool check metrics");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health() {
    let app = TestApp::new().await;
    let mut ops = app.connect_ops().await;
    assert_eq!(ops.call(&Ask::get("/livez")).await.text(), "ok\n");
    assert_eq!(ops.call(&Ask::get("/readyz")).await.text(), "ready\n");
    let verbose = ops.call(&Ask::get("/readyz?verbose")).await.text();
    assert!(verbose.lines().count() > 3 && verbose.lines().all(|line| line.starts_with("ok ")), "{verbose}");
    assert!(!verbose.contains("127.0.0.1") && !verbose.contains(&app.database.database), "{verbose}");
    // Draining: no new traffic, and the process is alive.
    app.replica.tasks.shutdown().drain();
    let mut waited = 0;
    while app.replica.running.readiness.is_ready() && waited < 500 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        waited += 1;
    }
    assert!(!app.replica.running.readiness.is_ready());
}
