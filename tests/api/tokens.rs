//! Bearer tokens: stolen, forged, of the wrong kind, or none.

use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use jsonwebtoken::{Algorithm, EncodingKey};
use rcgen::{KeyPair, PublicKeyData};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::app::{Caller, TestApp, now};
use crate::wire::Ask;

fn part(value: &Value) -> String {
    BASE64URL.encode(value.to_string())
}

fn read(token: &str, index: usize) -> Value {
    let part = token.split('.').nth(index).unwrap();
    serde_json::from_slice(&BASE64URL.decode(part).unwrap()).unwrap()
}

fn with(mut value: Value, name: &str, to: Value) -> Value {
    value[name] = to;
    value
}

/// Signs whatever it is told to with a key of the replica's.
struct Forger {
    key: KeyPair,
    header: Value,
    claims: Value,
}

impl Forger {
    fn new(app: &TestApp, key: &str, token: &str) -> Self {
        let pem = std::fs::read_to_string(app.settings.pki_dir.join(key)).unwrap();
        Self { key: KeyPair::from_pem(&pem).unwrap(), header: read(token, 0), claims: read(token, 1) }
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        signed(&self.key, header, claims)
    }

    /// It was good, a minute ago.
    fn expired(&self) -> String {
        let second = now().unix_timestamp();
        let claims = with(self.claims.clone(), "nbf", json!(second - 660));
        self.sign(&self.header, &with(claims, "exp", json!(second - 60)))
    }

    /// With one claim changed.
    fn claim(&self, name: &str, to: Value) -> String {
        self.sign(&self.header, &with(self.claims.clone(), name, to))
    }
}

fn signed(key: &KeyPair, header: &Value, claims: &Value) -> String {
    let message = format!("{}.{}", part(header), part(claims));
    let key = EncodingKey::from_ec_der(key.serialized_der());
    format!("{message}.{}", jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::ES256).unwrap())
}

async fn refused(app: &TestApp, device: &mut Caller, token: &str, slug: &str) {
    let answer = device.call(&Ask::get("/v1/me").bearer(token)).await;
    let problem = answer.refused(401, slug);
    assert!(problem["detail"].as_str().unwrap().contains("token"), "{problem}");
    let challenge = answer.header("www-authenticate").unwrap();
    let names_error = challenge.contains("error=\"invalid_token\"");
    assert_eq!(names_error, slug != "token-required", "RFC 6750, 3.1: {challenge}");
    let inside = token.split('.').next_back().unwrap();
    assert!(inside.len() < 8 || !answer.text().contains(inside), "the token is not repeated");
    app.still_serves(token).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_device_tokens() {
    let app = TestApp::new().await;
    let mut device = app.enroll("pump-1").await;
    let forger = Forger::new(&app, "token-device.key", &device.token);
    let (header, claims) = (forger.header.clone(), forger.claims.clone());
    let good = forger.sign(&header, &claims);
    device.call(&Ask::get("/v1/me").bearer(&good)).await.ok(200);
    let second = now().unix_timestamp();

    let mut cases = vec![
        ("garbage", "x".to_owned(), "token-invalid"),
        ("three empty parts", "..".to_owned(), "token-invalid"),
        ("a long one", "a".repeat(6_000), "token-invalid"),
        ("expired", forger.expired(), "token-expired"),
        ("over before it begins", forger.claim("exp", json!(second - 60)), "token-invalid"),
        ("not yet", forger.claim("nbf", json!(second + 600)), "token-invalid"),
        ("nbf in a list", forger.claim("nbf", json!([second])), "token-invalid"),
        ("nbf as text", forger.claim("nbf", json!(second.to_string())), "token-invalid"),
        ("exp as text", forger.claim("exp", json!((second + 600).to_string())), "token-invalid"),
        ("exp in a list", forger.claim("exp", json!([second + 600])), "token-invalid"),
        ("exp of a float", forger.claim("exp", json!(1e300)), "token-invalid"),
        ("nbf null", forger.claim("nbf", Value::Null), "token-invalid"),
        ("another issuer", forger.claim("iss", json!("elsewhere")), "token-invalid"),
        ("another audience", forger.claim("aud", json!("everbeat-admin")), "token-invalid"),
        ("audiences in a list", forger.claim("aud", json!(["everbeat-device"])), "token-invalid"),
        ("not bound", forger.claim("cnf", Value::Null), "token-invalid"),
        ("another device", forger.claim("sub", json!(Uuid::now_v7())), "token-mismatch"),
    ];
    let mut tampered = good.clone().into_bytes();
    let last = tampered.len() - 10;
    tampered[last] = if tampered[last] == b'A' { b'B' } else { b'A' };
    cases.push(("another signature", String::from_utf8(tampered).unwrap(), "token-invalid"));
    let stranger = KeyPair::generate().unwrap();
    cases.push(("another key, our kid", signed(&stranger, &header, &claims), "token-invalid"));
    let foreign_kid = with(header.clone(), "kid", json!("unknown"));
    cases.push(("unknown kid", forger.sign(&foreign_kid, &claims), "token-invalid"));
    cases.push(("no kid", forger.sign(&json!({"alg": "ES256", "typ": "JWT"}), &claims), "token-invalid"));
    let own = with(header.clone(), "jwk", json!({"kty": "EC"}));
    cases.push(("its own key in the header", signed(&stranger, &own, &claims), "token-invalid"));
    for (what, token, slug) in cases {
        println!("{what}");
        refused(&app, &mut device, &token, slug).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn algorithms_are_not_the_callers_choice() {
    let app = TestApp::new().await;
    let mut device = app.enroll("pump-1").await;
    let forger = Forger::new(&app, "token-device.key", &device.token);
    for alg in ["none", "None", "nOnE"] {
        let message = format!("{}.{}", part(&with(forger.header.clone(), "alg", json!(alg))), part(&forger.claims));
        let signature = device.token.rsplit('.').next().unwrap().to_owned();
        refused(&app, &mut device, &format!("{message}."), "token-invalid").await;
        refused(&app, &mut device, &format!("{message}.{signature}"), "token-invalid").await;
    }
    // The public key as the secret of an HMAC, in each of its encodings.
    let der = forger.key.subject_public_key_info();
    let pem = forger.key.public_key_pem();
    for secret in [der.as_slice(), forger.key.der_bytes(), pem.as_bytes(), pem.trim_end().as_bytes()] {
        let header = with(forger.header.clone(), "alg", json!("HS256"));
        let message = format!("{}.{}", part(&header), part(&forger.claims));
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message.as_bytes());
        let token = format!("{message}.{}", BASE64URL.encode(tag.as_ref()));
        refused(&app, &mut device, &token, "token-invalid").await;
    }
    for alg in ["ES384", "RS256", "EdDSA"] {
        let token = forger.sign(&with(forger.header.clone(), "alg", json!(alg)), &forger.claims);
        refused(&app, &mut device, &token, "token-invalid").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_belongs_to_one_certificate_and_one_listener() {
    let app = TestApp::new().await;
    let (mut one, other) = (app.enroll("pump-1").await, app.enroll("pump-2").await);
    refused(&app, &mut one, &other.token, "token-mismatch").await;
    // Of the same device, but of another certificate.
    let second = app.issue(one.identity.device, now(), Duration::from_hours(1));
    app.record(&second).await;
    let second = app.caller(second).await;
    refused(&app, &mut one, &second.token, "token-mismatch").await;

    refused(&app, &mut one, &app.admin.clone(), "token-invalid").await;
    let mut admin = app.connect_admin().await;
    admin.call(&Ask::get("/v1/whoami").bearer(&one.token)).await.refused(401, "token-invalid");
    // Right key and audience for the listener, wrong kind of claims.
    let forger = Forger::new(&app, "token-operator.key", &app.admin);
    let device_claims = with(read(&one.token, 1), "aud", json!("everbeat-admin"));
    admin
        .call(&Ask::get("/v1/whoami").bearer(&forger.sign(&forger.header, &device_claims)))
        .await
        .refused(401, "token-invalid");
    let unrecorded = forger.claim("jti", json!(Uuid::new_v4()));
    admin.call(&Ask::get("/v1/whoami").bearer(&unrecorded)).await.refused(401, "token-invalid");
    admin.call(&Ask::get("/v1/whoami").bearer(&forger.expired())).await.refused(401, "token-expired");
    assert_eq!(admin.call(&Ask::get("/v1/whoami").bearer(&app.admin)).await.ok(200)["subject"], "root");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_token_or_not_in_its_place() {
    let app = TestApp::new().await;
    let mut device = app.enroll("pump-1").await;
    let token = device.token.clone();
    let none = [
        Ask::get("/v1/me"),
        Ask::get("/v1/me").header("Authorization", "Bearer"),
        Ask::get("/v1/me").header("Authorization", "Bearer "),
        Ask::get("/v1/me").header("Authorization", &format!("Basic {token}")),
        Ask::get("/v1/me").header("Authorization", &token),
        Ask::get("/v1/me").header("X-Authorization", &format!("Bearer {token}")),
    ];
    for ask in none {
        let answer = device.call(&ask).await;
        let problem = answer.refused(401, "token-required");
        assert!(problem["detail"].as_str().unwrap().contains("Authorization: Bearer"), "{problem}");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer realm=\"everbeat\""), "RFC 6750, 3");
    }
    let twice = Ask::get("/v1/me").bearer(&token).bearer(&token);
    device.call(&twice).await.refused(401, "token-invalid");
    // Never in the query (RFC 6750, 2.3).
    device.call(&Ask::get(&format!("/v1/me?access_token={token}"))).await.refused(401, "token-required");
    app.connect_admin().await.call(&Ask::get("/v1/whoami")).await.refused(401, "token-required");
    app.still_serves("no token").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_token_endpoint_speaks_oauth() {
    let app = TestApp::new().await;
    let mut device = app.enroll("pump-1").await;
    let form = |body: &str| Ask::post("/v1/token").bytes("application/x-www-form-urlencoded", body);
    let own = format!("grant_type=client_credentials&client_id={}", device.identity.device);
    for ask in [Ask::post("/v1/token"), form("grant_type=client_credentials&whatever=1"), form(&own)] {
        let answer = device.call(&ask).await;
        let body = answer.ok(200);
        assert_eq!((&body["token_type"], answer.header("cache-control")), (&json!("Bearer"), Some("no-store")));
        assert!(body["expires_in"].as_u64().is_some_and(|s| (1..=600).contains(&s)), "{body}");
        device.call(&Ask::get("/v1/me").bearer(body["access_token"].as_str().unwrap())).await.ok(200);
    }
    for (body, slug, error) in [
        ("grant_type=password", "invalid", "unsupported_grant_type"),
        ("scope=all", "invalid", "invalid_request"),
        ("grant_type=client_credentials&client_id=somebody", "invalid", "invalid_client"),
        ("grant_type=client_credentials&scope=all", "invalid", "invalid_scope"),
        ("grant_type=client_credentials&grant_type=client_credentials", "malformed", "invalid_request"),
    ] {
        let answer = device.call(&form(body)).await;
        assert_eq!(answer.refused(400, slug)["error"], error, "{body}");
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert!(!answer.text().contains("somebody"));
    }
    let json = device.call(&Ask::post("/v1/token").json(&json!({"grant_type": "client_credentials"}))).await;
    assert_eq!(json.refused(415, "unsupported-media-type")["error"], "invalid_request");
    let nobody = app.connect(None).await.call(&Ask::post("/v1/token")).await;
    assert_eq!(nobody.refused(401, "certificate-required")["error"], "invalid_client");
    app.still_serves("oauth").await;
}
