//! Who is let in when not all can be, and what the others are told.

use std::time::Duration;

use serde_json::json;

use crate::app::{Caller, TestApp, eventually, reading};
use crate::support::TestCluster;
use crate::wire::{Answer, Ask};

const PATIENCE: Duration = Duration::from_secs(15);
/// Between the answer that tells a pause and the look at the clock.
const READING_IT: Duration = Duration::from_millis(100);

/// The name of the limit, and how long to wait by header and by body, on a connection that stays open.
fn refused(answer: &Answer, status: u16) -> (String, u64) {
    assert_eq!(answer.status, status, "{}", answer.text());
    assert_eq!(answer.header("connection"), None, "the connection is kept");
    let (problem, seconds) = (answer.json(), answer.header("retry-after").unwrap().parse::<u64>().unwrap());
    let ms = problem["retry_after_ms"].as_u64().unwrap();
    assert!(ms > 0 && seconds * 1_000 >= ms, "{problem}");
    (problem["limit"].as_str().unwrap().to_owned(), ms)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_sends_too_often_waits_and_its_neighbours_do_not() {
    let app = TestApp::with("[admission]\ndevice_requests_per_s = 2\ndevice_burst = 6\n").await;
    let (mut mad, mut calm) = (app.enroll("mad").await, app.enroll("calm").await);
    let beat = |caller: &Caller| caller.post("/v1/heartbeat");
    let mut served = 0;
    let answer = loop {
        let ask = beat(&mad);
        let answer = mad.call(&ask).await;
        assert_eq!(answer.header("ratelimit-policy").map(|text| &text[..16]), Some("\"device\";q=6;w=3"));
        if answer.status != 200 {
            break answer;
        }
        let left = answer.header("ratelimit").unwrap();
        assert!(left.starts_with("\"device\";r=") && !left.starts_with("\"device\";r=6"), "{left}");
        served += 1;
        assert!(served < 60, "nothing ever refuses it");
    };
    assert!(served >= 4, "the burst is served, less the request for the token: {served}");
    let (limit, ms) = refused(&answer, 429);
    assert!(answer.header("ratelimit").unwrap().starts_with("\"device\";r=0;t=1"), "{answer:?}");
    assert_eq!(
        (limit.as_str(), &answer.json()["type"]),
        ("device_requests_per_s", &json!("urn:everbeat:problem:rate-limited"))
    );
    let ask = beat(&calm);
    calm.call(&ask).await.ok(200);
    tokio::time::sleep(Duration::from_millis(ms)).await;
    let ask = beat(&mad);
    mad.call(&ask).await.ok(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_shows_tokens_that_are_no_good_spends_its_rate_all_the_same() {
    let app = TestApp::with("[admission]\ndevice_requests_per_s = 1\ndevice_burst = 6\n").await;
    let mut thief = app.enroll("thief").await;
    // Of the right key, and for each a signature has to be verified.
    let forged = |n: usize| format!("{}{n:04}", &thief.token[..thief.token.len() - 4]);
    let mut asks: Vec<_> = (0..40).map(|n| Ask::post("/v1/heartbeat").bearer(&forged(n))).collect();
    asks.push(Ask::post("/v1/heartbeat"));
    let answer = loop {
        let answer = thief.call(&asks.pop().expect("nothing ever refuses it")).await;
        if answer.status != 401 {
            break answer;
        }
    };
    assert_eq!(refused(&answer, 429).0, "device_requests_per_s");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_that_sends_too_often_waits_as_a_whole() {
    let app = TestApp::with("[admission]\nfleet_requests_per_s = 1\nfleet_burst = 8\n").await;
    let (mut one, mut other) = (app.enroll("one").await, app.enroll("other").await);
    let mut answers = Vec::new();
    for _ in 0..10 {
        answers.push(one.me().await);
        answers.push(other.me().await);
    }
    let refusals: Vec<&Answer> = answers.iter().filter(|answer| answer.status == 429).collect();
    assert!(refusals.len() >= 10, "{}", refusals.len());
    assert_eq!(refused(refusals[0], 429).0, "fleet_requests_per_s");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_refused_for_its_fleets_rate_is_not_silent() {
    let app = TestApp::with("[admission]\nfleet_requests_per_s = 1\nfleet_burst = 4\n").await;
    let mut device = app.enroll("one").await;
    let (owner, _connection) = TestCluster::shared().owner(&app.database.database).await;
    let last_seen = async || {
        let seen = "select coalesce(extract(epoch from last_seen), 0)::float8 from presence";
        owner.query_one(seen, &[]).await.unwrap().get::<_, f64>(0)
    };
    let now = "select extract(epoch from clock_timestamp())::float8";
    let beat = device.post("/v1/heartbeat");
    while device.call(&beat).await.status == 200 {}
    let before = owner.query_one(now, &[]).await.unwrap().get::<_, f64>(0);
    assert_eq!(device.call(&beat).await.status, 429, "the only one of it since then");
    eventually(PATIENCE, async || last_seen().await > before).await;
    // A goodbye that is repeated, since its answer was lost, is none.
    let goodbye = device.post("/v1/goodbye");
    eventually(PATIENCE, async || device.call(&goodbye).await.status != 429).await;
    while device.call(&goodbye).await.status != 429 {}
    tokio::time::sleep(Duration::from_millis(700)).await;
    let state = owner.query_one("select state from presence", &[]).await.unwrap();
    assert_eq!(state.get::<_, i16>(0), 3, "offline");
}

/// The value of a series, 0 while there is none.
async fn metric(app: &TestApp, series: &str) -> u64 {
    let metrics = app.connect_ops().await.call(&Ask::get("/metrics")).await.text();
    let line = metrics.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')));
    line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_without_room_sheds_like_everything_that_is_full() {
    let app = TestApp::with(
        "[ingest]\nitems_max = 1\ncommit_rows_max = 1\ncommits_in_flight_max = 1\nqueue_rows_max = 2\n\
         [database]\nstatement_deadline_ms = 20000\n[http]\nsubmit_deadline_ms = 20000\n",
    )
    .await;
    let mut callers = Vec::new();
    for n in 0..6 {
        callers.push(app.enroll(&format!("pump-{n}")).await);
    }
    let (owner, _connection) = TestCluster::shared().owner(&app.database.database).await;
    owner.batch_execute("begin; lock table readings in access exclusive mode").await.unwrap();
    let mut refusals = 0;
    for caller in &mut callers {
        let ask = caller.post("/v1/readings").json(&reading()).encode();
        caller.wire.send(&ask).await;
        if caller.wire.answers_within(Duration::from_millis(300)).await {
            let (limit, ms) = refused(&caller.wire.answer().await, 503);
            assert_eq!(limit, "readings_queue");
            // Of the calm service: twice of its least at most.
            assert!(ms <= 400, "{ms}");
            refusals += 1;
        }
    }
    owner.batch_execute("rollback").await.unwrap();
    assert_eq!(refusals, 3, "one is committed, two wait");
    let shed = "everbeat_admission_shed_total{class=\"readings\",stage=\"queue\"}";
    assert_eq!(metric(&app, shed).await, refusals);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_locked_table_few_wait_and_the_others_are_told_at_once() {
    let app = TestApp::with("[admission]\ndatabase_requests_max = 18\n").await;
    let mut device = app.enroll("one").await;
    let beat = device.post("/v1/heartbeat");
    // From now on its promise is known.
    device.call(&beat).await.ok(200);
    let (owner, _connection) = TestCluster::shared().owner(&app.database.database).await;
    owner.batch_execute("begin; lock table enrollment_tokens in access exclusive mode").await.unwrap();
    let mut wires = Vec::new();
    let wanted = json!({"fleet": "pumps"});
    for _ in 0..21 {
        let mut wire = app.connect_admin().await;
        wire.send(&Ask::post("/v1/enrollment-tokens").bearer(&app.admin).json(&wanted).encode()).await;
        wires.push(wire);
    }
    let shed = "everbeat_admission_shed_total{class=\"exchange\",stage=\"database\"}";
    eventually(PATIENCE, async || metric(&app, shed).await == 3).await;
    device.call(&beat).await.ok(200);
    owner.batch_execute("rollback").await.unwrap();
    let (mut made, mut told) = (0, 0);
    for mut wire in wires {
        let answer = wire.answer().await;
        made += usize::from(answer.status == 201);
        told += usize::from(answer.status == 503 && answer.json()["limit"] == "database_requests_max");
    }
    assert_eq!(told, 3, "of 21");
    assert!(made > 0, "who waited is served");
    eventually(PATIENCE, async || app.admin_post("/v1/enrollment-tokens", &wanted).await.status == 201).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_its_body_is_offered_once() {
    let app = TestApp::new().await;
    let mut caller = app.enroll("slow").await;
    let offered = "everbeat_admission_offered_total{class=\"readings\"}";
    let before = metric(&app, offered).await;
    let body = reading().to_string();
    let head = caller.post("/v1/readings").header("Content-Type", "application/json");
    caller.wire.send(&head.header("Content-Length", &body.len().to_string()).head_only()).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    caller.wire.send(body.as_bytes()).await;
    caller.wire.answer().await.ok(200);
    assert_eq!(metric(&app, offered).await, before + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_commits_stand_still_readings_are_shed_and_heartbeats_are_not() {
    // 8 of 20 are the share of readings; 6 more they may borrow from those below them.
    let app = TestApp::with(
        "[admission]\nlimit_min = 20\nlimit_max = 20\nlimit_initial = 20\n\
         [database]\nstatement_deadline_ms = 20000\n[http]\nsubmit_deadline_ms = 20000\n",
    )
    .await;
    let mut callers = Vec::new();
    for n in 0..16 {
        callers.push(app.enroll(&format!("pump-{n}")).await);
    }
    let mut alive = app.enroll("alive").await;
    let (owner, _connection) = TestCluster::shared().owner(&app.database.database).await;
    owner.batch_execute("begin; lock table readings in access exclusive mode").await.unwrap();
    for caller in &mut callers {
        let ask = caller.post("/v1/readings").json(&reading()).encode();
        caller.wire.send(&ask).await;
    }
    let mut answers = Vec::new();
    eventually(PATIENCE, async || {
        for (n, caller) in callers.iter_mut().enumerate() {
            if answers.iter().all(|(known, _)| *known != n)
                && caller.wire.answers_within(Duration::from_millis(5)).await
            {
                answers.push((n, caller.wire.answer().await));
            }
        }
        answers.len() >= 2
    })
    .await;
    for (n, answer) in &answers {
        assert_eq!(refused(answer, 503).0, "concurrency_readings");
        let (_, ms) = refused(&callers[*n].store(&reading()).await, 503);
        // Who does not stay away is answered when the pause is over, or after a second.
        let began = tokio::time::Instant::now();
        refused(&callers[*n].store(&reading()).await, 503);
        assert!(began.elapsed() + READING_IT >= Duration::from_millis(ms.min(1_000)), "{ms} ms");
    }
    let ask = alive.post("/v1/heartbeat");
    alive.call(&ask).await.ok(200);
    app.admin_get("/v1/fleets").await;
    assert_eq!(answers.len(), 2, "fourteen wait for their commit");

    owner.batch_execute("rollback").await.unwrap();
    for (n, caller) in callers.iter_mut().enumerate() {
        if answers.iter().all(|(known, _)| *known != n) {
            caller.wire.answer().await.ok(200);
        }
        // Whoever was refused is served on the same connection.
        assert_eq!(caller.store(&reading()).await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_is_a_number_of_milliseconds() {
    let app = TestApp::new().await;
    let mut caller = app.enroll("pump").await;
    for (deadline, status) in [("60000", 200), ("0", 400), ("-1", 400), ("soon", 400), ("1e3", 400)] {
        let ask = caller.post("/v1/readings").json(&reading()).header("x-request-deadline-ms", deadline);
        let answer = caller.call(&ask).await;
        assert_eq!(answer.status, status, "{deadline}: {}", answer.text());
    }
}
