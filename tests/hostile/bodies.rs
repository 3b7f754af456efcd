//! Bodies that are JSON, and meant to break whoever reads it.

use serde_json::{Value, json};

use crate::app::TestApp;
use crate::honest::undisturbed;
use crate::wire::Ask;

const MIB: usize = 1 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_at_their_edges_come_back_as_they_were_sent() {
    let app = TestApp::new().await;
    let mut device = app.enroll("pump-1").await;
    // As sent, and as it comes back: -0 is 0, and what has no fraction is a whole number.
    let same = [
        ("-0", "0"),
        ("-0.0", "0"),
        ("0e10", "0"),
        ("9223372036854775807", "9223372036854775807"),
        ("9223372036854775808", "9223372036854775808"),
        ("18446744073709551615", "18446744073709551615"),
        ("-9223372036854775808", "-9223372036854775808"),
        ("9007199254740993", "9007199254740993"),
        ("5e-324", "5e-324"),
        ("1e-400", "0"),
        ("1.7976931348623157e308", "1.7976931348623157e308"),
        ("0.1", "0.1"),
    ];
    let attack = async {
        for (sent, back) in same {
            let body = format!("{{\"values\":{{\"a\":{sent}}}}}");
            assert_eq!(device.call(&device.post("/v1/readings").text(&body)).await.ok(200)["stored"], 1, "{sent}");
            let path = format!("/v1/devices/{}/readings/latest", device.identity.device);
            let stored = app.admin_get(&path).await;
            let back: Value = serde_json::from_str(back).unwrap();
            let whole = |number: &Value| number.as_u64().map(i128::from).or(number.as_i64().map(i128::from));
            let given = &stored["values"]["a"];
            assert_eq!(given.as_f64(), back.as_f64(), "{sent}: {stored}");
            if whole(&back).is_some() && sent.parse::<i128>().is_ok() {
                assert_eq!(whole(given), whole(&back), "{sent}: {stored}");
            }
        }
        for none in ["1e400", "-1e400", "1e99999999999", "01", "+1", ".5", "1.", "0x10", "1_000", "--1", "1e", "NaN"] {
            let body = format!("{{\"values\":{{\"a\":{none}}}}}");
            let answer = device.call(&device.post("/v1/readings").text(&body)).await;
            // A number that JSON has and we cannot hold is the item's fault; what JSON does not have, the body's.
            let expected = if none.contains("1e4") || none.contains("1e9") { 422 } else { 400 };
            assert_eq!(answer.status, expected, "{none}: {}", answer.text());
        }
    };
    undisturbed(&app, attack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_without_number() {
    let app = TestApp::new().await;
    let mut device = app.enroll("pump-1").await;
    let keys = |most: usize, same: bool| {
        let mut text = String::with_capacity(most);
        for n in 0.. {
            let one = if same { "\"a\":1,".to_owned() } else { format!("\"{n:x}\":1,") };
            if text.len() + one.len() > most {
                break;
            }
            text += &one;
        }
        text.pop();
        text
    };
    let attack = async {
        for same in [false, true] {
            let wide = format!("{{\"values\":{{{}}}}}", keys(MIB - 100, same));
            let answer = device.call(&device.post("/v1/readings").text(&wide)).await;
            assert_eq!((answer.status, &answer.json()["rejected_total"]), (422, &json!(1)), "{}", answer.text());
            let wide = format!("{{{}}}", keys(60_000, same));
            for path in ["/v1/heartbeat", "/v1/goodbye", "/v1/renew"] {
                let answer = device.call(&device.post(path).text(&wide)).await;
                answer.refused(400, "invalid");
                assert!(answer.body.len() < 2_000, "{path}: {} bytes", answer.body.len());
            }
            let form = keys(60_000, same).replace("\":", "=").replace(['"', ','], "&");
            let ask = Ask::post("/v1/token").bytes("application/x-www-form-urlencoded", form);
            assert_eq!(device.call(&ask).await.status, 400);
        }
        // A million keys are above the limit of a body, and not read: 10 MB.
        let huge = device.post("/v1/readings").text(&format!("{{{}}}", keys(10 * MIB, false)));
        let _ = device.wire.try_send(&huge.encode()).await;
        if let Some(answer) = device.wire.try_answer().await {
            answer.refused(413, "too-large");
        }
        device.reconnect(&app).await;
        // A thousand items are refused by their number before any is looked at.
        let many = format!("[{}]", "{},".repeat(100_000).trim_end_matches(','));
        device.call(&device.post("/v1/readings").text(&many)).await.refused(413, "too-large");
    };
    undisturbed(&app, attack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn text_that_is_no_unicode() {
    let app = TestApp::new().await;
    let mut device = app.enroll("pump-1").await;
    let lone = ["\\ud800", "\\udc00", "\\udc00\\ud800", "\\ud800\\ud800", "\\ud83d\\u0041", "\\ud83d"];
    let raw: [&[u8]; 6] = [b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"\x80", b"\xff\xfe{\0}\0"];
    let attack = async {
        for text in lone {
            let item = format!("{{\"values\":{{\"a\":\"{text}\"}}}}");
            let answer = device.call(&device.post("/v1/readings").text(&item)).await;
            assert_eq!(
                (answer.status, &answer.json()["rejected_total"]),
                (422, &json!(1)),
                "{text}: {}",
                answer.text()
            );
            for body in [format!("{{\"status\":\"{text}\"}}"), format!("{{\"{text}\":1}}")] {
                let answer = device.call(&device.post("/v1/heartbeat").text(&body)).await;
                assert_eq!(answer.status, 400, "{body}: {}", answer.text());
            }
        }
        for text in raw {
            let body = [b"{\"values\":{\"a\":\"", text, b"\"}}"].concat();
            let answer = device.call(&device.post("/v1/readings").bytes("application/json", body.clone())).await;
            answer.refused(400, "malformed");
            // Of lines, too: the body as a whole is no text.
            let answer = device.call(&device.post("/v1/readings").bytes("application/x-ndjson", body)).await;
            answer.refused(400, "malformed");
            let body = [b"{\"status\":\"", text, b"\"}"].concat();
            let answer = device.call(&device.post("/v1/heartbeat").bytes("application/json", body)).await;
            assert_eq!(answer.status, 400, "{text:?}: {}", answer.text());
        }
        // Text that is Unicode is stored, however odd.
        let odd = json!({"values": {"\u{202e}\u{10ffff}": "\u{feff}\u{fffd}\u{2028}😀"}});
        assert_eq!(device.store(&odd).await.ok(200)["stored"], 1);
    };
    undisturbed(&app, attack).await;
}
