//! What API.md promises of every call, asked of every row of the table of routes. Whatever comes back must be among the
//! answers that the row's description lists, with the headers that it requires.

use std::time::Duration;

use everbeat::http::openapi::document;
use everbeat::http::{Dialect, Method, Permission, RouteInfo, table};
use everbeat::observe::net::Port;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::app::{Caller, TestApp, eventually, hex, reading};
use crate::wire::{Answer, Ask, Wire};

pub const JSON: &str = "application/json";
const REQUEST_ID: &str = "contract_1.2-3";

pub struct Ground {
    pub app: TestApp,
    pub device: Caller,
    /// The public part of an enrollment token.
    token_id: String,
    documents: [Value; 2],
}

impl Ground {
    pub async fn new() -> Self {
        Self::with("").await
    }

    async fn with(settings: &str) -> Self {
        // This is not about how fast the machine is that tests.
        let patient = format!("[database]\nstatement_deadline_ms = 20000\n{settings}");
        let app = TestApp::with(&patient).await;
        let mut device = app.enroll("pump-1").await;
        device.store(&reading()).await.ok(200);
        let made = app.admin_post("/v1/enrollment-tokens", &json!({"fleet": "pumps"})).await.ok(201);
        let token_id = made["id"].as_str().unwrap().to_owned();
        Self { app, device, token_id, documents: [document(Port::Device), document(Port::Admin)] }
    }

    /// The route's path, for something that is there.
    fn path(&self, info: &RouteInfo) -> String {
        let path = info.path.replace("{device}", "name:pumps:pump-1").replace("{fleet}", "name:pumps");
        let print = hex(&self.device.identity.fingerprint);
        let path = path.replace("{fingerprint}", &print).replace("{token_id}", &self.token_id);
        assert!(!path.contains('{'), "{path}: teach this test the parameter");
        path
    }

    /// A request of a caller who may.
    pub fn ask(&self, info: &RouteInfo) -> Ask {
        self.ask_of(info, info.method.as_str(), &self.path(info))
    }

    fn ask_of(&self, info: &RouteInfo, method: &str, path: &str) -> Ask {
        let token = if info.port == Port::Admin { &self.app.admin } else { &self.device.token };
        Ask::of(method, path).bearer(token).header("X-Request-Id", REQUEST_ID)
    }

    async fn connect(&self, info: &RouteInfo) -> Wire {
        match info.port {
            Port::Admin => self.app.connect_admin().await,
            _ => self.app.connect(Some(&self.device.identity)).await,
        }
    }

    pub async fn call(&self, info: &RouteInfo, ask: &Ask) -> Answer {
        let answer = self.connect(info).await.call(ask).await;
        self.is_described(info, &answer);
        answer
    }

    /// The status is one of the operation's, and the headers that this answer must have are there.
    fn is_described(&self, info: &RouteInfo, answer: &Answer) {
        let place = format!("{} {}: {} {}", info.method.as_str(), info.path, answer.status, answer.text());
        assert_eq!(answer.header("x-request-id"), Some(REQUEST_ID), "{place}");
        let document = &self.documents[usize::from(info.port == Port::Admin)];
        let resolve = |value: &Value| match value["$ref"].as_str() {
            Some(reference) => document.pointer(&reference[1..]).unwrap().clone(),
            None => value.clone(),
        };
        let operation = &document["paths"][info.path][info.method.as_str().to_ascii_lowercase()];
        let described = resolve(&operation["responses"][answer.status.to_string()]);
        assert!(described.is_object(), "not described: {place}");
        for (name, header) in described["headers"].as_object().unwrap() {
            let is_there = answer.header(name).is_some();
            assert!(is_there || resolve(header)["required"] == json!(false), "{name} is missing: {place}");
        }
        if let Some(kind) = answer.header("content-type") {
            assert!(described["content"].get(kind).is_some(), "{kind} is not described: {place}");
        }
    }
}

/// The rows of the listeners that are an API whose errors are problems.
pub fn rows() -> Vec<RouteInfo> {
    table().into_iter().filter(|info| info.port != Port::Ops && info.dialect != Dialect::Est).collect()
}

fn takes_json(info: &RouteInfo) -> bool {
    info.takes.iter().any(|media| media.kind == JSON)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn methods() {
    let ground = Ground::new().await;
    let all = rows();
    for info in &all {
        let mut allowed: Vec<&str> = all
            .iter()
            .filter(|other| (other.port, other.path) == (info.port, info.path))
            .map(|other| other.method.as_str())
            .collect();
        if allowed.contains(&"GET") {
            allowed.push("HEAD");
        }
        allowed.sort_unstable();
        let path = ground.path(info);
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"] {
            if allowed.contains(&method) {
                continue;
            }
            let answer = ground.call(info, &ground.ask_of(info, method, &path)).await;
            answer.refused(405, "method-not-allowed");
            let named = answer.header("allow").unwrap().replace(' ', "");
            let mut named: Vec<&str> = named.split(',').collect();
            named.sort_unstable();
            assert_eq!(named, allowed, "{method} {path}");
        }
        // HEAD is GET without the body (RFC 9110, 9.3.2).
        if info.method == Method::Get {
            let full = ground.call(info, &ground.ask(info)).await;
            let head = ground.connect(info).await.head(&ground.ask_of(info, "HEAD", &path)).await;
            assert_eq!((head.status, head.header("content-type")), (200, full.header("content-type")), "{path}");
            assert_eq!(head.header("etag"), full.header("etag"), "{path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_asked_for() {
    let ground = Ground::new().await;
    for info in rows() {
        let naked = Ask::of(info.method.as_str(), &ground.path(&info)).header("X-Request-Id", REQUEST_ID);
        let garbage = naked.clone().bearer("garbage");
        let basic = naked.clone().header("Authorization", "Basic dXNlcjpwYXNz");
        match info.permission {
            Permission::Public => assert_eq!(ground.call(&info, &naked).await.status, 200, "{}", info.path),
            Permission::EnrollmentToken | Permission::Cert | Permission::CertMaybeExpired => {}
            Permission::CertAndToken | Permission::Operator(_) => {
                ground.call(&info, &naked).await.refused(401, "token-required");
                ground.call(&info, &garbage).await.refused(401, "token-invalid");
                assert_eq!(ground.call(&info, &basic).await.status, 401, "{}", info.path);
            }
        }
        if matches!(info.permission, Permission::Cert | Permission::CertMaybeExpired | Permission::CertAndToken) {
            let stranger = ground.app.connect(None).await.call(&ground.ask(&info)).await;
            stranger.refused(401, "certificate-required");
            ground.is_described(&info, &stranger);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn representations() {
    let ground = Ground::new().await;
    for info in rows() {
        if let Some(kind) = info.produces() {
            let answer = ground.call(&info, &ground.ask(&info).header("Accept", "image/png")).await;
            let problem = answer.refused(406, "not-acceptable");
            assert!(problem["detail"].as_str().unwrap().contains(kind), "{}: {problem}", info.path);
        }
        if info.takes.is_empty() {
            continue;
        }
        let typed = ground.call(&info, &ground.ask(&info).bytes("image/png", "x")).await;
        typed.refused(415, "unsupported-media-type");
        let taken = typed.header("accept").unwrap_or_default();
        assert!(info.takes.iter().all(|media| taken.contains(media.kind)), "{}: Accept: {taken}", info.path);
        let kind = info.takes[0].kind;
        for coding in ["br", "gzip, zstd"] {
            let coded = ground.ask(&info).bytes(kind, "{}").header("Content-Encoding", coding);
            let answer = ground.call(&info, &coded).await;
            answer.refused(415, "unsupported-media-type");
            assert_eq!(answer.header("accept-encoding"), Some("gzip, zstd"), "{}", info.path);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies() {
    let ground = Ground::with("[http]\nbody_deadline_ms = 300\n").await;
    for info in rows() {
        let long = ground.ask(&info).header("Content-Length", "100000000").head_only();
        let mut wire = ground.connect(&info).await;
        wire.send(&long).await;
        let answer = wire.answer().await;
        ground.is_described(&info, &answer);
        assert_eq!(answer.refused(413, "too-large")["limit"], "body_max_bytes", "{}", info.path);
        if info.takes.is_empty() {
            continue;
        }
        let kind = info.takes[0].kind;
        let slow = ground.ask(&info).header("Content-Type", kind).header("Content-Length", "10").head_only();
        let mut wire = ground.connect(&info).await;
        wire.send(&slow).await;
        wire.send(b"{").await;
        let answer = wire.answer().await;
        ground.is_described(&info, &answer);
        answer.refused(408, "body-timeout");
        for (coding, bytes) in [("gzip", "not gzip"), ("zstd", "not zstd")] {
            let coded = ground.ask(&info).bytes(kind, bytes).header("Content-Encoding", coding);
            ground.call(&info, &coded).await.refused(400, "malformed");
        }
        if takes_json(&info) {
            json_bodies(&ground, &info).await;
        }
    }
}

async fn json_bodies(ground: &Ground, info: &RouteInfo) {
    let deep = |n: usize| format!("{{\"surprise\":{}{}}}", "[".repeat(n), "]".repeat(n));
    let answer = ground.call(info, &ground.ask(info).bytes(JSON, r#"{"surprise": 1}"#)).await;
    if info.takes_readings {
        let rejected = answer.ok(422)["rejected"][0]["detail"].clone();
        assert!(rejected.as_str().unwrap().starts_with("/surprise: "), "{rejected}");
    } else {
        let pointer = answer.refused(400, "invalid")["errors"][0]["pointer"].clone();
        // Where secrets are sent, nothing of a request is repeated; otherwise the field is named.
        let is_quiet = matches!(info.permission, Permission::EnrollmentToken | Permission::CertMaybeExpired);
        assert_eq!(pointer, if is_quiet { "" } else { "/surprise" }, "{}", info.path);
        assert_eq!(ground.call(info, &ground.ask(info).bytes(JSON, "[]")).await.status, 400, "{}", info.path);
    }
    for broken in ["{", "{}{}", "\u{feff}{}", "nonsense", &deep(32), &deep(10_000)] {
        let answer = ground.call(info, &ground.ask(info).bytes(JSON, broken)).await;
        assert_eq!(answer.status, 400, "{}: {}", info.path, answer.text());
    }
    // NUL would be refused by the database.
    let nul = ground.call(info, &ground.ask(info).bytes(JSON, r#"{"reason": "\u0000"}"#)).await;
    assert!(matches!(nul.status, 400 | 422), "{}: {}", info.path, nul.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queries_and_pages() {
    let ground = Ground::new().await;
    // A cursor of a list that has more than one page.
    let events = rows().into_iter().find(|info| info.path == "/v1/events").unwrap();
    let mut foreign = None;
    eventually(Duration::from_secs(20), async || {
        // An event is shown once no older transaction is open.
        let first = ground.call(&events, &ground.ask_of(&events, "GET", "/v1/events?limit=1")).await.ok(200);
        foreign = first["next"].as_str().map(str::to_owned);
        foreign.is_some()
    })
    .await;
    let foreign = foreign.unwrap();
    let mut lists = 0;
    for info in rows() {
        let path = ground.path(&info);
        let ask = |query: &str| ground.ask_of(&info, info.method.as_str(), &format!("{path}?{query}"));
        for query in ["surprise=1", "surprise", "surprise=1&surprise=2"] {
            let problem = ground.call(&info, &ask(query)).await.refused(400, "invalid");
            let named = problem["errors"][0]["pointer"].as_str().unwrap();
            assert_eq!(named, if info.has_secrets { "?" } else { "?surprise" }, "{path}: {problem}");
        }
        if !info.query.iter().any(|parameter| parameter.name == "cursor") {
            continue;
        }
        lists += 1;
        for good in ["", "limit=1", "limit=1000"] {
            let page = ground.call(&info, &ask(good)).await.ok(200);
            assert!(page["items"].is_array() && page.get("next").is_some(), "{path}: {page}");
        }
        for bad in ["limit=0", "limit=1001", "limit=-1", "limit=x", "limit=", "limit=1&limit=1", "limit=99999999999"] {
            let problem = ground.call(&info, &ask(bad)).await.refused(400, "invalid");
            assert_eq!(problem["errors"][0]["pointer"], "?limit", "{path}?{bad}");
        }
        let long = format!("cursor={}", "A".repeat(5_000));
        for bad in ["cursor=", "cursor=x", "cursor=%C3%BC", "cursor=AAAAAAAAAAAAAAAA", long.as_str()] {
            ground.call(&info, &ask(bad)).await.refused(400, "bad-cursor");
        }
        let other = if info.path == "/v1/events" { "kind=device.&" } else { "" };
        ground.call(&info, &ask(&format!("{other}cursor={foreign}"))).await.refused(400, "bad-cursor");
    }
    assert!(lists >= 9, "{lists}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions() {
    let ground = Ground::new().await;
    let mut seen = 0;
    for info in rows().into_iter().filter(|info| info.has_versions) {
        seen += 1;
        let path = ground.path(&info);
        if info.method == Method::Get {
            let answer = ground.call(&info, &ground.ask(&info)).await;
            let tag = answer.header("etag").unwrap();
            assert!(tag.starts_with('"') && tag.ends_with('"') && tag.len() > 2, "{path}: {tag} is no strong tag");
            assert_eq!(answer.header("content-encoding"), None, "a coding would be another representation");
            continue;
        }
        let of = path.rsplit_once('/').unwrap().0;
        let current = ground.app.connect_admin().await.call(&Ask::get(of).bearer(&ground.app.admin)).await;
        let current = current.header("etag").unwrap().to_owned();
        let with = |tags: &str| ground.ask(&info).header("If-Match", tags);
        for stale in ["\"0\"", "\"0\", \"999\"", &format!("W/{current}"), "garbage", current.trim_matches('"')] {
            ground.call(&info, &with(stale)).await.refused(412, "precondition-failed");
        }
        let fresh = ground.call(&info, &with(&format!("\"0\", {current}"))).await;
        assert_eq!(fresh.status, 200, "{path}: {}", fresh.text());
        assert_eq!(ground.call(&info, &with("*")).await.status, 200, "{path}");
        assert_eq!(ground.call(&info, &ground.ask(&info)).await.status, 200, "{path}");
    }
    assert!(seen >= 4, "{seen}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idempotency_keys() {
    let ground = Ground::new().await;
    let mut seen = 0;
    for info in rows().into_iter().filter(|info| info.is_idempotent_by_key) {
        seen += 1;
        let [one, other] = match info.path {
            "/v1/fleets" => [json!({"name": "valves"}), json!({"name": "taps"})],
            "/v1/enrollment-tokens" => [json!({"fleet": "pumps"}), json!({"fleet": "pumps", "uses_max": 2})],
            path => panic!("{path}: teach this test a body"),
        };
        let ask = |key: &str, body: &Value| ground.ask(&info).header("Idempotency-Key", key).json(body);
        let key = Uuid::now_v7().to_string();
        let first = ground.call(&info, &ask(&key, &one)).await;
        let again = ground.call(&info, &ask(&key, &one)).await;
        assert_eq!((first.header("idempotency-replayed"), again.header("idempotency-replayed")), (None, Some("true")));
        let (first, again) = (first.ok(201), again.ok(201));
        assert_eq!(first["id"], again["id"], "{}", info.path);
        if info.has_secrets {
            assert!(first["token"].is_string() && again["token"].is_null(), "{again}");
            assert!(again["token_omitted"].is_string(), "the answer says what is missing: {again}");
        }
        ground.call(&info, &ask(&key, &other)).await.refused(409, "idempotency-conflict");
        for bad in ["", "a b", "\u{e4}", &"k".repeat(256)] {
            ground.call(&info, &ask(bad, &other)).await.refused(400, "malformed");
        }
        let twice = ask("a", &other).header("Idempotency-Key", "b");
        ground.call(&info, &twice).await.refused(400, "malformed");
    }
    assert!(seen >= 2, "{seen}");
}

/// Where errors are plain text. tests/api/est.rs says when which comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_est_is_spoken() {
    let ground = Ground::with("[http]\nbody_deadline_ms = 300\n").await;
    let in_words = |answer: &Answer, status: u16| {
        assert_eq!(answer.status, status, "{}", answer.text());
        assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
        assert!(answer.text().lines().count() > 1, "what is wrong, and what to do: {}", answer.text());
    };
    let mut seen = 0;
    for info in table().into_iter().filter(|info| info.dialect == Dialect::Est) {
        seen += 1;
        let path = ground.path(&info);
        let other = ground.call(&info, &ground.ask_of(&info, "DELETE", &path)).await;
        in_words(&other, 405);
        assert!(other.header("allow").unwrap().contains(info.method.as_str()), "{path}");
        let queried = ground.ask_of(&info, info.method.as_str(), &format!("{path}?surprise=1"));
        in_words(&ground.call(&info, &queried).await, 400);
        if info.produces().is_some() {
            in_words(&ground.call(&info, &ground.ask(&info).header("Accept", "image/png")).await, 406);
        }
        let long = ground.ask(&info).header("Content-Length", "100000000").head_only();
        let mut wire = ground.connect(&info).await;
        wire.send(&long).await;
        let answer = wire.answer().await;
        ground.is_described(&info, &answer);
        in_words(&answer, 413);
        if info.permission == Permission::CertMaybeExpired {
            in_words(&ground.call(&info, &ground.ask(&info).bytes("image/png", "x")).await, 415);
            in_words(&ground.app.connect(None).await.call(&ground.ask(&info)).await, 401);
        }
    }
    assert_eq!(seen, 4);
}
