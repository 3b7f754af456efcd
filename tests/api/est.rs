//! EST: the same enrollment in RFC 7030's words. What the service answers is read by OpenSSL, as devices do it.

use std::process::{Output, Stdio};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use everbeat::identity::ca::Root;
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, SanType};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use uuid::Uuid;

use crate::app::{Identity, TestApp, eventually, hex, issue, now, other_ca, reading};
use crate::support::{TestCluster, scratch_dir};
use crate::wire::{Answer, Ask};

const HOUR: Duration = Duration::from_hours(1);
const PKCS10: &str = "application/pkcs10";
const CERTS_ONLY: &str = "application/pkcs7-mime; smime-type=certs-only";
const ENROLL: &str = "/.well-known/est/simpleenroll";
const RENEW: &str = "/.well-known/est/simplereenroll";

fn params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
}

fn der(params: &CertificateParams, key: &KeyPair) -> Vec<u8> {
    params.serialize_request(key).unwrap().der().to_vec()
}

/// A request that asks for nothing.
fn request(key: &KeyPair) -> String {
    STANDARD.encode(der(&params(), key))
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

fn enrolling(token: &str, name: &str, body: impl Into<Vec<u8>>) -> Ask {
    Ask::post(ENROLL).header("Authorization", &basic(name, token)).bytes(PKCS10, body)
}

fn renewing(body: impl Into<Vec<u8>>) -> Ask {
    Ask::post(RENEW).bytes(PKCS10, body)
}

async fn enroll(app: &TestApp, token: &str, name: &str, body: impl Into<Vec<u8>>) -> Answer {
    app.connect(None).await.call(&enrolling(token, name, body)).await
}

async fn renew(app: &TestApp, identity: &Identity, body: impl Into<Vec<u8>>) -> Answer {
    app.connect(Some(identity)).await.call(&renewing(body)).await
}

/// A program of the caller's side, without the habits of whoever runs the tests.
async fn output(program: &str, args: &[&str], input: &[u8]) -> Output {
    let mut command = Command::new(program);
    command.args(args).env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| {
        panic!("{program} cannot be run ({error}): these tests need curl and openssl, which ./script/test installs")
    });
    child.stdin.take().unwrap().write_all(input).await.unwrap();
    child.wait_with_output().await.unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What it wrote, if all went well.
async fn run(program: &str, args: &[&str], input: &[u8]) -> String {
    let output = output(program, args, input).await;
    assert!(output.status.success(), "{program} {args:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// The certificates of a success, in PEM, as OpenSSL finds them.
async fn certificates(answer: &Answer) -> Vec<String> {
    assert_eq!((answer.status, answer.header("content-type")), (200, Some(CERTS_ONLY)), "{}", answer.text());
    assert!(answer.header("x-request-id").is_some());
    let script = "openssl base64 -d | openssl pkcs7 -inform DER -print_certs";
    let text = run("sh", &["-c", script], &answer.body).await;
    let blocks = text.split_inclusive("-----END CERTIFICATE-----\n").filter_map(|part| {
        let begin = part.find("-----BEGIN CERTIFICATE-----")?;
        Some(part[begin..].to_owned())
    });
    blocks.collect()
}

/// The one certificate that was issued, with its key.
async fn issued(answer: &Answer, name: &str, key: &KeyPair) -> Identity {
    let found = certificates(answer).await;
    assert_eq!(found.len(), 1, "the certificate that was issued, and no other (RFC 7030, 4.2.3)");
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let key = KeyPair::from_pem(&key.serialize_pem()).unwrap();
    Identity::of(&json!({"certificate": found[0], "device": {"name": name}}), key)
}

/// An error in plain words that help, and what every error has.
fn refused(answer: &Answer, status: u16, says: &str) {
    let text = answer.text();
    assert_eq!((answer.status, answer.header("content-type")), (status, Some("text/plain; charset=utf-8")), "{text}");
    assert!(text.contains(says), "{says:?} is not in: {text}");
    assert!(text.lines().count() == 2 && text.ends_with('\n') && text.len() < 400, "{text}");
    assert!(answer.header("x-request-id").is_some(), "{text}");
    assert_eq!(answer.header("cache-control"), Some("no-store"), "{text}");
    let challenge = (status == 401).then_some("Basic realm=\"everbeat-enrollment\"");
    assert_eq!(answer.header("www-authenticate"), challenge, "{text}");
    assert_eq!(answer.header("retry-after").is_some(), matches!(status, 429 | 503), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_commands_of_the_page_work_as_they_stand() {
    // Missing, they would be a puzzle among the lines of a script.
    run("curl", &["--version"], b"").await;
    run("openssl", &["version"], b"").await;
    let app = TestApp::new().await;
    let mut blocks: Vec<&str> = include_str!("../../docs/est.md").split("```sh\n").skip(1).collect();
    for block in &mut blocks {
        *block = block.split_once("```").unwrap().0;
    }
    // The first says what differs from reader to reader.
    let settings = blocks.remove(0);
    let names: Vec<&str> = settings.lines().map(|line| line.split_once('=').unwrap().0).collect();
    assert_eq!(names, ["URL", "NAME", "TOKEN"]);
    let url = format!("https://localhost:{}", app.replica.running.device_addr.port());
    let own = format!("URL={url}\nNAME=pump-1\nTOKEN={}\n", app.enrollment_token(1).await);
    let dir = scratch_dir("est");
    std::fs::create_dir(&dir).unwrap();
    let script = format!("cd '{}'\n{own}{}", dir.display(), blocks.concat());
    let said = run("sh", &["-c", &script], b"").await;
    assert_eq!(said.matches("\"next_in_s\":").count(), 2, "a heartbeat before the renewal and one after: {said}");
    assert!(said.contains("\"stored\":1") && said.contains("subject=CN"), "{said}");

    let device = app.admin_get("/v1/devices/name:pumps:pump-1").await;
    let latest = app.admin_get(&format!("/v1/devices/{}/readings/latest", device["id"].as_str().unwrap())).await;
    assert_eq!(latest["values"], json!({"temperature": 21.5}));
    assert_eq!(app.count("select count(*) from credentials").await, 2, "the first, and the renewed");
    // Whoever answers with other CAs than the token names gets nothing: the script ends before the token is used.
    let parts: Vec<&str> = app.token.split('_').collect();
    let other = format!("URL={url}\nNAME=pump-2\nTOKEN=ebt_{}_{}_{}\n", parts[1], parts[2], "0".repeat(32));
    let script = format!("mkdir '{0}/2'; cd '{0}/2'\n{other}{1}", dir.display(), blocks.concat());
    let ended = output("sh", &["-c", &script], b"").await;
    let complaint = text(&ended.stderr);
    assert!(!ended.status.success() && complaint.contains("do not send it"), "{complaint}");
    assert!(!dir.join("2/request.b64").exists());
    std::fs::remove_dir_all(&dir).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cas_to_trust_are_those_of_the_bundle() {
    let app = TestApp::new().await;
    let file = app.settings.pki_dir.join("ca.pem");
    let given = async || {
        let answer = app.connect(None).await.call(&Ask::get("/.well-known/est/cacerts")).await;
        let mut found = certificates(&answer).await;
        found.sort_unstable();
        found
    };
    let blocks = |pem: &str| {
        let mut blocks: Vec<String> =
            pem.replace("\r\n", "\n").split_inclusive("-----END CERTIFICATE-----\n").map(str::to_owned).collect();
        blocks.sort_unstable();
        blocks
    };
    let old = std::fs::read_to_string(&file).unwrap();
    assert_eq!(given().await, blocks(&old));
    let new = format!("{old}{}", Root::make(now()).unwrap().certificate_pem());
    std::fs::write(&file, &new).unwrap();
    app.replica.running.reload().await;
    assert_eq!((given().await, blocks(&new).len()), (blocks(&new), 3), "the next CA is among them");

    let attributes = app.connect(None).await.call(&Ask::get("/.well-known/est/csrattrs")).await;
    assert_eq!((attributes.status, attributes.body.len()), (204, 0));
    assert!(attributes.header("x-request-id").is_some());
    // A HEAD is a GET without the body.
    let url = |path: &str| format!("https://localhost:{}{path}", app.replica.running.device_addr.port());
    let ca = file.display().to_string();
    let head = async |path: &str| {
        let said = run("curl", &["--silent", "--head", "--http1.1", "--cacert", &ca, &url(path)], b"").await;
        said.to_ascii_lowercase()
    };
    let said = head("/.well-known/est/cacerts").await;
    assert!(said.starts_with("http/1.1 200") && said.contains(CERTS_ONLY), "{said}");
    let said = head(ENROLL).await;
    assert!(said.starts_with("http/1.1 405") && said.contains("\r\nallow: post\r\n"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn est_enrolls_as_the_other_door_does() {
    let app = TestApp::new().await;
    let token = app.enrollment_token(1).await;
    let key = KeyPair::generate().unwrap();
    let first = enroll(&app, &token, "pump-1", request(&key)).await;
    let first = issued(&first, "pump-1", &key).await;
    let device = first.device;
    // The answer got lost: the same token, name and key again, now as others write base64 and its headers.
    let mut broken = request(&key).into_bytes().chunks(60).collect::<Vec<_>>().join(&b"\r\n\t "[..]);
    broken.extend(b"\r\n");
    let ask = enrolling(&token, "pump-1", broken).header("Content-Transfer-Encoding", "binary");
    let ask = ask.header("Accept", "application/pkcs7-mime");
    let again = issued(&app.connect(None).await.call(&ask).await, "pump-1", &key).await;
    assert_eq!(again.device, device);
    assert_ne!(again.fingerprint, first.fingerprint);
    for identity in [first, again] {
        // Without the issuing CA's certificate beside its own.
        let mut caller = app.caller(identity).await;
        caller.store(&reading()).await.ok(200);
    }
    // A certificate on the connection changes nothing: the token decides.
    let other = KeyPair::generate().unwrap();
    let device = app.enroll("pump-3").await;
    let ask = enrolling(&app.token, "pump-4", request(&other));
    let made = app.connect(Some(&device.identity)).await.call(&ask).await;
    assert_ne!(issued(&made, "pump-4", &other).await.device, device.identity.device);

    refused(&enroll(&app, &token, "pump-2", request(&other)).await, 401, "Get a new one");
    let fresh = KeyPair::generate().unwrap();
    refused(&enroll(&app, &token, "pump-1", request(&fresh)).await, 409, "another name");
    refused(&enroll(&app, &app.token, "pump-5", request(&key)).await, 409, "new key pair");
    assert_eq!(app.count("select count(*) from devices").await, 3, "a refusal makes no device");
    app.still_serves("enrollment by EST").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_has_no_good_token_learns_nothing_more() {
    let app = TestApp::new().await;
    let key = KeyPair::generate().unwrap();
    let parts: Vec<&str> = app.token.split('_').collect();
    let guessed = format!("ebt_{}_{}_{}", parts[1], "0".repeat(64), parts[3]);
    let wrong = [guessed.as_str(), "ebt_", "", "password", &app.token[..app.token.len() - 1]];
    for token in wrong {
        // It is judged before the request is.
        for body in [request(&key), "no base64".to_owned()] {
            let answer = enroll(&app, token, "pump-1", body).await;
            refused(&answer, 401, "It is unknown, used up, expired or revoked. Get a new one.");
            assert!(token.len() < 9 || !answer.text().contains(token), "an echo: {}", answer.text());
        }
    }
    let plain = Ask::post(ENROLL).bytes(PKCS10, request(&key));
    let pair = STANDARD.encode(format!("pump-1:{}", app.token));
    let missing = [
        plain.clone(),
        plain.clone().bearer(&app.token),
        plain.clone().header("Authorization", "Basic"),
        plain.clone().header("Authorization", &format!("Basic {pair}!")),
        plain.clone().header("Authorization", &format!("Basic {}", STANDARD.encode(&app.token))),
        plain.clone().header("Authorization", &basic("pump-1", &app.token)).bearer(&app.token),
        // Not in the query, and not in a body of the other door's.
        Ask::post(ENROLL).json(&json!({"token": app.token, "name": "pump-1", "csr": crate::app::csr_of(&key)})),
    ];
    for ask in missing {
        refused(&app.connect(None).await.call(&ask).await, 401, "Send HTTP Basic: the device's name as the user");
    }
    assert_eq!(app.count("select count(*) from devices").await, 0);
    app.still_serves("no token").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_are_no_good_are_refused_in_plain_words() {
    let app = TestApp::new().await;
    let key = KeyPair::generate().unwrap();
    let good = der(&params(), &key);
    let with = |change: &dyn Fn(&mut CertificateParams)| {
        let mut wanted = params();
        change(&mut wanted);
        STANDARD.encode(der(&wanted, &key))
    };
    let mut forged = good.clone();
    let last = forged.len() - 3;
    forged[last] ^= 1;
    let cases = [
        ("nothing", String::new(), "PKCS#10"),
        ("no base64", "hello, world!".to_owned(), "base64"),
        ("PEM", crate::app::csr_of(&key), "base64"),
        ("a lost end", request(&key)[..100].to_owned(), "PKCS#10"),
        ("base64 for URLs", request(&key).replace(['+', '/'], "-") + "-", "base64"),
        ("trailing bytes", STANDARD.encode([good.as_slice(), b"\0"].concat()), "bytes follow"),
        ("a bad signature", STANDARD.encode(&forged), "signature"),
        ("a CA", with(&|wanted| wanted.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)), "asks to be a CA"),
        (
            "another's name",
            with(&|wanted| wanted.distinguished_name.push(DnType::CommonName, "pump-2")),
            "foreign name",
        ),
        (
            "a DNS name",
            with(&|wanted| wanted.subject_alt_names = vec![SanType::DnsName("bank.example".try_into().unwrap())]),
            "foreign name",
        ),
        ("long", STANDARD.encode(vec![0x30_u8; 16 * 1024 + 1]), "16 KiB"),
    ];
    let mut device = app.enroll("pump-0").await;
    for (what, body, help) in cases {
        let answer = enroll(&app, &app.token, "pump-1", body.clone()).await;
        refused(&answer, 400, help);
        assert!(!answer.text().contains("bank.example") && !answer.text().contains("pump-2"), "an echo: {what}");
        refused(&device.call(&renewing(body)).await, 400, help);
        app.still_serves(what).await;
    }
    for name in ["", "Pump", "pump 1", "pümp", "a/b"] {
        let answer = enroll(&app, &app.token, name, request(&key)).await;
        refused(&answer, 400, "The user of HTTP Basic is the device's name; a name is 1 to 63 characters");
        assert!(name.len() < 4 || !answer.text().contains(name), "an echo: {}", answer.text());
    }
    assert_eq!(app.count("select count(*) from devices where name not in ('honest', 'pump-0')").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_request_of_est_is_refused_in_plain_words_too() {
    let app = TestApp::new().await;
    let key = KeyPair::generate().unwrap();
    let device = app.enroll("pump-0").await;
    let authorized = |path: &str| Ask::post(path).header("Authorization", &basic("pump-1", &app.token));
    let large = vec![b'A'; app.settings.http.body_max_bytes + 1];
    for path in [ENROLL, RENEW] {
        let url_encoded = authorized(path).bytes("application/x-www-form-urlencoded", request(&key));
        let head = authorized(path).header("Content-Type", PKCS10).header("Content-Length", "70000000").head_only();
        let asks = [
            (url_encoded, 415, "application/pkcs10"),
            (authorized(path), 415, "application/pkcs10"),
            (authorized(path).bytes(PKCS10, request(&key)).header("Content-Encoding", "br"), 415, "gzip, zstd"),
            (authorized(path).bytes(PKCS10, large.clone()), 413, "At most"),
            (
                authorized(path).bytes(PKCS10, request(&key)).header("Accept", "text/html"),
                406,
                "application/pkcs7-mime",
            ),
            (authorized(&format!("{path}?secret=1")).bytes(PKCS10, request(&key)), 400, "no such parameter"),
        ];
        for (ask, status, says) in asks {
            let answer = app.connect(Some(&device.identity)).await.call(&ask).await;
            refused(&answer, status, says);
            assert!(!answer.text().contains("secret"), "an echo: {}", answer.text());
        }
        // By its declared length, before any of it is sent.
        let mut wire = app.connect(Some(&device.identity)).await;
        wire.send(&head).await;
        refused(&wire.answer().await, 413, "At most");
    }
    for (path, allowed) in [
        (ENROLL, "POST"),
        (RENEW, "POST"),
        ("/.well-known/est/cacerts", "GET,HEAD"),
        ("/.well-known/est/csrattrs", "GET,HEAD"),
    ] {
        for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
            if allowed.contains(method) {
                continue;
            }
            let answer = app.connect(None).await.call(&Ask::of(method, path)).await;
            refused(&answer, 405, "Allow header");
            assert_eq!(answer.header("allow"), Some(allowed), "{method} {path}");
        }
    }
    let nowhere = ["label/cacerts", "label/simpleenroll", "serverkeygen", "fullcmc", "cacerts/", ""];
    for path in nowhere.map(|path| format!("/.well-known/est/{path}")) {
        refused(&app.connect(None).await.call(&authorized(&path)).await, 404, "There is no such path");
    }
    app.connect(None).await.call(&Ask::get("/.well-known/other")).await.refused(404, "not-found");
    app.still_serves("odd requests").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_renews_with_the_certificate_that_it_has() {
    let app = TestApp::new().await;
    let first = app.enroll("pump-1").await.identity;
    // RFC 7030, 4.2.2: with the names of the present certificate.
    let mut named = params();
    named.distinguished_name.push(DnType::CommonName, first.device.to_string());
    named.subject_alt_names = vec![SanType::URI(format!("urn:everbeat:device:{}", first.device).try_into().unwrap())];
    let key = KeyPair::generate().unwrap();
    let answer = renew(&app, &first, STANDARD.encode(der(&named, &key))).await;
    let second = issued(&answer, "pump-1", &key).await;
    assert_eq!(second.device, first.device);
    for identity in [first, second] {
        app.caller(identity).await.store(&reading()).await.ok(200);
    }
    refused(&app.connect(None).await.call(&renewing(request(&key))).await, 401, "Connect with the certificate");
    // A token is for enrollment.
    let ask = renewing(request(&key)).header("Authorization", &basic("pump-1", &app.token));
    refused(&app.connect(None).await.call(&ask).await, 401, "Connect with the certificate");
    let stranger = issue(&other_ca(), Uuid::now_v7(), now(), HOUR);
    refused(&renew(&app, &stranger, request(&key)).await, 401, "not one of ours");
    let unknown = app.issue(Uuid::now_v7(), now(), HOUR);
    refused(&renew(&app, &unknown, request(&unknown.key)).await, 401, "Enroll again");
    app.still_serves("renewals").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_policy_says_how_long_an_expired_certificate_renews() {
    let app = TestApp::new().await;
    let device = app.enroll("pump-1").await.identity.device;
    let expired = app.issue(device, now() - 10 * HOUR, HOUR);
    app.record(&expired).await;
    let answer = renew(&app, &expired, request(&expired.key)).await;
    let renewed = issued(&answer, "pump-1", &expired.key).await;
    assert_eq!(renewed.device, device);
    app.caller(renewed).await.store(&reading()).await.ok(200);
    let sql = "update fleets set renew_expired_within_s = 3600";
    TestCluster::shared().owner_batch(&app.database.database, sql).await;
    refused(&renew(&app, &expired, request(&expired.key)).await, 401, "enroll again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn devices_that_may_not_do_not() {
    let app = TestApp::new().await;
    let (suspended, revoked) = (app.enroll("pump-1").await.identity, app.enroll("pump-2").await.identity);
    app.admin_post(&format!("/v1/devices/{}/suspend", suspended.device), &json!({})).await.ok(200);
    refused(&renew(&app, &suspended, request(&suspended.key)).await, 403, "resume the device");
    let path = format!("/v1/certificates/{}/revoke", hex(&revoked.fingerprint));
    app.admin_post(&path, &json!({})).await.ok(200);
    refused(&renew(&app, &revoked, request(&revoked.key)).await, 401, "revoked");
    refused(&enroll(&app, &app.token, "pump-3", request(&revoked.key)).await, 409, "new key pair");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_database_est_says_when_to_come_again() {
    let app = TestApp::new().await;
    let device = app.enroll("pump-1").await.identity;
    let name = &app.database.database;
    let close = format!(
        "alter database {name} allow_connections false;
         select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}'"
    );
    TestCluster::shared().owner_batch("postgres", &close).await;
    let key = KeyPair::generate().unwrap();
    refused(&enroll(&app, &app.token, "pump-2", request(&key)).await, 503, "again");
    refused(&renew(&app, &device, request(&device.key)).await, 503, "again");
    // Whom to trust can be told all the same.
    let cas = app.connect(None).await.call(&Ask::get("/.well-known/est/cacerts")).await;
    assert_eq!(certificates(&cas).await.len(), 2);
    let open = format!("alter database {name} allow_connections true");
    TestCluster::shared().owner_batch("postgres", &open).await;
    eventually(Duration::from_secs(20), async || enroll(&app, &app.token, "pump-2", request(&key)).await.status == 200)
        .await;
}
