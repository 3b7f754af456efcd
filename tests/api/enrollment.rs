//! Enrollment: who may, how often, with which keys, and what happens when the answer gets lost.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, PKCS_ECDSA_P384_SHA384,
    PKCS_ED25519, SanType,
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::app::{Identity, TestApp, csr_of, hex, reading};
use crate::wire::{Answer, Ask};

fn params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
}

fn asking(params: &CertificateParams, key: &KeyPair) -> String {
    params.serialize_request(key).unwrap().pem().unwrap()
}

fn pem(der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n", lines.join("\n"))
}

async fn enroll(app: &TestApp, token: &str, name: &str, csr: &str) -> Answer {
    let body = json!({"token": token, "name": name, "csr": csr});
    app.connect(None).await.call(&Ask::post("/v1/enroll").json(&body)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_may_be_for_certain_names_only() {
    let app = TestApp::new().await;
    let ask = |pattern: &str| json!({"fleet": "pumps", "uses_max": 9, "name_pattern": pattern});
    let made = app.admin_post("/v1/enrollment-tokens", &ask("pump-?*")).await.ok(201);
    assert_eq!(made["name_pattern"], "pump-?*");
    let token = made["token"].as_str().unwrap();
    let mine = key();
    for name in ["pump-7", "pump-x.y"] {
        enroll(&app, token, name, &csr_of(&key())).await.ok(201);
    }
    for name in ["pump-", "my-pump-7", "valve-1"] {
        enroll(&app, token, name, &csr_of(&key())).await.refused(401, "enrollment-token-invalid");
    }
    // A name that is taken is none of its names either: not a word of whose it is, nor a certificate again.
    enroll(&app, &app.token, "valve-1", &csr_of(&mine)).await.ok(201);
    for key in [&mine, &key()] {
        enroll(&app, token, "valve-1", &csr_of(key)).await.refused(401, "enrollment-token-invalid");
    }
    enroll(&app, token, "pump-7", &csr_of(&key())).await.refused(409, "name-taken");
    let listed = app.admin_get("/v1/enrollment-tokens").await;
    let of = |id: &Value| listed["items"].as_array().unwrap().iter().find(|row| row["id"] == *id).cloned().unwrap();
    assert_eq!((&of(&made["id"])["uses"], &of(&made["id"])["name_pattern"]), (&json!(2), &json!("pump-?*")));

    let bad = ["", "pump-[0-9]", "a|b", "(a*)*", "Pump-*", "pump *", "***=pump"].map(str::to_owned);
    for pattern in bad.into_iter().chain(["x".repeat(65)]) {
        let problem = app.admin_post("/v1/enrollment-tokens", &ask(&pattern)).await.refused(400, "invalid");
        assert_eq!(problem["errors"][0]["pointer"], "/name_pattern", "{problem}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_the_release_before_keeps_its_regular_expression_and_that_release_understands_ours() {
    let app = TestApp::new().await;
    let ask = json!({"fleet": "pumps", "uses_max": 9, "name_pattern": "pump.?"});
    let made = app.admin_post("/v1/enrollment-tokens", &ask).await.ok(201);
    let (token, id) = (made["token"].as_str().unwrap(), made["id"].as_str().unwrap());
    // As that release reads it.
    let fits = async |name: &str| {
        let sql = format!(
            "select count(*) from enrollment_tokens where id = '{id}' and '{name}' ~ ('^(?:' || name_pattern || ')$')"
        );
        app.count(&sql).await
    };
    assert_eq!((fits("pump.1").await, fits("pump-1").await, fits("pump.12").await), (1, 0, 0));
    let older =
        format!("update enrollment_tokens set name_glob = null, name_pattern = 'pump-[0-9]+|valve' where id = '{id}'");
    crate::support::TestCluster::shared().owner_batch(&app.database.database, &older).await;
    for name in ["pump-77", "valve"] {
        enroll(&app, token, name, &csr_of(&key())).await.ok(201);
    }
    for name in ["pump.1", "pump-7a", "my-valve"] {
        enroll(&app, token, name, &csr_of(&key())).await.refused(401, "enrollment-token-invalid");
    }
}

fn key() -> KeyPair {
    KeyPair::generate().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_enrolls_as_often_as_it_says_and_answers_may_get_lost() {
    let app = TestApp::new().await;
    let token = app.enrollment_token(1).await;
    let mine = key();
    let first = enroll(&app, &token, "pump-1", &csr_of(&mine)).await;
    assert_eq!(first.header("cache-control"), Some("no-store"));
    let first = first.ok(201);
    assert_eq!((&first["device"]["name"], &first["device"]["fleet"]), (&json!("pump-1"), &json!("pumps")));
    // The answer got lost: the same token, name and key again.
    let again = enroll(&app, &token, "pump-1", &csr_of(&mine)).await.ok(201);
    assert_eq!(again["device"], first["device"]);
    assert_ne!(again["certificate"], first["certificate"]);
    for answer in [&first, &again] {
        let key = KeyPair::from_pem(&mine.serialize_pem()).unwrap();
        let mut device = app.caller(Identity::of(answer, key)).await;
        device.store(&reading()).await.ok(200);
    }
    enroll(&app, &token, "pump-2", &csr_of(&key())).await.refused(401, "enrollment-token-invalid");
    enroll(&app, &token, "pump-2", &csr_of(&mine)).await.refused(401, "enrollment-token-invalid");
    enroll(&app, &token, "pump-1", &csr_of(&key())).await.refused(409, "name-taken");
    // Nor under another token.
    let problem = enroll(&app, &app.token, "pump-1", &csr_of(&key())).await.refused(409, "name-taken");
    assert!(problem["detail"].as_str().unwrap().contains("another name"), "{problem}");
    enroll(&app, &app.token, "pump-1", &csr_of(&mine)).await.refused(409, "name-taken");
    enroll(&app, &app.token, "pump-3", &csr_of(&mine)).await.refused(409, "key-taken");
    assert_eq!(app.count("select count(*) from devices").await, 1, "a refusal makes no device");
    app.still_serves("refused enrollments").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_that_are_no_good_say_nothing_more() {
    let app = TestApp::new().await;
    let (expired, revoked, good) =
        (app.enrollment_token(5).await, app.enrollment_token(5).await, app.enrollment_token(5).await);
    let id = |token: &str| token.split('_').nth(1).unwrap().to_owned();
    let sql = format!("update enrollment_tokens set expires_at = now() - interval '1 s' where id = '{}'", id(&expired));
    crate::support::TestCluster::shared().owner_batch(&app.database.database, &sql).await;
    app.admin_post(&format!("/v1/enrollment-tokens/{}/revoke", id(&revoked)), &Value::Null).await;
    let path = format!("/v1/enrollment-tokens/{}/revoke", id(&revoked));
    app.connect_admin().await.call(&Ask::post(&path).bearer(&app.admin)).await.ok(200);
    let parts: Vec<&str> = good.split('_').collect();
    let other_secret = format!("ebt_{}_{}_{}", parts[1], "0".repeat(parts[2].len()), parts[3]);
    let other_id = format!("ebt_{}_{}_{}", "0123456789abcdef", parts[2], parts[3]);
    let garbage = ["", "x", "ebt_", "ebt___", "ebt_a_b_c", "' or 1=1 --", "ebt_\u{0}_a_b", &good[..good.len() - 1]];
    let tokens = [expired.as_str(), &revoked, &other_secret, &other_id].into_iter().chain(garbage);
    let mut answers = Vec::new();
    for token in tokens {
        // The token is judged before the request is parsed.
        let answer = enroll(&app, token, "pump-1", "no request at all").await;
        if token.contains('\0') {
            assert_eq!(answer.status, 400, "{}", answer.text());
            continue;
        }
        let problem = answer.refused(401, "enrollment-token-invalid");
        assert!(token.len() < 3 || !answer.text().contains(token), "an echo: {}", answer.text());
        answers.push((problem["detail"].clone(), problem["title"].clone()));
        app.still_serves(token).await;
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "what is wrong with a token is not told: {answers:?}");
    let long = enroll(&app, &"a".repeat(300), "pump-1", "x").await;
    long.refused(400, "invalid");
    enroll(&app, &good, "pump-1", &csr_of(&key())).await.ok(201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_for_certificates_that_are_refused() {
    let app = TestApp::new().await;
    let mine = key();
    let good = params().serialize_request(&mine).unwrap().der().to_vec();
    let mut forged = good.clone();
    let last = forged.len() - 3;
    forged[last] ^= 1;
    let trailing = [good.as_slice(), b"\0"].concat();
    let mut ca = params();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let mut common_name = params();
    common_name.distinguished_name.push(DnType::CommonName, "pump-2");
    let mut dns = params();
    dns.subject_alt_names = vec![SanType::DnsName("bank.example".try_into().unwrap())];
    let mut other_device = params();
    let urn = format!("urn:everbeat:device:{}", Uuid::now_v7());
    other_device.subject_alt_names = vec![SanType::URI(urn.try_into().unwrap())];
    let short = include_str!("../fixtures/csr/rsa-1024.pem").to_owned();
    let cases = [
        ("a bad signature", pem(&forged), "signature"),
        ("trailing bytes", pem(&trailing), "bytes follow"),
        ("asks to be a CA", asking(&ca, &mine), "asks to be a CA"),
        ("another's name", asking(&common_name, &mine), "foreign name"),
        ("a DNS name", asking(&dns, &mine), "foreign name"),
        ("another's URI", asking(&other_device, &mine), "foreign name"),
        ("a short key", short, "P-256"),
        ("two requests", format!("{0}{0}", pem(&good)), "one PEM block"),
        ("a private key", mine.serialize_pem(), "one PEM block"),
        ("nothing", String::new(), "one PEM block"),
        ("garbage", pem(b"garbage"), "PKCS#10"),
    ];
    for (what, csr, help) in cases {
        let answer = enroll(&app, &app.token, "pump-1", &csr).await;
        let problem = answer.refused(400, "bad-csr");
        assert!(problem["detail"].as_str().unwrap().contains(help), "{what}: {problem}");
        assert!(!answer.text().contains("bank.example") && !answer.text().contains("pump-2"), "an echo: {problem}");
        app.still_serves(what).await;
    }
    let problem = enroll(&app, &app.token, "pump-1", &"x".repeat(16_385)).await.refused(400, "invalid");
    assert_eq!(problem["errors"][0]["pointer"], "/csr");
    assert_eq!(app.count("select count(*) from devices where name <> 'honest'").await, 0);
    // With renewals it is the same.
    let mut device = app.enroll("pump-1").await;
    for (csr, status) in [(asking(&ca, &mine), 400), (asking(&common_name, &mine), 400), (csr_of(&mine), 200)] {
        let answer = device.call(&Ask::post("/v1/renew").json(&json!({"csr": csr}))).await;
        assert_eq!(answer.status, status, "{}", answer.text());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_are_accepted_and_what_is_made_of_them() {
    let app = TestApp::new().await;
    for (name, algorithm) in [("p-384", &PKCS_ECDSA_P384_SHA384), ("ed25519", &PKCS_ED25519)] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let mut wanted = params();
        wanted.distinguished_name.push(DnType::CommonName, name);
        let answer = enroll(&app, &app.token, name, &asking(&wanted, &key)).await.ok(201);
        let identity = Identity::of(&answer, key);
        assert_eq!((answer["device"]["name"].as_str(), identity.name.as_str()), (Some(name), name));
        let certificate = app.admin_get(&format!("/v1/certificates/{}", hex(&identity.fingerprint))).await;
        assert_eq!(certificate["device_id"], answer["device"]["id"]);
        app.caller(identity).await.store(&reading()).await.ok(200);
    }
    let names = ["Pump", "-pump", "pump 1", "", "a/b", &"x".repeat(64), "pümp", "pump\u{0}"];
    for name in names {
        let answer = enroll(&app, &app.token, name, &csr_of(&key())).await;
        answer.refused(400, "invalid");
    }
    app.still_serves("odd names").await;
}
