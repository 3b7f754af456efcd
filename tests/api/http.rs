//! What every answer has, and the answers that no handler gives.

use std::time::Duration;

use everbeat::http::{Dialect, table};
use everbeat::observe::net::Port;
use serde_json::json;
use uuid::Uuid;

use crate::app::{TestApp, eventually, reading};
use crate::support::TestCluster;
use crate::wire::Ask;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paths_methods_and_media_types() {
    let app = TestApp::new().await;
    let mut device = app.enroll("pump-1").await;
    let mut admin = app.connect_admin().await;
    for path in ["/", "/v1", "/v1/", "/v2/readings", "/v1/readings/", "//v1/readings", "/v1/readings/..", "/metrics"] {
        device.call(&Ask::get(path)).await.refused(404, "not-found");
        admin.call(&Ask::get(path).bearer(&app.admin)).await.refused(404, "not-found");
    }
    // What one listener has, the other has not.
    device.call(&Ask::get("/v1/devices").bearer(&app.admin)).await.refused(404, "not-found");
    admin.call(&Ask::get("/v1/ca")).await.refused(404, "not-found");
    for path in ["/v1/devices/nonsense", "/v1/devices/name:pumps", "/v1/certificates/00", "/v1/fleets/%00"] {
        admin.call(&Ask::get(path).bearer(&app.admin)).await.refused(404, "not-found");
    }

    for (method, path, allow) in [
        ("GET", "/v1/readings", "POST"),
        ("DELETE", "/v1/heartbeat", "POST"),
        ("POST", "/v1/me", "GET,HEAD"),
        ("BREW", "/v1/token", "POST"),
    ] {
        let answer = device.call(&Ask::of(method, path)).await;
        answer.refused(405, "method-not-allowed");
        assert_eq!(
            answer.header("allow").map(|value| value.replace(' ', "")).as_deref(),
            Some(allow),
            "{method} {path}"
        );
    }

    for media in ["text/plain", "application/xml", "application/jsonx", "multipart/form-data"] {
        let ask = device.post("/v1/readings").bytes(media, reading().to_string());
        let answer = device.call(&ask).await;
        let problem = answer.refused(415, "unsupported-media-type");
        assert!(problem["detail"].as_str().unwrap().contains("application/x-ndjson"), "{problem}");
        assert!(answer.header("accept").is_some_and(|value| value.contains("application/json")), "RFC 9110, 15.5.16");
    }
    let mut untyped = device.post("/v1/readings");
    untyped.body = reading().to_string().into_bytes();
    device.call(&untyped).await.refused(415, "unsupported-media-type");
    device.call(&device_heartbeat(&device.token, "text/plain")).await.refused(415, "unsupported-media-type");

    let picky = |accept: &str| Ask::get("/v1/me").bearer(&device.token).header("Accept", accept);
    let (html, any, none) = (picky("text/html"), picky("text/html, */*;q=0.1"), picky("application/json;q=0"));
    let problem = device.call(&html).await.refused(406, "not-acceptable");
    assert!(problem["detail"].as_str().unwrap().contains("application/json"), "{problem}");
    device.call(&none).await.refused(406, "not-acceptable");
    device.call(&any).await.ok(200);
    app.still_serves("odd requests").await;
}

fn device_heartbeat(token: &str, media: &str) -> Ask {
    Ask::post("/v1/heartbeat").bearer(token).bytes(media, "hello")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_route_takes_a_parameter_that_it_does_not_have() {
    let app = TestApp::new().await;
    let device = app.enroll("pump-1").await;
    let mut admin = app.connect_admin().await;
    let mut asked = 0;
    for info in table().into_iter().filter(|info| info.port != Port::Ops) {
        let path = info.path.replace("{device}", &device.identity.device.to_string());
        let path = path
            .replace("{fleet}", "pumps")
            .replace("{token_id}", "aaaaaaaa")
            .replace("{fingerprint}", &"0".repeat(64));
        assert!(!path.contains('{'), "{path}");
        for (query, named) in [("limit=5&nonsense=1", "?nonsense"), ("nonsense=1&nonsense=2", "?nonsense")] {
            let ask = Ask::of(info.method.as_str(), &format!("{path}?{query}"));
            let answer = match info.port {
                Port::Admin => admin.call(&ask.bearer(&app.admin)).await,
                // Unverified connections serve few requests, and callers with certificates are more than welcome.
                _ => app.connect(Some(&device.identity)).await.call(&ask.bearer(&device.token)).await,
            };
            asked += 1;
            if info.dialect == Dialect::Est {
                assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"), "{path}");
                let text = answer.text();
                assert!(answer.status == 400 && text.starts_with("A field is not valid"), "{path}: {text}");
                assert!(!text.contains("nonsense"), "{path}: {text}");
                continue;
            }
            let problem = answer.refused(400, "invalid");
            let pointers: Vec<&str> =
                problem["errors"].as_array().unwrap().iter().map(|error| error["pointer"].as_str().unwrap()).collect();
            let named = if info.has_secrets { "?" } else { named };
            assert!(pointers.contains(&named), "{path}: {problem}");
            assert!(!info.has_secrets || !answer.text().contains("nonsense"), "{path}: {}", answer.text());
        }
    }
    assert!(asked > 40, "{asked}");
    // Percent signs and the like, and a query with nothing in it.
    let mut wire = app.connect(Some(&device.identity)).await;
    wire.call(&Ask::get("/v1/ca?a=%zz")).await.refused(400, "invalid");
    assert_eq!(wire.call(&Ask::get("/v1/ca?")).await.status, 200);
    // Who calls is asked first: a token does not count in a query, whatever else is wrong with it there.
    wire.call(&Ask::get("/v1/me?access_token=x")).await.refused(401, "token-required");
    // Probes and scrapers send what they like.
    assert_eq!(app.connect_ops().await.call(&Ask::get("/livez?nonsense=1")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_has_its_requests_id() {
    let app = TestApp::new().await;
    let mut device = app.enroll("pump-1").await;
    let me = Ask::get("/v1/me").bearer(&device.token);
    let asks = [me, Ask::get("/v1/me"), Ask::get("/nowhere"), Ask::get("/v1/readings"), Ask::post("/v1/enroll")];
    for ask in &asks {
        let answer = device.call(&ask.clone().header("X-Request-Id", "my-id_1.2")).await;
        assert_eq!(answer.header("x-request-id"), Some("my-id_1.2"), "{ask:?}");
        let made = device.call(ask).await;
        let made: Uuid = made.header("x-request-id").unwrap().parse().unwrap();
        assert_eq!(made.get_version_num(), 7, "{ask:?}");
    }
    let long = "x".repeat(65);
    for insane in ["", "a b", "<script>", "a\"b", &long, "a/b"] {
        let answer = device.call(&asks[1].clone().header("X-Request-Id", insane)).await;
        let id = answer.header("x-request-id").unwrap();
        assert!(id.parse::<Uuid>().is_ok(), "{insane} became {id}");
    }
    // Also on the admin listener and the ops listener.
    app.connect_admin().await.call(&asks[2]).await.refused(404, "not-found");
    app.connect_ops().await.call(&asks[2]).await.refused(404, "not-found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn header_sections_that_are_too_large_or_broken() {
    let app = TestApp::new().await;
    let mut device = app.enroll("pump-1").await;
    let large = Ask::get("/v1/me").header("X-Filler", &"x".repeat(1 << 20));
    let _ = device.wire.try_send(&large.encode()).await;
    if let Some(answer) = device.wire.try_answer().await {
        assert_eq!(answer.status, 431, "{}", answer.text());
    }
    for broken in
        ["GET\r\n\r\n", "GET /v1/me HTTP/9.9\r\n\r\n", "\0\0\0\0\r\n\r\n", "GET /v1/me HTTP/1.1\r\nA B: c\r\n\r\n"]
    {
        let mut wire = app.connect(Some(&device.identity)).await;
        wire.send(broken.as_bytes()).await;
        if let Some(answer) = wire.try_answer().await {
            assert_eq!(answer.status, 400, "{broken:?}: {}", answer.text());
        }
        app.still_serves(broken).await;
    }
    // Two framings of one body: whichever is taken, the rest is never a second request.
    let both = "POST /v1/heartbeat HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n\
                0\r\n\r\nGET /v1/ca HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut wire = app.connect(Some(&device.identity)).await;
    wire.send(both.as_bytes()).await;
    let first = wire.answer().await;
    assert!(matches!(first.status, 400 | 401), "{}", first.text());
    app.still_serves("two framings").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_never_ends_is_given_up() {
    let app = TestApp::with("[http]\nbody_deadline_ms = 300\n").await;
    let device = app.enroll("pump-1").await;
    for framing in [("Content-Length", "100"), ("Transfer-Encoding", "chunked")] {
        let mut wire = app.connect(Some(&device.identity)).await;
        let head = device.post("/v1/readings").header("Content-Type", "application/json").header(framing.0, framing.1);
        wire.send(&head.head_only()).await;
        wire.send(if framing.0 == "Content-Length" { b"{" } else { b"1\r\n{\r\n" }).await;
        let answer = wire.answer().await;
        assert!(answer.refused(408, "body-timeout")["detail"].as_str().unwrap().contains("300 ms"));
        assert_eq!(answer.header("connection"), Some("close"));
        app.still_serves("a slow body").await;
    }
    // Cut in the middle: nothing is stored of it.
    let mut wire = app.connect(Some(&device.identity)).await;
    let head =
        device.post("/v1/readings").header("Content-Type", "application/x-ndjson").header("Content-Length", "9999");
    wire.send(&head.head_only()).await;
    wire.send(format!("{}\n", reading()).as_bytes()).await;
    drop(wire);
    app.still_serves("half a body").await;
    let sql = format!("select count(*) from readings where device_id = '{}'", device.identity.device);
    assert_eq!(app.count(&sql).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_database_the_service_says_when_to_come_again() {
    let app = TestApp::new().await;
    let mut device = app.enroll("pump-1").await;
    device.store(&reading()).await.ok(200);
    let cluster = TestCluster::shared();
    let name = &app.database.database;
    let close = format!(
        "alter database {name} allow_connections false;
         select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}'"
    );
    cluster.owner_batch("postgres", &close).await;
    let sent = reading();
    let mut slugs = Vec::new();
    for _ in 0..5 {
        // A replica that is blind for long asks its devices to leave.
        device.reconnect(&app).await;
        let answer = device.store(&sent).await;
        let problem = answer.json();
        let slug = problem["type"].as_str().unwrap().rsplit(':').next().unwrap().to_owned();
        answer.refused(503, &slug);
        let (pause, ms) = (answer.header("retry-after").unwrap(), problem["retry_after_ms"].as_u64().unwrap());
        assert!(pause.parse::<u64>().unwrap() * 1_000 >= ms && ms > 0, "{problem}");
        slugs.push(slug);
    }
    assert!(slugs.iter().all(|slug| ["unavailable", "outcome-unknown"].contains(&slug.as_str())), "{slugs:?}");
    // Never "not found" nor "unauthorized": devices would enroll again.
    let unknown = app.issue(Uuid::now_v7(), crate::app::now(), Duration::from_hours(1));
    app.connect(Some(&unknown)).await.call(&Ask::post("/v1/token")).await.refused(503, "unavailable");
    let enrollment = json!({"token": app.token, "name": "pump-2", "csr": crate::app::csr_of(&unknown.key)});
    app.connect(None).await.call(&Ask::post("/v1/enroll").json(&enrollment)).await.refused(503, "unavailable");
    let missing = format!("/v1/devices/{}", Uuid::now_v7());
    app.connect_admin().await.call(&Ask::get(&missing).bearer(&app.admin)).await.refused(503, "unavailable");
    eventually(Duration::from_secs(15), async || {
        app.connect_ops().await.call(&Ask::get("/readyz")).await.status == 503
    })
    .await;
    assert_eq!(app.connect_ops().await.call(&Ask::get("/livez")).await.status, 200, "a restart would not help");

    cluster.owner_batch("postgres", &format!("alter database {name} allow_connections true")).await;
    eventually(Duration::from_secs(20), async || {
        device.reconnect(&app).await;
        device.store(&sent).await.status == 200
    })
    .await;
    let sql = format!("select count(*) from readings where device_id = '{}'", device.identity.device);
    assert_eq!(app.count(&sql).await, 2, "what was sent seven times is stored once");
    eventually(Duration::from_secs(20), async || {
        app.connect_ops().await.call(&Ask::get("/readyz")).await.status == 200
    })
    .await;
    app.still_serves("an outage").await;
}
