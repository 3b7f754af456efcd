//! SenML at `POST /v1/readings`, in both encodings: what is stored, what is refused, and what comes again.

use std::io::Write;

use serde_json::{Value, json};

use crate::app::{Caller, TestApp, now};
use crate::cbor;
use crate::wire::{Answer, Ask};

const JSON: &str = "application/senml+json";
const CBOR: &str = "application/senml+cbor";

async fn send(device: &mut Caller, media: &str, body: impl Into<Vec<u8>>) -> Answer {
    let ask = device.post("/v1/readings").bytes(media, body);
    device.call(&ask).await
}

async fn send_json(device: &mut Caller, pack: &Value) -> Answer {
    send(device, JSON, pack.to_string()).await
}

async fn send_cbor(device: &mut Caller, pack: &Value) -> Answer {
    send(device, CBOR, cbor::pack(pack)).await
}

fn counts(answer: &Value) -> (u64, u64, u64) {
    let number = |name: &str| answer[name].as_u64().unwrap();
    (number("stored"), number("duplicates"), number("rejected_total"))
}

/// Of two times, one of them now in whole seconds.
fn pack() -> Value {
    json!([
        {"bn": "pump-1:", "bt": now().unix_timestamp(), "n": "temp", "u": "Cel", "v": 23.1},
        {"n": "door", "vb": false},
        {"n": "temp", "u": "Cel", "v": 22.9, "t": -60.25},
    ])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pack_is_stored_once_whatever_its_encoding() {
    let app = TestApp::new().await;
    let mut device = app.enroll("pump-1").await;
    let first = pack();
    assert_eq!(counts(&send_json(&mut device, &first).await.ok(200)), (2, 0, 0));
    assert_eq!(counts(&send_cbor(&mut device, &first).await.ok(200)), (0, 2, 0), "sent again as CBOR");
    assert_eq!(counts(&send_json(&mut device, &first).await.ok(200)), (0, 2, 0));
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packed.write_all(&cbor::pack(&first)).unwrap();
    let ask = device.post("/v1/readings").bytes(CBOR, packed.finish().unwrap()).header("Content-Encoding", "gzip");
    assert_eq!(counts(&device.call(&ask).await.ok(200)), (0, 2, 0), "and compressed");
    let zstd = zstd::encode_all(first.to_string().as_bytes(), 3).unwrap();
    let ask = device.post("/v1/readings").bytes(JSON, zstd).header("Content-Encoding", "zstd");
    assert_eq!(counts(&device.call(&ask).await.ok(200)), (0, 2, 0));

    let list = app.admin_get("/v1/devices/name:pumps:pump-1/readings?order=desc").await;
    let values: Vec<&Value> = list["items"].as_array().unwrap().iter().map(|item| &item["values"]).collect();
    assert_eq!(values, [&json!({"temp[Cel]": 23.1, "door": false}), &json!({"temp[Cel]": 22.9})]);
    let metric = app.admin_get("/v1/devices/name:pumps:pump-1/readings?metric=temp%5BCel%5D").await;
    assert_eq!(metric["items"].as_array().unwrap().len(), 2, "{metric}");

    // The same as plain readings is the same, too: nothing of a format is in a reading's identity.
    let ts = list["items"][0]["ts"].clone();
    let plain = json!({"ts": ts, "values": {"door": false, "temp[Cel]": 23.1}});
    assert_eq!(counts(&device.store(&plain).await.ok(200)), (0, 1, 0));
    assert_eq!(counts(&send_cbor(&mut device, &json!([])).await.ok(200)), (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_records_are_named_and_their_neighbours_stored() {
    let app = TestApp::new().await;
    let mut device = app.enroll("pump-1").await;
    let mut mixed = pack();
    let more = [json!({"n": "door", "vb": true}), json!({"n": "x"}), json!({"n": "y", "v": 1, "t": 1e9})];
    mixed.as_array_mut().unwrap().extend(more);
    for answer in [send_json(&mut device, &mixed).await, send_cbor(&mut device, &mixed).await] {
        let answer = answer.ok(207);
        assert_eq!(answer["rejected_total"], 3, "{answer}");
        let rejected: Vec<_> =
            answer["rejected"].as_array().unwrap().iter().map(|r| (&r["index"], &r["type"])).collect();
        let expected =
            [(3, "conflict"), (4, "invalid"), (5, "invalid")].map(|(index, kind)| (json!(index), json!(kind)));
        assert_eq!(rejected, expected.each_ref().map(|(index, kind)| (index, kind)));
        let details = answer["rejected"].as_array().unwrap().iter().map(|r| r["detail"].as_str().unwrap());
        for (detail, expected) in details.zip(["/n: the pack has \"door\"", "has no value", "/t: the time must lie"]) {
            assert!(detail.starts_with(expected), "{detail}");
        }
    }
    let none = json!([{"n": "x"}, {"n": "y", "v": "text"}]);
    assert_eq!(counts(&send_json(&mut device, &none).await.ok(422)), (0, 0, 2));
    assert_eq!(counts(&send_cbor(&mut device, &none).await.ok(422)), (0, 0, 2));
    app.still_serves("bad records").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packs_that_are_refused_as_a_whole() {
    let app = TestApp::new().await;
    let mut device = app.enroll("pump-1").await;
    let good = pack().to_string();
    let with = |record: Value| {
        let mut pack = pack();
        pack.as_array_mut().unwrap().push(record);
        pack
    };
    let cases: Vec<(&str, &str, Vec<u8>)> = vec![
        ("half of it", JSON, good.as_bytes()[..good.len() - 1].to_vec()),
        ("an object", JSON, b"{\"n\":\"a\",\"v\":1}".to_vec()),
        ("JSON as CBOR", CBOR, good.clone().into_bytes()),
        ("CBOR as JSON", JSON, cbor::pack(&pack())),
        ("nothing", CBOR, Vec::new()),
        ("half of it", CBOR, cbor::pack(&pack())[..20].to_vec()),
        ("more than it", CBOR, [cbor::pack(&pack()), vec![0]].concat()),
        ("a map", CBOR, cbor::pack(&json!({"n": "a", "v": 1}))),
        ("deep arrays", CBOR, vec![0x81; 500_000]),
        ("open deep arrays", CBOR, vec![0x9f; 500_000]),
        ("deep tags", CBOR, [vec![0x81, 0xa1, 0x18, 0x63], vec![0xc4; 500_000]].concat()),
        ("a long text that is not there", CBOR, b"\x81\xa1\x00\x7b\x7f\xff\xff\xff\xff\xff\xff\xff".to_vec()),
        ("another version", JSON, with(json!({"bver": 11})).to_string().into_bytes()),
        ("another version", CBOR, cbor::pack(&with(json!({"bver": 11})))),
        ("what must be understood", JSON, with(json!({"n": "a", "v": 1, "unknown_": 1})).to_string().into_bytes()),
        ("what must be understood", CBOR, cbor::pack(&with(json!({"n": "a", "v": 1, "unknown_": 1})))),
    ];
    for (what, media, body) in cases {
        let problem = send(&mut device, media, body).await.refused(400, "malformed");
        assert!(problem["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{what}");
        app.still_serves(what).await;
    }
    let many: Value = (0..1_001).map(|n| json!({"n": format!("m{n}"), "v": n})).collect();
    for answer in [send_json(&mut device, &many).await, send_cbor(&mut device, &many).await] {
        assert_eq!(answer.refused(413, "too-large")["limit"], "readings_batch_max");
    }
    let list = app.admin_get("/v1/devices/name:pumps:pump-1/readings").await;
    assert_eq!(list["items"], json!([]), "nothing of them was stored");

    let other = send(&mut device, "application/senml+xml", good).await;
    other.refused(415, "unsupported-media-type");
    let accepted = other.header("accept").unwrap();
    assert!(accepted.contains(JSON) && accepted.contains(CBOR), "{accepted}");
    let described = device.call(&Ask::get("/openapi.json")).await.ok(200);
    let taken = &described["paths"]["/v1/readings"]["post"]["requestBody"]["content"];
    assert_eq!(taken[JSON]["schema"]["maxItems"], 1_000, "{taken}");
    assert!(taken[CBOR]["schema"].is_object(), "{taken}");
}
