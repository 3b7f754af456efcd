//! HTTP/1.1 that is slow, ambiguous, or too much.

use std::time::Duration;

use futures_util::future::join_all;

use crate::app::{Caller, Identity, TestApp};
use crate::honest::undisturbed;
use crate::wire::{Answer, Ask, Wire};

/// What an attacker wants to be taken for a request of its own.
const SMUGGLED: &str = "GET /v1/ca HTTP/1.1\r\nHost: x\r\n\r\n";

/// Sends these bytes on a connection of the device's; every answer until the other side closes it.
async fn answers(app: &TestApp, device: &Caller, bytes: &[u8]) -> Vec<Answer> {
    let mut wire = app.connect(Some(&device.identity)).await;
    let _ = wire.try_send(bytes).await;
    let mut answers = Vec::new();
    while let Some(answer) = wire.try_answer().await {
        answers.push(answer);
    }
    answers
}

/// A request of the device's with header lines about its body, and what follows.
fn post(device: &Caller, headers: &str, body: &str) -> Vec<u8> {
    let token = &device.token;
    format!("POST /v1/heartbeat HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n{headers}\r\n\r\n{body}")
        .into_bytes()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_smuggled_in_the_body_of_another() {
    let app = TestApp::new().await;
    let device = app.enroll("pump-1").await;
    let last_chunk = format!("0\r\n\r\n{SMUGGLED}");
    let in_a_chunk = format!("{:x}\r\n{SMUGGLED}\r\n0\r\n\r\n", SMUGGLED.len());
    let both = [
        ("Content-Length: 6\r\nTransfer-Encoding: chunked", &last_chunk, 200),
        ("Transfer-Encoding: chunked\r\nContent-Length: 6", &last_chunk, 200),
        ("Transfer-Encoding: chunked\r\nContent-Length: 4", &in_a_chunk, 415),
        ("Content-Length: 4\r\nTransfer-Encoding: chunked", &in_a_chunk, 415),
        ("Content-Length: 6\r\nContent-Length: 6\r\nTransfer-Encoding: chunked", &last_chunk, 200),
    ];
    let broken = [
        "Content-Length: 4\r\nContent-Length: 5",
        "Content-Length: 0\r\nContent-Length: 33",
        "Content-Length: 0, 33",
        "Content-Length: +0",
        "Content-Length: 0x0",
        "Content-Length: 0 0",
        "Content-Length: -1",
        "Content-Length: ",
        "Content-Length: 18446744073709551616",
        "Content-Length : 0",
        "Transfer-Encoding: identity",
        "Content-Length: 0\r\nTransfer-Encoding: identity",
        "Content-Length: 0\r\nTransfer-Encoding: xchunked",
        "Content-Length: 0\r\nTransfer-Encoding: chunked, identity",
        "Content-Length: 0\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Content-Length: 0\r\nTransfer-Encoding : chunked",
        "Content-Length: 0\r\nTransfer-Encoding: \u{b}chunked",
        "Content-Length: 0\r\nTransfer-Encoding: \"chunked\"",
        "Content-Length: 0\r\nTransfer-Encoding:\r\n chunked",
        "Content-Length: 0\r\n Transfer-Encoding: chunked",
        "Content-Length: 0\r\nX: y\rTransfer-Encoding: chunked",
        "Content-Length: 0\r\nTransfer-Encoding\0: chunked",
        "Content-Length: 0\r\nX: \0",
        "Content-Length: 0\r\nX: a\r\n b",
        "Content-Length: 0\r\n: y",
        "Content-Length: 0\r\nno colon",
    ];
    let attack = async {
        // RFC 9112, 6.1: the length is ignored, and the connection ends after the answer.
        for (headers, body, status) in both {
            let came = answers(&app, &device, &post(&device, headers, body)).await;
            let statuses: Vec<u16> = came.iter().map(|answer| answer.status).collect();
            assert_eq!(statuses, [status], "{headers}");
        }
        for headers in broken {
            let came = answers(&app, &device, &post(&device, headers, SMUGGLED)).await;
            let statuses: Vec<u16> = came.iter().map(|answer| answer.status).collect();
            assert_eq!(statuses, [400], "{headers:?}");
        }
        // Framed by HTTP/1.1, sent as 1.0, which has no chunks.
        let old = post(&device, "Transfer-Encoding: chunked", &last_chunk);
        let old = String::from_utf8(old).unwrap().replacen("HTTP/1.1", "HTTP/1.0", 1);
        assert_eq!(answers(&app, &device, old.as_bytes()).await[0].status, 400);
        // A body where none is expected is a body, and not the next request.
        let mut wire = app.connect(Some(&device.identity)).await;
        let body = format!("Content-Length: {}\r\n\r\n{SMUGGLED}", SMUGGLED.len());
        wire.send(format!("GET /v1/me HTTP/1.1\r\nHost: x\r\n{body}").as_bytes()).await;
        wire.answer().await.refused(401, "token-required");
        assert!(wire.call(&Ask::get("/nowhere")).await.status == 404, "the answer to what was asked");
    };
    undisturbed(&app, attack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_that_are_no_chunks() {
    let app = TestApp::new().await;
    let device = app.enroll("pump-1").await;
    let extension = "x".repeat(1_024);
    let cases = [
        ("0x2\r\n{}\r\n0\r\n\r\n".to_owned(), "a prefix"),
        ("-2\r\n{}\r\n0\r\n\r\n".to_owned(), "a sign"),
        ("2_\r\n{}\r\n0\r\n\r\n".to_owned(), "an underscore"),
        ("10000000000000002\r\n{}\r\n0\r\n\r\n".to_owned(), "more than 64 bits"),
        ("2\r\n{}0\r\n\r\n".to_owned(), "no end of the chunk"),
        ("2;a\nb\r\n{}\r\n0\r\n\r\n".to_owned(), "a line feed in an extension"),
        (format!("{}0\r\n\r\n", format!("1;{extension}\r\n \r\n").repeat(64)), "extensions of 64 KiB"),
        (format!("2\r\n{{}}\r\n0\r\nX: {}\r\n\r\n", "y".repeat(100_000)), "trailers of 100 kB"),
        (format!("2\r\n{{}}\r\n0\r\n{}\r\n", "X: y\r\n".repeat(5_000)), "5,000 trailers"),
    ];
    let attack = async {
        for (body, what) in cases {
            let headers = "Content-Type: application/json\r\nTransfer-Encoding: chunked";
            let came = answers(&app, &device, &post(&device, headers, &body)).await;
            let statuses: Vec<u16> = came.iter().map(|answer| answer.status).collect();
            assert_eq!(statuses, [400], "{what}");
        }
    };
    undisturbed(&app, attack).await;
    // Extensions within reason mean nothing (RFC 9112, 7.1.1).
    let headers = "Connection: close\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked";
    let came = answers(&app, &device, &post(&device, headers, "2;a=b;c=\"d\"\r\n{}\r\n0\r\n\r\n")).await;
    assert_eq!(came[0].status, 200, "{}", came[0].text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn header_sections_of_ten_megabytes() {
    let app = TestApp::new().await;
    let device = app.enroll("pump-1").await;
    let mega = 10 << 20;
    let cases = [
        ("one value", format!("GET /v1/me HTTP/1.1\r\nHost: x\r\nX: {}", "y".repeat(mega))),
        ("many headers", format!("GET /v1/me HTTP/1.1\r\nHost: x\r\n{}", "X-Y: z\r\n".repeat(mega / 8))),
        ("a name", format!("GET /v1/me HTTP/1.1\r\nHost: x\r\n{}", "X".repeat(mega))),
        ("the path", format!("GET /{}", "a/".repeat(mega / 2))),
        ("the method", "G".repeat(mega)),
        ("empty lines", "\r\n".repeat(mega / 2)),
    ];
    let attack = async {
        // Ten of each at once: none of them is kept.
        join_all(cases.iter().map(async |(what, bytes)| {
            let sent = (0..10).map(|_| answers(&app, &device, bytes.as_bytes()));
            for came in join_all(sent).await {
                // The rest is unread, so that the answer may be lost to a reset.
                let statuses: Vec<u16> = came.iter().map(|answer| answer.status).collect();
                assert!(statuses.is_empty() || matches!(statuses[..], [400 | 414 | 431]), "{what}: {statuses:?}");
            }
        }))
        .await;
    };
    undisturbed(&app, attack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_in_a_row_are_answered_in_their_order() {
    let app = TestApp::new().await;
    let device = app.enroll("pump-1").await;
    let token = &device.token;
    let attack = async {
        let mut wire = app.connect(Some(&device.identity)).await;
        let asks: Vec<u8> = (0..500)
            .flat_map(|n| Ask::get("/v1/me").bearer(token).header("X-Request-Id", &format!("n-{n}")).encode())
            .collect();
        wire.send(&asks).await;
        for n in 0..500 {
            let answer = wire.answer().await;
            assert_eq!((answer.status, answer.header("x-request-id")), (200, Some(format!("n-{n}").as_str())));
        }
        // Strangers get a few answers, and then the end.
        let mut wire = app.connect(None).await;
        let _ = wire.try_send(&Ask::get("/v1/me").encode().repeat(500)).await;
        let mut served = 0;
        while wire.try_answer().await.is_some() {
            served += 1;
        }
        assert!((1..100).contains(&served), "{served}");
    };
    undisturbed(&app, attack).await;
}

/// Who asks and never listens: what is not taken is not made, and the rest of what it asks is not read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_nobody_takes() {
    let app = TestApp::new().await;
    let device = app.enroll("pump-1").await;
    let asks = Ask::get("/openapi.json").encode().repeat(200);
    let attack = async {
        let mut wires = Vec::new();
        for _ in 0..20 {
            let mut wire = app.connect(Some(&device.identity)).await;
            let mut sent = 0;
            while sent < 64 << 20 {
                match tokio::time::timeout(Duration::from_millis(500), wire.try_send(&asks)).await {
                    Ok(Ok(())) => sent += asks.len(),
                    _ => break,
                }
            }
            assert!(sent < 32 << 20, "{sent} bytes of requests were taken, and no answer");
            wires.push(wire);
        }
    };
    undisturbed(&app, attack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_headers_and_slow_bodies_end_at_their_deadlines() {
    let settings = "[devices]\nfirst_request_deadline_ms = 3000\nunverified_connections_max = 200\n\
                    [http]\nbody_deadline_ms = 2000\n";
    let app = TestApp::with(settings).await;
    let devices = [app.enroll("pump-1").await, app.enroll("pump-2").await];
    let drip = async |wire: &mut Wire, first: Vec<u8>, then: &[u8]| {
        wire.send(&first).await;
        // A byte now and then, until nobody listens: the deadline is for all of it, and not for the next byte.
        while !wire.answers_within(Duration::from_millis(50)).await && !wire.has_ended().await {
            if wire.try_send(then).await.is_err() {
                break;
            }
        }
        wire.try_answer().await
    };
    let headers = async || {
        let mut wire = app.connect(None).await;
        drip(&mut wire, b"GET /v1/ca HTTP/1.1\r\nHost: x\r\nX: ".to_vec(), b"y").await
    };
    let bodies = async |device: &Caller| {
        let mut wire = app.connect(Some(&device.identity)).await;
        let head = device.post("/v1/readings").header("Content-Type", "application/json");
        drip(&mut wire, head.header("Content-Length", "65000").head_only(), b" ").await
    };
    let senders = devices.iter().flat_map(|device| [device; 30]);
    let attack = async { tokio::join!(join_all((0..60).map(|_| headers())), join_all(senders.map(&bodies))) };
    let (headers, bodies) = undisturbed(&app, attack).await;
    assert!(headers.iter().all(Option::is_none), "closed, without a word");
    for answer in bodies {
        answer.unwrap().refused(408, "body-timeout");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_do_not_come_take_nobody_elses_place() {
    // Twenty requests fill the service. Those of the slow ones wait for a minute.
    let settings = "[devices]\nunverified_connections_max = 200\nunverified_age_max_ms = 60000\n\
                    [http]\nbody_deadline_ms = 60000\n[admission]\nlimit_min = 20\nlimit_max = 40\nlimit_initial = 20\n";
    let app = TestApp::with(settings).await;
    let device = app.enroll("mad").await;
    let begins = async |identity: Option<&Identity>, ask: Ask| {
        let mut wire = app.connect(identity).await;
        let head = ask.header("Content-Type", "application/json").header("Content-Length", "2").head_only();
        wire.send(&head).await;
        // Until it waits, or was refused.
        let is_refused = wire.answers_within(Duration::from_millis(60)).await;
        (wire, is_refused)
    };
    let attack = async {
        for identity in [Some(&device.identity), None] {
            let ask = || identity.map_or_else(|| Ask::post("/v1/enroll"), |_| device.post("/v1/readings"));
            let mut held = Vec::new();
            for n in 0..32 {
                let (wire, is_refused) = begins(identity, ask()).await;
                assert!(!is_refused, "{n} wait");
                held.push(wire);
            }
            let (mut one_too_many, _) = begins(identity, ask()).await;
            let problem = one_too_many.answer().await.refused(429, "rate-limited");
            assert_eq!(problem["limit"], "slow_bodies_per_caller");
            // What comes in the end is read, and leaves its place to another.
            held[0].send(b"{}").await;
            assert_eq!(held[0].answer().await.status, if identity.is_some() { 422 } else { 400 });
            let (_wire, is_refused) = begins(identity, ask()).await;
            assert!(!is_refused);
        }
    };
    undisturbed(&app, attack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn targets_in_their_other_forms() {
    let app = TestApp::new().await;
    let device = app.enroll("pump-1").await;
    // RFC 9112, 3.2.2: the absolute form must be accepted; whom it names does not matter, for there is one service.
    let cases = [
        ("GET https://localhost/v1/ca HTTP/1.1\r\nHost: localhost\r\n", 200),
        ("GET http://elsewhere.example/v1/ca HTTP/1.1\r\nHost: localhost\r\n", 200),
        ("GET file:///etc/passwd HTTP/1.1\r\nHost: x\r\n", 400),
        ("GET v1/ca HTTP/1.1\r\nHost: x\r\n", 400),
        ("CONNECT localhost:22 HTTP/1.1\r\nHost: x\r\n", 404),
        ("OPTIONS * HTTP/1.1\r\nHost: x\r\n", 404),
        ("TRACE /v1/ca HTTP/1.1\r\nHost: x\r\n", 405),
        (
            "GET /v1/ca HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
            200,
        ),
        ("GET /v1/ca HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n", 200),
    ];
    let attack = async {
        for (head, status) in cases {
            let came = answers(&app, &device, format!("{head}Connection: close\r\n\r\n").as_bytes()).await;
            let statuses: Vec<u16> = came.iter().map(|answer| answer.status).collect();
            assert_eq!(statuses, [status], "{head}");
        }
    };
    undisturbed(&app, attack).await;
}

/// RFC 9112, 3.2: to somebody on the way, such a request may be for another host than to us.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_names_one_host() {
    let app = TestApp::new().await;
    let device = app.enroll("pump-1").await;
    let cases = [
        ("HTTP/1.1\r\n", 400),
        ("HTTP/1.1\r\nHost: a\r\nHost: b\r\n", 400),
        ("HTTP/1.1\r\nHost: a\r\nHost: a\r\n", 400),
        ("HTTP/1.1\r\nHost: a, b\r\n", 400),
        ("HTTP/1.1\r\nHost: user@a\r\n", 400),
        ("HTTP/1.1\r\nHost: a/b\r\n", 400),
        ("HTTP/1.1\r\nHost: localhost:8443\r\n", 200),
        ("HTTP/1.0\r\n", 200),
    ];
    let attack = async {
        for (head, status) in cases {
            let came = answers(&app, &device, format!("GET /v1/ca {head}Connection: close\r\n\r\n").as_bytes()).await;
            let statuses: Vec<u16> = came.iter().map(|answer| answer.status).collect();
            assert_eq!(statuses, [status], "{head}");
        }
    };
    undisturbed(&app, attack).await;
}
