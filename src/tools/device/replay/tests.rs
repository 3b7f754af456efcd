//! A whole replay, against a service that loses answers, and that is killed and started again.

use std::collections::HashMap;
use std::io::Read;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::client::Enrollment;
use crate::client::loopback::{Ca, Said, Seen, Server, Temp, context, problem, says, service};

/// What the service has stored: id → item.
type Stored = Arc<Mutex<HashMap<String, Value>>>;

fn unpack(seen: &Seen) -> Vec<Value> {
    let mut text = Vec::new();
    match seen.headers.get("content-encoding") {
        Some(_) => flate2::read::GzDecoder::new(&*seen.body).read_to_end(&mut text).map(drop).unwrap(),
        None => text.extend_from_slice(&seen.body),
    }
    serde_json::from_slice(&text).unwrap()
}

/// Stores as the contract says; rejects values below zero. `loses`: of which request the answer gets lost.
fn stores(stored: &Stored, seen: &Seen, loses: bool) -> Said {
    let mut stored = stored.lock().unwrap();
    let (mut fresh, mut duplicates, mut rejected) = (0, 0, Vec::new());
    for (index, item) in unpack(seen).into_iter().enumerate() {
        if item["values"]["value"].as_f64().unwrap() < 0.0 {
            rejected.push(json!({"index": index, "type": "refused", "detail": "below zero"}));
            continue;
        }
        let id = item["id"].as_str().unwrap().to_owned();
        match stored.insert(id, item.clone()) {
            None => fresh += 1,
            Some(before) if before == item => duplicates += 1,
            Some(before) => panic!("one id, two readings: {before} and {item}"),
        }
    }
    let status = if rejected.is_empty() { 200 } else { 207 };
    let answer =
        json!({"stored": fresh, "duplicates": duplicates, "rejected_total": rejected.len(), "rejected": rejected});
    if loses { None } else { says(status, &answer) }
}

struct Bench {
    _server: Server,
    stored: Stored,
    temp: Temp,
    requests: Arc<Mutex<u32>>,
}

impl Bench {
    /// `fault`: what happens to the request of this number.
    async fn new(name: &str, fault: fn(u32) -> Option<&'static str>) -> Self {
        let ca = Arc::new(Ca::new("a"));
        let (stored, requests) = (Stored::default(), Arc::new(Mutex::new(0)));
        let (inner, log, number) = (service(&ca, Duration::from_hours(24)), stored.clone(), requests.clone());
        let server = Server::start(&ca, move |seen| match seen.path.as_str() {
            "/v1/me" => says(
                200,
                &json!({"device": {"id": "0192f6d0-7b7a-7c3e-9d5e-0123456789ab", "name": "pump-1", "fleet": "plant"},
                    "fleet_id": "0192f6d0-7b7a-7c3e-9d5e-0123456789ab", "heartbeat_interval_s": 30.0,
                    "certificate": {"fingerprint": "00", "not_after": "2030-01-01T00:00:00Z",
                        "renew_after": "2030-01-01T00:00:00Z"},
                    "readings_batch_max": 20, "readings_body_max_bytes": 1_000_000}),
            ),
            "/v1/readings" => {
                *number.lock().unwrap() += 1;
                let now = *number.lock().unwrap();
                match fault(now) {
                    Some("refuse") => problem(503, "unavailable"),
                    Some("stall") => {
                        stores(&log, seen, true);
                        None
                    }
                    _ => stores(&log, seen, false),
                }
            }
            _ => inner(seen),
        });
        let server = server.await;
        let temp = Temp::new(name);
        let asked = Enrollment {
            urls: vec![server.url.clone()],
            name: "pump-1".parse().unwrap(),
            token: ca.token(),
            ca_pem: None,
            tags: Vec::new(),
        };
        DeviceClient::enroll(StateDir::open(&temp.0).unwrap(), &asked, context()).await.unwrap();
        Self { _server: server, stored, temp, requests }
    }

    fn args(&self, rows: &str) -> ReplayArgs {
        let file = self.temp.0.join("file.csv");
        std::fs::write(&file, format!("timestamp,value\n{rows}")).unwrap();
        let state = self.temp.0.clone();
        ReplayArgs { file, state, batch: 500, patience_s: 30, from_start: false, url: Vec::new() }
    }

    fn stored(&self) -> usize {
        self.stored.lock().unwrap().len()
    }

    fn requests(&self) -> u32 {
        *self.requests.lock().unwrap()
    }
}

/// 100 rows; every time occurs twice with different values, and the first row three times in all.
fn rows() -> String {
    let row = |n: u32| format!("2013-12-02 21:{:02}:00,{n}\n", n / 2);
    (0..98).map(row).collect::<String>() + &row(0) + &row(0)
}

#[tokio::test]
async fn lost_answers_and_refusals_lose_and_double_nothing() {
    let fault = |n| match n % 3 {
        1 => Some("stall"),
        2 => Some("refuse"),
        _ => None,
    };
    let bench = Bench::new("replay-faults", fault).await;
    assert_eq!(run(bench.args(&rows()), context()).await.unwrap(), ExitCode::SUCCESS);
    assert_eq!(bench.stored(), 100, "as many readings as rows");
    let before = bench.requests();
    assert_eq!(run(bench.args(&rows()), context()).await.unwrap(), ExitCode::SUCCESS);
    assert_eq!(bench.requests(), before, "all of it was acknowledged: nothing is sent");
    let again = ReplayArgs { from_start: true, ..bench.args(&rows()) };
    assert_eq!(run(again, context()).await.unwrap(), ExitCode::SUCCESS);
    assert_eq!(bench.stored(), 100);
}

#[tokio::test]
async fn a_replay_that_is_stopped_goes_on_where_it_was_acknowledged() {
    // The third batch is stored, its answer is lost, and then the service is away until the replay has given up.
    let fault = |n| match n {
        3 => Some("stall"),
        4..=8 => Some("refuse"),
        _ => None,
    };
    let bench = Bench::new("replay-stop", fault).await;
    let hasty = ReplayArgs { patience_s: 0, ..bench.args(&rows()) };
    let error = run(hasty, context()).await.unwrap_err();
    assert!(format!("{error:#}").contains("start again"), "{error:#}");
    assert_eq!((bench.stored(), bench.requests()), (60, 8));

    assert_eq!(run(bench.args(&rows()), context()).await.unwrap(), ExitCode::SUCCESS);
    assert_eq!((bench.stored(), bench.requests()), (100, 11), "three batches were left");
    let state = StateDir::open(&bench.temp.0).unwrap();
    let file = CsvFile::check(&bench.temp.0.join("file.csv")).unwrap();
    let device = state.load().unwrap().unwrap().record.device.id;
    let progress = ProgressFile::new(&state, file.sha256(), device).unwrap().load().unwrap();
    assert_eq!(progress, Progress { rows: 100, stored: 80, duplicates: 20, rejected: 0 });
}

#[tokio::test]
async fn rejected_rows_are_a_failure_also_in_the_next_run() {
    let bench = Bench::new("replay-rejected", |_| None).await;
    let rows = "2013-12-02 21:15:00,1\n2013-12-02 21:16:00,-1\n";
    assert_eq!(run(bench.args(rows), context()).await.unwrap(), ExitCode::from(2));
    assert_eq!(bench.stored(), 1);
    assert_eq!(run(bench.args(rows), context()).await.unwrap(), ExitCode::from(2));
}
