//! schemathesis and openapi-python-client against a live replica, by the documents that are checked in.
//! `script/contract-python` gets them; where it cannot, these tests fail and say so.

use std::path::{Path, PathBuf};
use std::process::Output;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::KeyPair;
use serde_json::json;
use tokio::process::Command;
use tokio::sync::OnceCell;

use crate::app::{TestApp, csr_of};
use crate::support::scratch_dir;

/// Requests come one after the other, but many: rates would be all that is tested. Nor is this about how fast the
/// machine is that tests.
const SETTINGS: &str = "[admission]\ndevice_requests_per_s = 0\nfleet_requests_per_s = 0\n\
                        [database]\nstatement_deadline_ms = 20000\n[http]\nsubmit_deadline_ms = 20000\n";

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs it to its end; what it printed is in the failure.
async fn run(command: &mut Command) -> Output {
    let output = command.kill_on_drop(true).output().await.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}: {}\n{out}\n{err}", command.as_std().get_program().display(), output.status);
    eprintln!("{out}");
    output
}

/// A program of the Python environment, which the first call makes.
async fn program(name: &str) -> Command {
    static BIN: OnceCell<PathBuf> = OnceCell::const_new();
    let bin = BIN.get_or_init(async || {
        let made = run(Command::new("sh").arg(here().join("script/contract-python")).current_dir(here())).await;
        PathBuf::from(String::from_utf8(made.stdout).unwrap().lines().last().unwrap()).join("bin")
    });
    let bin = bin.await;
    let mut command = Command::new(bin.join(name));
    // The generator formats what it made with a program that stands beside it.
    let path = std::env::var_os("PATH").unwrap_or_default();
    command
        .env("PATH", format!("{}:{}", bin.display(), path.display()))
        .env("PYTHONPATH", here().join("tests/contract"));
    command.env("SCHEMATHESIS_HOOKS", "hooks").env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

fn document(listener: &str) -> PathBuf {
    here().join(format!("docs/openapi/{listener}.json"))
}

/// A directory with the CA bundle in it.
fn place(app: &TestApp) -> PathBuf {
    let place = scratch_dir("contract");
    std::fs::create_dir_all(&place).unwrap();
    std::fs::write(place.join("ca.pem"), app.pki.ca_bundle.pem().as_bytes()).unwrap();
    place
}

async fn schemathesis(app: &TestApp, place: &Path, listener: &str, port: u16, token: &str) -> Command {
    let mut command = program("schemathesis").await;
    command
        .arg("--config-file")
        .arg(here().join("tests/contract/schemathesis.toml"))
        .arg("run")
        .arg(document(listener));
    command.args(["--url", &format!("https://localhost:{port}"), "-H", &format!("Authorization: Bearer {token}")]);
    command.arg("--tls-verify").arg(place.join("ca.pem")).current_dir(place);
    command.env("EST_AUTHORIZATION", format!("Basic {}", STANDARD.encode(format!("est-1:{}", app.token))));
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schemathesis_finds_nothing_at_the_device_listener() {
    let app = TestApp::with(SETTINGS).await;
    let (place, device) = (place(&app), app.enroll("pump-1").await);
    std::fs::write(place.join("device.pem"), &device.identity.chain).unwrap();
    std::fs::write(place.join("device.key"), device.identity.key.serialize_pem()).unwrap();
    let mut command = schemathesis(&app, &place, "device", app.replica.running.device_addr.port(), &device.token).await;
    command.env("ENROLLMENT_TOKEN", &app.token).env("CSR", csr_of(&KeyPair::generate().unwrap()));
    command.args(["--request-cert", "device.pem", "--request-cert-key", "device.key"]);
    run(&mut command).await;
    app.still_serves("schemathesis").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schemathesis_finds_nothing_at_the_admin_listener() {
    let app = TestApp::with(SETTINGS).await;
    let (place, mut device) = (place(&app), app.enroll("pump-1").await);
    device.store(&crate::app::reading()).await.ok(200);
    run(&mut schemathesis(&app, &place, "admin", app.replica.running.admin_addr.port(), &app.admin).await).await;
    // It revokes and suspends whatever it finds, the fixture's tokens and devices included.
    app.admin_get("/v1/devices").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn generated_clients_serve_a_device_and_an_operator() {
    let app = TestApp::with(SETTINGS).await;
    let (place, key) = (place(&app), KeyPair::generate().unwrap());
    let clients = place.join("clients");
    std::fs::create_dir(&clients).unwrap();
    for listener in ["device", "admin"] {
        let mut generate = program("openapi-python-client").await;
        generate.args(["generate", "--meta", "none", "--config"]).arg(here().join("tests/contract/client.yaml"));
        generate
            .arg("--path")
            .arg(document(listener))
            .arg("--output-path")
            .arg(clients.join(format!("everbeat_{listener}")));
        run(&mut generate).await;
    }
    std::fs::write(place.join("device.key"), key.serialize_pem()).unwrap();
    let url = |port: u16| format!("https://localhost:{port}");
    let situation = json!({
        "clients": clients,
        "device_url": url(app.replica.running.device_addr.port()),
        "admin_url": url(app.replica.running.admin_addr.port()),
        "ca": place.join("ca.pem"),
        "key": place.join("device.key"),
        "certificate": place.join("device.pem"),
        "csr": csr_of(&key),
        "enrollment_token": app.token,
        "admin_token": app.admin,
    });
    std::fs::write(place.join("situation.json"), situation.to_string()).unwrap();
    run(program("python").await.arg(here().join("tests/contract/client.py")).arg(place.join("situation.json"))).await;
}

#[tokio::test]
async fn the_examples_conform_to_their_schemas() {
    let check = here().join("tests/contract/examples.py");
    run(program("python").await.arg(check).args([document("device"), document("admin")])).await;
}
