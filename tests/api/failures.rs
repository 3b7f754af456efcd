//! Callers who fail to prove who they are, again and again: they are held up, and their neighbours are not.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::app::{HTTP_1, Identity, TestApp, csr_of, eventually, reading};
use crate::support::TestCluster;
use crate::wire::{Answer, Ask, Wire};

const SETTINGS: &str = "[devices]\nproxy_peers = [\"127.0.0.0/8\"]\nunverified_requests_max = 1000\n\
                        [admin]\nproxy_peers = [\"127.0.0.0/8\"]\n\
                        [admission]\nfailures_per_address = 5\nfailures_per_token = 8\nfailures_window_s = 3600\n";

/// What a load balancer says of its caller: version 2, PROXY, TCP (proxy-protocol.txt, 2.2).
fn proxied(source: IpAddr) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21".to_vec();
    let (family, addresses) = match source {
        IpAddr::V4(v4) => (0x11, [v4.octets(), [127, 0, 0, 1]].concat()),
        IpAddr::V6(v6) => (0x21, [v6.octets(), v6.octets()].concat()),
    };
    header.push(family);
    header.extend(u16::try_from(addresses.len() + 4).unwrap().to_be_bytes());
    header.extend(addresses);
    header.extend([0x30, 0x39, 0x20, 0xfb]);
    header
}

/// A listener of the test's replica, seen from these addresses.
struct Door<'a>(&'a TestApp, SocketAddr);

impl Door<'_> {
    async fn connect(&self, source: &str, identity: Option<&Identity>) -> Wire {
        Wire::behind(self.1, &proxied(source.parse().unwrap()), self.0.tls(identity, HTTP_1)).await
    }

    async fn call(&self, source: &str, ask: &Ask) -> Answer {
        self.connect(source, None).await.call(ask).await
    }
}

async fn started(extra: &str) -> TestApp {
    let app = TestApp::starting(&format!("{SETTINGS}{extra}")).await;
    let admin = Door(&app, app.replica.running.admin_addr);
    let ask = Ask::post("/v1/fleets").bearer(&app.admin).json(&json!({"name": "pumps"}));
    admin.call("203.0.113.1", &ask).await.ok(201);
    app
}

async fn token(app: &TestApp) -> String {
    let admin = Door(app, app.replica.running.admin_addr);
    let asked = json!({"fleet": "pumps", "uses_max": 1000});
    let made = admin.call("203.0.113.1", &Ask::post("/v1/enrollment-tokens").bearer(&app.admin).json(&asked)).await;
    made.ok(201)["token"].as_str().unwrap().to_owned()
}

fn enrolling(token: &str, name: &str) -> Ask {
    let key = rcgen::KeyPair::generate().unwrap();
    Ask::post("/v1/enroll").json(&json!({"token": token, "name": name, "csr": csr_of(&key)}))
}

/// One that nobody made.
fn made_up() -> String {
    format!("ebt_{}_{}_{}", &Uuid::new_v4().simple().to_string()[..16], "0".repeat(64), "0".repeat(32))
}

/// The same token with another secret.
fn forged(token: &str) -> String {
    let parts: Vec<&str> = token.split('_').collect();
    format!("ebt_{}_{}_{}", parts[1], "0".repeat(64), parts[3])
}

fn held_up(answer: &Answer, limit: &str) -> Value {
    let problem = answer.refused(429, "rate-limited");
    assert_eq!(problem["limit"], limit, "{problem}");
    problem
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_fails_to_enroll_is_held_up_and_its_neighbours_are_not() {
    let app = started("").await;
    let token = token(&app).await;
    let devices = Door(&app, app.replica.running.device_addr);
    let bad = "192.0.2.7";
    // Success is no attempt that failed, however often.
    let key = rcgen::KeyPair::generate().unwrap();
    let ask = Ask::post("/v1/enroll").json(&json!({"token": token, "name": "pump-1", "csr": csr_of(&key)}));
    for _ in 0..6 {
        devices.call(bad, &ask).await.ok(201);
    }
    let identity = Identity::of(&devices.call(bad, &ask).await.ok(201), key);
    for kind in [made_up(), "no token at all".to_owned(), forged(&token), made_up(), made_up()] {
        devices.call(bad, &enrolling(&kind, "pump-2")).await.refused(401, "enrollment-token-invalid");
    }
    // Nothing is looked at: the answer does not wait for a table that nobody can read.
    let (owner, _connection) = TestCluster::shared().owner(&app.database.database).await;
    owner.batch_execute("begin; lock table enrollment_tokens, devices in access exclusive mode").await.unwrap();
    let answer = devices.call(bad, &enrolling(&token, "pump-2")).await;
    let problem = held_up(&answer, "failures_per_address");
    assert!(problem["retry_after_ms"].as_u64().unwrap() > 60_000, "an hour for five: {problem}");
    assert!(!answer.text().contains(&token), "no echo");
    owner.batch_execute("rollback").await.unwrap();

    // Behind the same address a device with a certificate is served, also if its access token is not good.
    let mut wire = devices.connect(bad, Some(&identity)).await;
    let access = wire.call(&Ask::post("/v1/token")).await.ok(200)["access_token"].as_str().unwrap().to_owned();
    wire.call(&Ask::post("/v1/heartbeat").bearer(&access)).await.ok(200);
    for _ in 0..8 {
        wire.call(&Ask::get("/v1/me").bearer("x.y.z")).await.refused(401, "token-invalid");
    }
    wire.call(&Ask::post("/v1/readings").bearer(&access).json(&reading())).await.ok(200);
    wire.call(&Ask::post("/v1/renew").json(&json!({"csr": csr_of(&identity.key)}))).await.ok(200);
    assert_eq!(devices.call(bad, &Ask::get("/v1/ca")).await.status, 200);
    // And so is everybody elsewhere.
    devices.call("192.0.2.8", &enrolling(&token, "pump-3")).await.ok(201);

    // A network of IPv6 is one caller.
    for host in 1..=5 {
        let source = format!("2001:db8:7:7::{host}");
        devices.call(&source, &enrolling(&made_up(), "pump-4")).await.refused(401, "enrollment-token-invalid");
    }
    held_up(&devices.call("2001:db8:7:7:ffff::9", &enrolling(&token, "pump-4")).await, "failures_per_address");
    devices.call("2001:db8:7:8::9", &enrolling(&token, "pump-4")).await.ok(201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_guessed_at_from_everywhere_is_held_up() {
    let app = started("").await;
    let (guessed, other) = (token(&app).await, token(&app).await);
    let devices = Door(&app, app.replica.running.device_addr);
    for n in 1..=8 {
        let source = format!("192.0.2.{n}");
        devices.call(&source, &enrolling(&forged(&guessed), "pump-1")).await.refused(401, "enrollment-token-invalid");
    }
    held_up(&devices.call("192.0.2.99", &enrolling(&forged(&guessed), "pump-1")).await, "failures_per_token");
    // The right secret is not looked at either; another token is.
    held_up(&devices.call("192.0.2.99", &enrolling(&guessed, "pump-1")).await, "failures_per_token");
    devices.call("192.0.2.99", &enrolling(&other, "pump-1")).await.ok(201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_who_is_known_works_on_beside_one_who_guesses() {
    let app = started("").await;
    let admin = Door(&app, app.replica.running.admin_addr);
    let fresh = app.mint("anna").await;
    let whoami = |token: &str| Ask::get("/v1/whoami").bearer(token);
    for n in 0..5 {
        admin.call("192.0.2.7", &whoami(&format!("x.{n}.z"))).await.refused(401, "token-invalid");
    }
    held_up(&admin.call("192.0.2.7", &whoami("x.6.z")).await, "failures_per_address");
    // Known here from before; nobody's signature; and good, but from here that was never shown.
    admin.call("192.0.2.7", &whoami(&app.admin)).await.ok(200);
    admin.call("192.0.2.7", &Ask::get("/v1/whoami")).await.refused(401, "token-required");
    held_up(&admin.call("192.0.2.7", &whoami(&fresh)).await, "failures_per_address");
    admin.call("192.0.2.8", &whoami(&fresh)).await.ok(200);
    admin.call("192.0.2.7", &whoami(&fresh)).await.ok(200);
    // The count is of addresses, whichever the listener.
    let devices = Door(&app, app.replica.running.device_addr);
    held_up(&devices.call("192.0.2.7", &enrolling(&made_up(), "pump-1")).await, "failures_per_address");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_addresses_fill_no_memory() {
    let app = started("failures_callers_max = 20\n").await;
    let devices = Door(&app, app.replica.running.device_addr);
    for n in 0..150 {
        let source = format!("198.51.100.{n}");
        devices.call(&source, &enrolling(&made_up(), "pump-1")).await.refused(401, "enrollment-token-invalid");
    }
    // The gauge is the process's: other replicas in it remember nobody, and say so.
    let mut most = 0.0_f64;
    eventually(Duration::from_secs(20), async || {
        let text = app.connect_ops().await.call(&Ask::get("/metrics")).await.text();
        for by in ["address", "enrollment_token"] {
            let series = format!("everbeat_admission_failing_callers{{by=\"{by}\"}} ");
            let value = text.lines().find_map(|line| line.strip_prefix(&series)?.parse::<f64>().ok());
            most = most.max(value.unwrap_or(0.0));
        }
        most > 0.0
    })
    .await;
    assert!(most <= 20.0, "{most} are remembered");
}

/// A client of HTTP Basic may ask for the challenge first (RFC 7235, 2.1).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn asking_for_the_challenge_of_est_is_no_failure() {
    let app = started("").await;
    let (door, from) = (Door(&app, app.replica.running.device_addr), "203.0.113.7");
    let token = token(&app).await;
    let ask = || Ask::post("/.well-known/est/simpleenroll").bytes("application/pkcs10", "");
    for _ in 0..10 {
        assert_eq!(door.call(from, &ask()).await.status, 401);
    }
    door.call(from, &enrolling(&token, "pump-1")).await.ok(201);
    let tried = || ask().header("Authorization", "Basic eDp5");
    for _ in 0..5 {
        assert_eq!(door.call(from, &tried()).await.status, 401);
    }
    assert_eq!(door.call(from, &tried()).await.status, 429);
}
