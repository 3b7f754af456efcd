//! Tokens whose headers ask for something, and those that are too long.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use jsonwebtoken::{Algorithm, EncodingKey};
use rcgen::KeyPair;
use serde_json::{Value, json};

use crate::app::TestApp;
use crate::honest::undisturbed;
use crate::wire::Ask;

fn read(token: &str, index: usize) -> Value {
    serde_json::from_slice(&BASE64URL.decode(token.split('.').nth(index).unwrap()).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_that_ask_for_something() {
    let app = TestApp::new().await;
    let mut device = app.enroll("pump-1").await;
    let pem = std::fs::read_to_string(app.settings.pki_dir.join("token-device.key")).unwrap();
    let key = EncodingKey::from_ec_der(KeyPair::from_pem(&pem).unwrap().serialized_der());
    let claims = device.token.split('.').nth(1).unwrap().to_owned();
    let good = read(&device.token, 0);
    let signed = |header: &Value| {
        let message = format!("{}.{claims}", BASE64URL.encode(header.to_string()));
        format!("{message}.{}", jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::ES256).unwrap())
    };
    device.call(&Ask::get("/v1/me").bearer(&signed(&good))).await.ok(200);
    let with = |name: &str, value: Value| {
        let mut header = good.clone();
        header[name] = value;
        header
    };
    let kid = good["kid"].as_str().unwrap();
    let cases = [
        with("kid", json!("../../../../../../dev/null")),
        with("kid", json!(format!("../{kid}"))),
        with("kid", json!("/proc/self/environ")),
        with("kid", json!("' or 1=1 --")),
        with("kid", json!(format!("{kid}\0"))),
        with("kid", json!([kid])),
        with("kid", json!("x".repeat(1_000))),
        with("crit", json!(["exp"])),
        with("crit", json!(["b64"])),
        with("crit", json!([])),
        with("alg", json!("none")),
        with("alg", json!("HS256")),
        with("alg", json!(["ES256"])),
    ];
    let attack = async {
        for header in cases {
            let answer = device.call(&Ask::get("/v1/me").bearer(&signed(&header))).await;
            answer.refused(401, "token-invalid");
        }
    };
    undisturbed(&app, attack).await;
    // What names a place to get a key from means nothing to us (RFC 7515, 4): the table of keys is asked, and no network.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/keys.json", listener.local_addr().unwrap());
    for name in ["jku", "x5u"] {
        let stranger = EncodingKey::from_ec_der(KeyPair::generate().unwrap().serialized_der());
        let message = format!("{}.{claims}", BASE64URL.encode(with(name, json!(url)).to_string()));
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &stranger, Algorithm::ES256).unwrap();
        let forged = format!("{message}.{signature}");
        device.call(&Ask::get("/v1/me").bearer(&forged)).await.refused(401, "token-invalid");
    }
    let asked = tokio::time::timeout(std::time::Duration::from_millis(50), listener.accept()).await;
    assert!(asked.is_err(), "nobody came for a key");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_that_are_too_long_or_too_many() {
    let app = TestApp::new().await;
    let mut device = app.enroll("pump-1").await;
    let token = device.token.clone();
    let attack = async {
        for long in
            ["a".repeat(15_000), format!("{token}{}", ".a".repeat(7_000)), format!("{}.{token}", "a".repeat(9_000))]
        {
            device.call(&Ask::get("/v1/me").bearer(&long)).await.refused(401, "token-invalid");
        }
        let both = Ask::get("/v1/me").bearer(&token).bearer("x");
        device.call(&both).await.refused(401, "token-invalid");
        let basic = Ask::get("/v1/me").bearer(&token).header("Authorization", "Basic eDp5");
        device.call(&basic).await.refused(401, "token-invalid");
        let joined = Ask::get("/v1/me").header("Authorization", &format!("Bearer {token}, Bearer {token}"));
        device.call(&joined).await.refused(401, "token-invalid");
        // Beyond the header section's limit: before any token is looked at.
        let huge = Ask::get("/v1/me").bearer(&"a".repeat(100_000));
        let _ = device.wire.try_send(&huge.encode()).await;
        let answer = device.wire.try_answer().await;
        assert!(answer.is_none_or(|answer| answer.status == 431));
        device.reconnect(&app).await;
        // As many different ones are as many refusals, and nothing is remembered of them.
        for n in 0..2_000 {
            let forged = format!("{}.{}.{}", "a".repeat(300), "b".repeat(300), "c".repeat(80 + n % 7));
            assert_eq!(device.call(&Ask::get("/v1/me").bearer(&forged)).await.status, 401);
        }
    };
    undisturbed(&app, attack).await;
}
