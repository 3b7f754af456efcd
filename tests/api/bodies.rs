//! Bodies that are broken, too large, too deep, or not what they say.

use std::io::Write;
use std::time::Duration;

use everbeat::domain::time::rfc3339;
use serde_json::{Value, json};

use crate::app::{Caller, TestApp, csr_of, now, reading};
use crate::wire::{Answer, Ask};

const MIB: usize = 1 << 20;

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

async fn send(device: &mut Caller, media: &str, encoding: Option<&str>, body: impl Into<Vec<u8>>) -> Answer {
    let mut ask = device.post("/v1/readings").bytes(media, body);
    if let Some(encoding) = encoding {
        ask = ask.header("Content-Encoding", encoding);
    }
    device.call(&ask).await
}

async fn readings(device: &mut Caller, body: &str) -> Answer {
    send(device, "application/json", None, body).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_an_item_is_the_items_own() {
    let app = TestApp::new().await;
    let mut device = app.enroll("pump-1").await;
    let (past, future) = (rfc3339(now() - Duration::from_hours(401 * 24)), rfc3339(now() + Duration::from_hours(25)));
    let long = "x".repeat(1_025);
    let deep = format!("{}1{}", "[".repeat(20), "]".repeat(20));
    let cases = [
        (r#"{"values":{"a":1},"surprise":1}"#.to_owned(), "/surprise: unknown field"),
        (r#"{"values":{"a":null}}"#.to_owned(), "/values/a: "),
        (r#"{"values":{"a":{"b":1}}}"#.to_owned(), "/values/a: "),
        (format!(r#"{{"values":{{"a":{deep}}}}}"#), "/values/a: "),
        (r#"{"values":[1]}"#.to_owned(), "/values: "),
        (r#"{"values":{}}"#.to_owned(), "/values: must hold a metric"),
        (r"{}".to_owned(), "/values: is missing"),
        (r"[3]".to_owned(), "an object"),
        (r#"{"values":{"a":1e400}}"#.to_owned(), "/values/a: "),
        (r#"{"values":{"a":-1e400}}"#.to_owned(), "/values/a: "),
        (r#"{"values":{"a":"x\u0000y"}}"#.to_owned(), "/values/a: "),
        (r#"{"values":{"a\u0000":1}}"#.to_owned(), "/values/a\u{fffd}: "),
        (r#"{"id":"\u0000","values":{"a":1}}"#.to_owned(), "/id: "),
        (r#"{"id":7,"values":{"a":1}}"#.to_owned(), "/id: "),
        (r#"{"id":"","values":{"a":1}}"#.to_owned(), "/id: "),
        (r#"{"ts":"yesterday","values":{"a":1}}"#.to_owned(), "/ts: not an RFC 3339 time"),
        (r#"{"ts":true,"values":{"a":1}}"#.to_owned(), "/ts: "),
        (r#"{"ts":1.5,"values":{"a":1}}"#.to_owned(), "/ts: "),
        (r#"{"ts":99999999999999999999,"values":{"a":1}}"#.to_owned(), "/ts: "),
        (r#"{"ts":0,"values":{"a":1}}"#.to_owned(), "/ts: the time must lie between"),
        (format!(r#"{{"ts":"{past}","values":{{"a":1}}}}"#), "/ts: the time must lie between"),
        (format!(r#"{{"ts":"{future}","values":{{"a":1}}}}"#), "/ts: the time must lie between"),
        (r#"{"id":"00000000-0001-7000-8000-000000000000","values":{"a":1}}"#.to_owned(), "/id: the time must lie"),
        (format!(r#"{{"values":{{"a":"{long}"}}}}"#), "/values/a: "),
        (r#"{"values":{"a":1,"a":2}}"#.to_owned(), "/values/a: occurs twice"),
        (r#"{"values":{"a":1},"values":{"a":2}}"#.to_owned(), "/values: occurs twice"),
    ];
    for (item, help) in &cases {
        // Alone: understood, but nothing acceptable.
        let answer = readings(&mut device, item).await;
        assert_eq!((answer.status, answer.header("content-type")), (422, Some("application/json")), "{item}");
        let body = answer.json();
        assert_eq!((&body["stored"], &body["rejected_total"]), (&json!(0), &json!(1)), "{item}: {body}");
        let rejected = &body["rejected"][0];
        assert_eq!((&rejected["index"], &rejected["type"]), (&json!(0), &json!("invalid")), "{item}");
        assert!(rejected["detail"].as_str().unwrap().contains(help), "{item}: {rejected}");
    }
    // Among neighbours: they are stored.
    let items: Vec<String> = cases.iter().flat_map(|(item, _)| [reading().to_string(), item.clone()]).collect();
    let answer = readings(&mut device, &format!("[{}]", items.join(","))).await.ok(207);
    assert_eq!((&answer["stored"], &answer["rejected_total"]), (&json!(cases.len()), &json!(cases.len())));
    let indexes = answer["rejected"].as_array().unwrap().iter().map(|item| item["index"].as_u64().unwrap());
    assert!(indexes.eq((0..cases.len() as u64).map(|n| 2 * n + 1)), "{answer}");
    // As lines, each in its place.
    let answer = send(&mut device, "application/x-ndjson", None, items.join("\n")).await.ok(207);
    assert_eq!((&answer["duplicates"], &answer["rejected_total"]), (&json!(cases.len()), &json!(cases.len())));
    app.still_serves("bad items").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_are_broken_as_a_whole() {
    let app = TestApp::new().await;
    let mut device = app.enroll("pump-1").await;
    let good = reading().to_string();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", b"".to_vec()),
        ("half an object", b"{\"values\":".to_vec()),
        ("NaN", b"{\"values\":{\"a\":NaN}}".to_vec()),
        ("Infinity", b"{\"values\":{\"a\":Infinity}}".to_vec()),
        ("a raw NUL in a string", b"{\"values\":{\"a\":\"\0\"}}".to_vec()),
        ("bytes after the end", format!("{good}}}").into_bytes()),
        ("two values", format!("{good} {good}").into_bytes()),
        ("a number", b"17".to_vec()),
        ("not UTF-8", b"{\"values\":{\"a\":\"\xff\"}}".to_vec()),
        ("a byte order mark", format!("\u{feff}{good}").into_bytes()),
        ("half of a million brackets", "[".repeat(1_000_000).into_bytes()),
        ("a million brackets", format!("{}{}", "[".repeat(500_000), "]".repeat(500_000)).into_bytes()),
        ("many objects", "{\"a\":".repeat(200_000).into_bytes()),
    ];
    for (what, body) in cases {
        let answer = send(&mut device, "application/json", None, body).await;
        let problem = answer.refused(400, "malformed");
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("body") || detail.contains("bracket")));
        println!("{what}: {}", problem["detail"]);
        app.still_serves(what).await;
    }
    // Of NDJSON no line breaks another.
    let lines = format!("{}\n{good}\n{{broken", "[".repeat(900_000));
    let answer = send(&mut device, "application/x-ndjson", None, lines).await.ok(207);
    assert_eq!((&answer["stored"], &answer["rejected_total"]), (&json!(1), &json!(2)), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_of_other_shapes_are_refused_with_the_place() {
    let app = TestApp::new().await;
    let mut device = app.enroll("pump-1").await;
    let deep = format!("{{\"status\":{}{}}}", "[".repeat(30_000), "]".repeat(30_000));
    let cases = [
        ("/v1/heartbeat", r#"{"surprise":1}"#, 400, "invalid", "/surprise"),
        ("/v1/heartbeat", r#"{"seq":"1"}"#, 400, "invalid", "/seq"),
        ("/v1/heartbeat", r#"{"seq":-1}"#, 400, "invalid", "/seq"),
        ("/v1/heartbeat", r#"{"seq":1e400}"#, 400, "malformed", ""),
        ("/v1/heartbeat", r#"{"interval_s":0}"#, 400, "invalid", "/interval_s"),
        ("/v1/heartbeat", r#"{"interval_s":2592001}"#, 400, "invalid", "/interval_s"),
        ("/v1/heartbeat", r#"{"status":"a\u0000b"}"#, 400, "invalid", ""),
        // An array in place of an object is not the object's fields in their order.
        ("/v1/heartbeat", "[]", 400, "invalid", ""),
        ("/v1/heartbeat", " [1]", 400, "invalid", ""),
        ("/v1/enroll", r#"["token","name","csr"]"#, 400, "invalid", ""),
        ("/v1/heartbeat", "{", 400, "malformed", ""),
        ("/v1/heartbeat", "{}{}", 400, "malformed", ""),
        ("/v1/heartbeat", deep.as_str(), 400, "malformed", ""),
        ("/v1/goodbye", r#"{"back_at":"soon"}"#, 400, "invalid", "/back_at"),
        ("/v1/goodbye", r#"{"back_at":9223372036854775807}"#, 400, "invalid", "/back_at"),
        ("/v1/goodbye", r#"{"reason":7}"#, 400, "invalid", "/reason"),
        ("/v1/renew", r#"{"csr":7}"#, 400, "invalid", "/csr"),
        ("/v1/renew", r"{}", 400, "invalid", ""),
        ("/v1/renew", r#"{"csr":"#, 400, "malformed", ""),
        ("/v1/enroll", r#"{"token":"x","name":"y","csr":"z"} x"#, 400, "malformed", ""),
    ];
    for (path, body, status, slug, pointer) in cases {
        let ask = device.post(path).text(body);
        let problem = device.call(&ask).await.refused(status, slug);
        if !pointer.is_empty() {
            assert_eq!(problem["errors"][0]["pointer"], pointer, "{path} {body}: {problem}");
        }
        app.still_serves(path).await;
    }
    let admin = app.admin_post("/v1/fleets", &json!({"name": "x", "color": "red"})).await;
    assert_eq!(admin.refused(400, "invalid")["errors"][0]["pointer"], "/color");
    let admin = app.admin_post("/v1/fleets", &json!({"name": "No Good"})).await;
    assert_eq!(admin.refused(400, "invalid")["errors"][0]["pointer"], "/name");
    let mut wire = app.connect_admin().await;
    let query = wire.call(&Ask::get("/v1/devices?colour=red").bearer(&app.admin)).await.refused(400, "invalid");
    assert_eq!(query["errors"][0]["pointer"], "?colour");
}

/// Bytes that are sent before an answer comes, of `total`.
async fn pushed(device: &mut Caller, head: Vec<u8>, chunked: bool, total: usize) -> (usize, Answer) {
    device.wire.send(&head).await;
    let piece = if chunked { [b"4000\r\n".as_slice(), &[b'x'; 0x4000], b"\r\n"].concat() } else { vec![b'x'; 0x4000] };
    let mut sent = 0;
    while sent < total && !device.wire.answers_within(Duration::from_micros(200)).await {
        let step = tokio::time::timeout(Duration::from_secs(5), device.wire.try_send(&piece)).await;
        if !matches!(step, Ok(Ok(()))) {
            break;
        }
        sent += 0x4000;
    }
    (sent, device.wire.answer().await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_megabytes_are_refused_early() {
    let app = TestApp::new().await;
    let mut device = app.enroll("pump-1").await;
    let hundred = 100 * MIB;
    let post = |path: &str| Ask::post(path).bearer(&device.token).header("Content-Type", "application/json");
    let (to_readings, to_heartbeat) = (post("/v1/readings"), post("/v1/heartbeat"));
    for (ask, limit) in [(to_readings, 1_048_576), (to_heartbeat, 65_536)] {
        let declared = ask.clone().header("Content-Length", &hundred.to_string()).head_only();
        device.wire.send(&declared).await;
        // Not a byte of the body is sent, and the answer is there.
        let answer = device.wire.answer().await;
        let problem = answer.refused(413, "too-large");
        assert_eq!(problem["limit"], "body_max_bytes");
        assert!(problem["detail"].as_str().unwrap().contains(&limit.to_string()), "{problem}");
        assert_eq!(answer.header("connection"), Some("close"), "what follows is not another request");
        device.reconnect(&app).await;

        let (sent, answer) = pushed(&mut device, declared, false, hundred).await;
        answer.refused(413, "too-large");
        assert!(sent <= 8 * MIB, "{sent} bytes were taken of a body whose length was declared");
        device.reconnect(&app).await;

        let chunked = ask.header("Transfer-Encoding", "chunked").head_only();
        let (sent, answer) = pushed(&mut device, chunked, true, hundred).await;
        answer.refused(413, "too-large");
        assert!(sent <= 8 * MIB, "{sent} bytes were taken of a body without an end");
        device.reconnect(&app).await;
        app.still_serves("100 MiB").await;
    }
    // A length that is no number, and two lengths: hyper's own answer, before any route.
    for bad in ["-1", "1e3", "99999999999999999999999"] {
        let head = Ask::post("/v1/readings").header("Content-Length", bad).head_only();
        device.wire.send(&head).await;
        assert_eq!(device.wire.answer().await.status, 400, "Content-Length: {bad}");
        device.reconnect(&app).await;
    }
    app.still_serves("odd lengths").await;
}

/// The most memory that this process has had, in bytes.
fn peak_memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1_024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compression_bombs() {
    let app = TestApp::new().await;
    let mut device = app.enroll("pump-1").await;
    // Each becomes 500 MiB: one member or frame of a mebibyte, many times.
    let bombs = [
        ("gzip", gzip(&vec![b' '; MIB]).repeat(500)),
        ("zstd", zstd::encode_all(vec![b' '; MIB].as_slice(), 3).unwrap().repeat(500)),
        ("zstd", zstd::encode_all(vec![b' '; 200 * MIB].as_slice(), 3).unwrap()),
    ];
    let before = peak_memory();
    for (encoding, bomb) in bombs {
        assert!(bomb.len() < MIB, "{encoding}: the bomb itself is small enough: {}", bomb.len());
        for path in ["/v1/readings", "/v1/heartbeat"] {
            if path == "/v1/heartbeat" && bomb.len() > 65_536 {
                continue;
            }
            let ask = device.post(path).bytes("application/json", bomb.clone()).header("Content-Encoding", encoding);
            let problem = device.call(&ask).await.refused(413, "too-large");
            assert_eq!(problem["limit"], "body_max_bytes", "{problem}");
            device.reconnect(&app).await;
            app.still_serves(encoding).await;
        }
    }
    // Other tests run in this process too.
    let grown = peak_memory() - before;
    assert!(grown < 100 * MIB, "the bombs took {grown} bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compressed_bodies() {
    let app = TestApp::new().await;
    let mut device = app.enroll("pump-1").await;
    let batch = || json!([reading(), reading()]).to_string();

    let whole = send(&mut device, "application/json", Some("gzip"), gzip(batch().as_bytes())).await.ok(200);
    assert_eq!(whole["stored"], 2);
    let text = batch();
    let (one, two) = text.as_bytes().split_at(text.len() / 2);
    let members = [gzip(one), gzip(two)].concat();
    assert_eq!(send(&mut device, "application/json", Some("gzip"), members).await.ok(200)["stored"], 2, "two members");
    let text = batch();
    let (one, two) = text.as_bytes().split_at(text.len() / 2);
    let frames = [zstd::encode_all(one, 3).unwrap(), zstd::encode_all(two, 3).unwrap()].concat();
    assert_eq!(send(&mut device, "application/json", Some("zstd"), frames).await.ok(200)["stored"], 2, "two frames");
    let lines = format!("{}\n{}\n", reading(), reading());
    let lines = send(&mut device, "application/x-ndjson", Some("GZIP"), gzip(lines.as_bytes())).await.ok(200);
    assert_eq!(lines["stored"], 2);

    let good = gzip(batch().as_bytes());
    let zstd_good = zstd::encode_all(batch().as_bytes(), 3).unwrap();
    let mut flipped = good.clone();
    let last = flipped.len() - 6;
    flipped[last] ^= 1;
    let broken = [
        ("gzip", good[..good.len() - 5].to_vec(), "cut short"),
        ("gzip", good[..good.len() / 2].to_vec(), "cut short"),
        ("gzip", [good.as_slice(), b"more"].concat(), "followed by other bytes"),
        ("gzip", [good.as_slice(), &good[..8]].concat(), "half a second member"),
        ("gzip", flipped, "a wrong checksum"),
        ("gzip", batch().into_bytes(), "not compressed at all"),
        ("gzip", zstd_good.clone(), "the other coding"),
        ("gzip", Vec::new(), "nothing"),
        ("zstd", zstd_good[..zstd_good.len() - 3].to_vec(), "cut short"),
        ("zstd", [zstd_good.as_slice(), b"more"].concat(), "followed by other bytes"),
        ("zstd", good, "the other coding"),
    ];
    for (encoding, body, what) in broken {
        let answer = send(&mut device, "application/json", Some(encoding), body).await;
        println!("{encoding}, {what}: {}", answer.refused(400, "malformed")["detail"]);
        app.still_serves(what).await;
    }
    for encoding in ["br", "deflate", "gzip, gzip", "gzip;q=1"] {
        let answer = send(&mut device, "application/json", Some(encoding), batch()).await;
        answer.refused(415, "unsupported-media-type");
        assert_eq!(answer.header("accept-encoding"), Some("gzip, zstd"), "RFC 9110, 15.5.16");
    }
    app.still_serves("unknown codings").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_in_broken_bodies_do_not_come_back() {
    let app = TestApp::new().await;
    let key = rcgen::KeyPair::generate().unwrap();
    let (token, csr) = (app.token.clone(), csr_of(&key));
    let secret = token.split('_').nth(2).unwrap();
    let bodies: Vec<Value> = vec![
        json!({"token": token, "name": "pump-1", "csr": csr, "surprise": token}),
        json!({"token": [token], "name": "pump-1", "csr": csr}),
        json!({token.clone(): 1}),
        json!({"token": token, "name": secret.to_uppercase(), "csr": csr}),
        json!({"token": token, "name": "pump-1", "csr": token}),
        json!({"token": token, "name": "pump-1", "csr": csr, "tags": [token, ""]}),
    ];
    for body in bodies {
        let answer = app.connect(None).await.call(&Ask::post("/v1/enroll").json(&body)).await;
        assert_eq!(answer.status, 400, "{}", answer.text());
        let text = answer.text().to_lowercase();
        assert!(!text.contains(secret) && !text.contains("ebt_"), "{text}");
        assert!(!answer.text().contains(csr.lines().nth(1).unwrap()), "{text}");
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
    let raw = Ask::post("/v1/enroll").text(&format!("{{\"token\":\"{token}\""));
    let answer = app.connect(None).await.call(&raw).await;
    answer.refused(400, "malformed");
    assert!(!answer.text().contains(secret), "{}", answer.text());
    app.still_serves("broken enrollments").await;
}
