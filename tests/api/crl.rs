//! The revocation list, as others read it: with openssl.

use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::app::{Caller, TestApp, csr_of, hex};
use crate::support::TestCluster;
use crate::wire::Ask;

/// What openssl says. It is part of every Debian; without it, nobody has read the list but ourselves.
fn openssl(args: &[&str]) -> (bool, String) {
    let ran = Command::new("openssl").args(args).output();
    let ran = ran.unwrap_or_else(|error| panic!("install openssl, this test is about what it says: {error}"));
    let text = [ran.stdout.as_slice(), &ran.stderr].map(String::from_utf8_lossy).concat();
    (ran.status.success(), text)
}

async fn list(app: &TestApp, path: &str) -> Vec<u8> {
    let answer = app.connect(None).await.call(&Ask::get(path)).await;
    let media = if path == "/v1/crl" { "application/pkix-crl" } else { "application/x-pem-file" };
    assert_eq!((answer.status, answer.header("content-type")), (200, Some(media)), "{}", answer.text());
    assert_eq!(answer.header("cache-control"), Some("public, max-age=60"));
    answer.body
}

/// The list, in both encodings, verified by openssl against the CA bundle; as text.
async fn read(app: &TestApp, dir: &Path) -> String {
    let ca = app.settings.pki_dir.join("ca.pem").display().to_string();
    let mut texts = Vec::new();
    for (path, form) in [("/v1/crl", "DER"), ("/v1/crl.pem", "PEM")] {
        let file = dir.join(form).display().to_string();
        std::fs::write(&file, list(app, path).await).unwrap();
        let (ok, text) =
            openssl(&["crl", "-inform", form, "-in", &file, "-CAfile", &ca, "-noout", "-text", "-nameopt", "RFC2253"]);
        assert!(ok && text.contains("verify OK"), "{form}: {text}");
        texts.push(text);
    }
    assert_eq!(texts[0], texts[1], "one list in two encodings");
    texts.remove(0)
}

/// Is the device's certificate good, for somebody with the list?
fn is_good(app: &TestApp, dir: &Path, device: &Caller) -> bool {
    let leaf = dir.join("leaf.pem");
    let pems: Vec<&str> = device.identity.chain.split_inclusive("-----END CERTIFICATE-----\n").collect();
    std::fs::write(&leaf, pems[0]).unwrap();
    let path = |name: &str| app.settings.pki_dir.join(name).display().to_string();
    let (root, issuing) = (path("root.pem"), path("issuing.pem"));
    let (crl, leaf) = (dir.join("PEM").display().to_string(), leaf.display().to_string());
    let args = ["verify", "-CAfile", &root, "-untrusted", &issuing, "-CRLfile", &crl, "-crl_check", &leaf];
    let (ok, text) = openssl(&args);
    assert!(ok || text.contains("certificate revoked"), "{text}");
    ok
}

fn serial(app: &TestApp, pem: &str) -> String {
    let file = app.settings.pki_dir.join("one.pem");
    std::fs::write(&file, pem).unwrap();
    let (ok, text) = openssl(&["x509", "-in", &file.display().to_string(), "-noout", "-serial"]);
    assert!(ok, "{text}");
    text.trim().trim_start_matches("serial=").to_owned()
}

async fn revoke(app: &TestApp, device: &Caller, reason: &str) {
    let path = format!("/v1/certificates/{}/revoke", hex(&device.identity.fingerprint));
    app.admin_post(&path, &json!({"reason": reason})).await.ok(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openssl_reads_and_verifies_the_list() {
    let app = TestApp::new().await;
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path();
    let (good, mut stolen, broken) = (app.enroll("good").await, app.enroll("stolen").await, app.enroll("broken").await);
    revoke(&app, &stolen, "keyCompromise").await;
    revoke(&app, &broken, "fell into the sea").await;
    // One that had ended long before; one of another CA; and one of the first, as rows were before they said whose.
    let ended = app.enroll("ended").await;
    revoke(&app, &ended, "keyCompromise").await;
    let foreign = app.enroll("foreign").await;
    revoke(&app, &foreign, "keyCompromise").await;
    let sql = format!(
        "update credentials set not_after = now() - interval '2 days' where fingerprint = '\\x{}';
         update credentials set issuer = sha256('another') where fingerprint = '\\x{}';
         update credentials set issuer = null where fingerprint = '\\x{}'",
        hex(&ended.identity.fingerprint),
        hex(&foreign.identity.fingerprint),
        hex(&broken.identity.fingerprint)
    );
    TestCluster::shared().owner_batch(&app.database.database, &sql).await;

    let text = read(&app, dir).await;
    let serials = [&good, &stolen, &broken, &ended, &foreign].map(|device| serial(&app, &device.identity.chain));
    let listed = serials.each_ref().map(|serial| text.contains(&format!("Serial Number: {serial}")));
    assert_eq!(listed, [false, true, true, false, false], "{text}");
    assert_eq!(text.matches("Key Compromise").count(), 1, "{text}");
    assert!(text.contains("Version 2") && text.contains("X509v3 CRL Number") && text.contains("Next Update"), "{text}");
    let issuing = app.settings.pki_dir.join("issuing.pem").display().to_string();
    let (_, ca) = openssl(&["x509", "-in", &issuing, "-noout", "-ext", "subjectKeyIdentifier"]);
    let key = ca.lines().last().unwrap().trim();
    assert!(key.len() > 20 && text.contains(key), "the authority key identifier is not {key}: {text}");
    assert!(is_good(&app, dir, &good) && !is_good(&app, dir, &stolen) && !is_good(&app, dir, &broken));

    // It is kept for a moment; another replica makes its own, and no smaller number.
    revoke(&app, &good, "keyCompromise").await;
    assert_eq!(read(&app, dir).await, text);
    let other = app.another().await;
    let newer = app.connect_to(other.running.device_addr, None).await.call(&Ask::get("/v1/crl.pem")).await.body;
    std::fs::write(dir.join("PEM"), newer).unwrap();
    assert!(!is_good(&app, dir, &good));
    // What others are told changes nothing for us: the database decides.
    stolen.me().await.refused(401, "certificate-revoked");
    app.still_serves("a revocation list").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_without_entries_is_a_list_and_replaced_certificates_say_so() {
    let app = TestApp::new().await;
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path();
    let text = read(&app, dir).await;
    assert!(text.contains("No Revoked Certificates"), "{text}");
    let mut device = app.enroll("pump").await;
    for _ in 0..3 {
        let ask = Ask::post("/v1/renew").json(&json!({"csr": csr_of(&rcgen::KeyPair::generate().unwrap())}));
        device.call(&ask).await.ok(200);
    }
    let other = app.another().await;
    let newer = app.connect_to(other.running.device_addr, None).await.call(&Ask::get("/v1/crl.pem")).await.body;
    let file = dir.join("newer").display().to_string();
    std::fs::write(&file, newer).unwrap();
    let (ok, text) = openssl(&["crl", "-in", &file, "-noout", "-text"]);
    assert!(ok && text.matches("Superseded").count() == 1, "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_database_there_is_no_list_and_no_empty_one() {
    let app = TestApp::new().await;
    let name = &app.database.database;
    let cut = format!(
        "alter database {name} with allow_connections false;
         select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}'"
    );
    TestCluster::shared().owner_batch("postgres", &cut).await;
    app.connect(None).await.call(&Ask::get("/v1/crl")).await.refused(503, "unavailable");
}
