//! Readings: what is answered when all, some or none of a batch is stored, and when it comes again.

use everbeat::domain::time::rfc3339;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::app::{TestApp, now, reading};
use crate::wire::Ask;

fn counts(answer: &Value) -> (u64, u64, u64) {
    let number = |name: &str| answer[name].as_u64().unwrap();
    (number("stored"), number("duplicates"), number("rejected_total"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_shape_for_three_codes() {
    let app = TestApp::new().await;
    let mut device = app.enroll("pump-1").await;
    let bad = json!({"values": {}});
    let first = reading();
    let cases = [
        (json!([]), 200, (0, 0, 0)),
        (first.clone(), 200, (1, 0, 0)),
        (json!([first]), 200, (0, 1, 0)),
        (json!([first, reading(), reading()]), 200, (2, 1, 0)),
        (json!([first, first, first]), 200, (0, 3, 0)),
        (json!([first, bad]), 207, (0, 1, 1)),
        (json!([reading(), bad, bad]), 207, (1, 0, 2)),
        (json!([bad]), 422, (0, 0, 1)),
        (json!([bad, 3, null]), 422, (0, 0, 3)),
    ];
    for (body, status, expected) in cases {
        let answer = device.store(&body).await;
        assert_eq!(answer.header("content-type"), Some("application/json"), "{body}");
        let answer = answer.ok(status);
        assert_eq!(counts(&answer), expected, "{body}: {answer}");
        assert_eq!(answer["rejected"].as_array().unwrap().len() as u64, expected.2);
    }
    // The list of the rejected has an end, the count has not.
    let many = device.store(&json!(vec![&bad; 1_000])).await.ok(422);
    assert_eq!((counts(&many), many["rejected"].as_array().unwrap().len()), ((0, 0, 1_000), 100));
    let problem = device.store(&json!(vec![&bad; 1_001])).await.refused(413, "too-large");
    assert_eq!(problem["limit"], "readings_batch_max");
    app.still_serves("batches").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_and_spellings() {
    let app = TestApp::new().await;
    let mut device = app.enroll("pump-1").await;
    let lines = |text: String| device.post("/v1/readings").bytes("application/x-ndjson; charset=utf-8", text);
    let (one, two) = (reading(), reading());
    let asks = [
        (lines(String::new()), 200, (0, 0, 0)),
        (lines("\n \r\n\n".to_owned()), 200, (0, 0, 0)),
        (lines(format!("{one}\r\n\n{two}")), 200, (2, 0, 0)),
        (lines(format!("{one}\n{{\"values\":1}}\n{two}\n")), 207, (0, 2, 1)),
        (lines("nonsense\n".to_owned()), 422, (0, 0, 1)),
        (lines(format!("[{one}]")), 422, (0, 0, 1)),
    ];
    for (ask, status, expected) in asks {
        assert_eq!(counts(&device.call(&ask).await.ok(status)), expected, "{ask:?}");
    }
    // The same content with the same time in another spelling is the same reading.
    let ts = now().replace_microsecond(0).unwrap();
    let unix_ms = i64::try_from(ts.unix_timestamp_nanos() / 1_000_000).unwrap();
    let values = json!({"a": 1, "b": "x"});
    assert_eq!(counts(&device.store(&json!({"ts": rfc3339(ts), "values": values})).await.ok(200)), (1, 0, 0));
    assert_eq!(counts(&device.store(&json!({"ts": unix_ms, "values": {"b": "x", "a": 1.0}})).await.ok(200)), (0, 1, 0));
    let other = ts.to_offset(time::UtcOffset::from_hms(2, 0, 0).unwrap());
    let other = other.format(&time::format_description::well_known::Rfc3339).unwrap();
    assert_eq!(counts(&device.store(&json!({"ts": other, "values": values})).await.ok(200)), (0, 1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_id_with_two_contents_is_a_conflict() {
    let app = TestApp::new().await;
    let mut device = app.enroll("pump-1").await;
    let (id, ts) = (Uuid::now_v7(), rfc3339(now()));
    let item = |value: i32| json!({"id": id, "ts": ts, "values": {"a": value}});
    assert_eq!(counts(&device.store(&item(1)).await.ok(200)), (1, 0, 0));
    for (body, status, expected) in [
        (item(2), 422, (0, 0, 1)),
        (json!([item(2), reading()]), 207, (1, 0, 1)),
        (json!([item(1), item(2)]), 207, (0, 1, 1)),
    ] {
        let answer = device.store(&body).await.ok(status);
        assert_eq!(counts(&answer), expected, "{answer}");
        let rejected = &answer["rejected"][0];
        assert_eq!(rejected["type"], "conflict", "{rejected}");
        assert!(rejected["detail"].as_str().is_some_and(|detail| detail.contains("id")), "{rejected}");
    }
    // Twice in one request, and never before.
    let (id, ts) = (Uuid::now_v7(), rfc3339(now()));
    let item = |value: i32| json!({"id": id, "ts": ts, "values": {"a": value}});
    let answer = device.store(&json!([item(1), item(2)])).await.ok(207);
    assert_eq!((counts(&answer), &answer["rejected"][0]["type"]), ((1, 0, 1), &json!("conflict")), "{answer}");
    // Another device's ids are its own.
    let mut other = app.enroll("pump-2").await;
    assert_eq!(counts(&other.store(&item(2)).await.ok(200)), (1, 0, 0));
    app.still_serves("conflicts").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_read_what_was_stored_as_it_was_sent() {
    let app = TestApp::new().await;
    let mut device = app.enroll("pump-1").await;
    let values =
        json!({"f": 0.1, "tiny": 5e-324, "big": 1.797_693_134_862_315_7e308, "b": true, "s": "é\u{1f600}\\\""});
    let ts = rfc3339(now());
    device.store(&json!({"ts": ts, "values": values})).await.ok(200);
    let latest = app.admin_get(&format!("/v1/devices/{}/readings/latest", device.identity.device)).await;
    assert_eq!((&latest["ts"], &latest["values"]), (&json!(ts), &values));
    let list = app.admin_get("/v1/devices/name:pumps:pump-1/readings").await;
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    let none = Ask::get(&format!("/v1/devices/{}/readings/latest", Uuid::now_v7())).bearer(&app.admin);
    app.connect_admin().await.call(&none).await.refused(404, "not-found");
}
