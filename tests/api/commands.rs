//! The commands of the people who run a deployment, through the program itself, on a database that is in use.

use std::path::Path;
use std::time::Duration;

use everbeat::domain::time::Clock;
use everbeat::identity::pki;
use serde_json::json;
use tokio::time::Instant;

use crate::app::{TestApp, eventually};
use crate::support::{TestCluster, scratch_dir};
use crate::wire::{Ask, Wire};

const WITHIN: Duration = Duration::from_secs(1);

/// A command is not what is measured here, and the machine may be busy.
const PATIENT: [(&str, &str); 2] =
    [("EVERBEAT__DATABASE__STATEMENT_DEADLINE_MS", "20000"), ("EVERBEAT__DATABASE__CONNECT_DEADLINE_MS", "20000")];

/// Connections wait for the commands in between; nor are the replica's own deadlines measured here.
const LISTENER: &str = "[admin]\nfirst_request_deadline_ms = 300000\nidle_max_ms = 300000\n\
                        [database]\nstatement_deadline_ms = 20000\n";

pub struct Ran {
    ok: bool,
    out: String,
    err: String,
}

impl Ran {
    pub fn good(self) -> String {
        assert!(self.ok, "{}{}", self.out, self.err);
        self.out
    }

    /// Failed, and says all of this.
    pub fn says(&self, parts: &[&str]) {
        assert!(!self.ok, "{}", self.out);
        for part in parts {
            assert!(self.err.contains(part), "{part:?} is not in: {}", self.err);
        }
    }
}

pub async fn everbeat(app: &TestApp, args: &[&str], environment: &[(&str, &str)]) -> Ran {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_everbeat"));
    command.args(args).arg("--config").arg(app.settings_file()).envs(PATIENT).envs(environment.iter().copied());
    let output = command.output().await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ran { ok: output.status.success(), out: text(&output.stdout), err: text(&output.stderr) }
}

/// Gives `ask` to both replicas until both answer so; how long it took from now.
async fn both(wires: &mut [Wire; 2], ask: &Ask, status: u16) -> Duration {
    let begun = Instant::now();
    for wire in wires {
        loop {
            let answer = wire.call(ask).await;
            if answer.status == status {
                break;
            }
            assert!(begun.elapsed() < 20 * WITHIN, "not {status}, but {}", answer.text());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    begun.elapsed()
}

/// A change acts within a second. A busy machine may be slow to notice, but not three times in a row: what only the
/// poll of the change log brings takes longer, as often as not.
async fn quickly(what: &str, mut round: impl AsyncFnMut() -> Duration) {
    let mut took = Vec::new();
    for _ in 0..3 {
        took.push(round().await);
        if took.last().is_some_and(|took| *took < WITHIN) {
            return;
        }
    }
    panic!("{what} took {took:?}");
}

/// A request that only an admin of every fleet may make: for whoever may, its body is wrong.
fn as_admin(token: &str) -> Ask {
    Ask::post("/v1/fleets").bearer(token).json(&json!({"name": "Not A Name"}))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_loses_roles_and_access_on_every_replica() {
    let app = TestApp::with(LISTENER).await;
    let other = app.another().await;
    let mut wires = [app.connect_admin().await, app.connect_admin_of(&other).await];
    let mint = ["token", "mint", "--subject", "anna"];
    let token = everbeat(&app, &[&mint[..], &["--role", "admin"]].concat(), &[]).await.good().trim().to_owned();
    let leases = Ask::get("/v1/leases").bearer(&token);
    both(&mut wires, &as_admin(&token), 400).await;
    let listed = everbeat(&app, &["operator", "list"], &[]).await.good();
    let anna = |listed: &str| listed.lines().find(|line| line.trim_start().starts_with("anna ")).unwrap().to_owned();
    assert!(anna(&listed).contains("enabled") && anna(&listed).contains(" admin "), "{listed}");
    assert!(listed.lines().any(|line| line.trim_start().starts_with("root ")), "{listed}");

    quickly("the demotion", async || {
        everbeat(&app, &["operator", "roles", "anna", "--role", "admin"], &[]).await.good();
        both(&mut wires, &as_admin(&token), 400).await;
        everbeat(&app, &["operator", "roles", "anna", "--role", "viewer", "--role", "pumps=operator"], &[])
            .await
            .good();
        both(&mut wires, &as_admin(&token), 403).await
    })
    .await;
    both(&mut wires, &leases, 200).await;
    let listed = everbeat(&app, &["operator", "list"], &[]).await.good();
    assert!(anna(&listed).contains("pumps=operator viewer"), "{listed}");
    everbeat(&app, &["operator", "roles", "anna", "--none"], &[]).await.good();
    both(&mut wires, &leases, 403).await;
    everbeat(&app, &["operator", "roles", "anna", "--role", "admin"], &[]).await.good();
    both(&mut wires, &as_admin(&token), 400).await;

    quickly("the end of access", async || {
        everbeat(&app, &["operator", "enable", "anna"], &[]).await.good();
        let token = everbeat(&app, &mint, &[]).await.good();
        let leases = Ask::get("/v1/leases").bearer(token.trim());
        both(&mut wires, &leases, 200).await;
        everbeat(&app, &["operator", "disable", "anna"], &[]).await.good();
        both(&mut wires, &leases, 401).await
    })
    .await;
    everbeat(&app, &["operator", "disable", "anna"], &[]).await.good();
    both(&mut wires, &leases, 401).await;
    assert!(anna(&everbeat(&app, &["operator", "list"], &[]).await.good()).contains("disabled"));
    everbeat(&app, &mint, &[]).await.says(&["disabled"]);
    // What was taken away stays worthless; a new token brings the roles back that were never lost.
    everbeat(&app, &["operator", "enable", "anna"], &[]).await.good();
    let token = everbeat(&app, &mint, &[]).await.good().trim().to_owned();
    both(&mut wires, &as_admin(&token), 400).await;
    both(&mut wires, &leases, 401).await;

    for args in [&["operator", "disable", "bert"][..], &["operator", "roles", "bert", "--none"]] {
        everbeat(&app, args, &[]).await.says(&["no operator \"bert\""]);
    }
    everbeat(&app, &["operator", "roles", "anna", "--role", "nowhere=admin"], &[]).await.says(&["no fleet"]);
    everbeat(&app, &["operator", "roles", "anna"], &[]).await.says(&["--role", "--none"]);
    both(&mut wires, &as_admin(&token), 400).await;
    app.still_serves("changes of operators").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_listed_and_revoked() {
    let app = TestApp::with(LISTENER).await;
    let other = app.another().await;
    let mut wires = [app.connect_admin().await, app.connect_admin_of(&other).await];
    let mint = async || {
        let ran = everbeat(&app, &["token", "mint", "--subject", "anna", "--role", "viewer"], &[]).await;
        let jti = ran.err.split("jti: ").nth(1).unwrap().split(',').next().unwrap().to_owned();
        (ran.good().trim().to_owned(), jti)
    };
    let ((one, jti), (two, spare)) = (mint().await, mint().await);
    let list = async |args: &[&str]| everbeat(&app, &[&["token", "list"], args].concat(), &[]).await.good();
    let listed = list(&["--subject", "anna"]).await;
    assert!(listed.contains(&jti) && listed.contains(&spare) && !listed.contains("root"), "{listed}");
    assert!(!listed.contains(&one[..20]), "the token itself is nowhere");
    let whoami = |token: &str| Ask::get("/v1/whoami").bearer(token);
    both(&mut wires, &whoami(&one), 200).await;
    for _ in 0..2 {
        everbeat(&app, &["token", "revoke", "--jti", &jti], &[]).await.good();
        both(&mut wires, &whoami(&one), 401).await;
    }
    quickly("a revocation", async || {
        let (token, jti) = mint().await;
        both(&mut wires, &whoami(&token), 200).await;
        everbeat(&app, &["token", "revoke", "--jti", &jti], &[]).await.good();
        both(&mut wires, &whoami(&token), 401).await
    })
    .await;
    both(&mut wires, &whoami(&two), 200).await;
    assert!(!list(&[]).await.contains(&jti));
    let all = list(&["--all"]).await;
    assert!(all.lines().any(|line| line.contains(&jti) && line.contains("revoked")), "{all}");
    let nobody = uuid::Uuid::now_v7().to_string();
    everbeat(&app, &["token", "revoke", "--jti", &nobody], &[]).await.says(&["no token", &nobody]);
    everbeat(&app, &["token", "list", "--subject", "bert"], &[]).await.says(&["no operator"]);
}

fn contents(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(dir).into_iter().flatten();
    let mut files: Vec<_> = entries
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.display().to_string(), std::fs::read(path).unwrap())
        })
        .collect();
    files.sort();
    files
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn init_leaves_a_filled_database_alone() {
    let app = TestApp::new().await;
    let keys = "select count(*) from ca_certificates where state = 'active'";
    let (before, rows) = (contents(&app.settings.pki_dir), app.count(keys).await);
    everbeat(&app, &["init"], &[]).await.says(&["already", "join"]);
    // From an empty directory, from one with keys of another installation, and from one that is not whole.
    let (empty, foreign, part) = (scratch_dir("empty"), scratch_dir("foreign"), scratch_dir("part"));
    pki::create(&foreign, &["localhost".to_owned()], &Clock::System).unwrap();
    std::fs::create_dir_all(&part).unwrap();
    std::fs::copy(foreign.join("root.pem"), part.join("root.pem")).unwrap();
    for (dir, said) in [(&empty, "publishes keys already"), (&foreign, "already"), (&part, "missing")] {
        let was = contents(dir);
        let elsewhere = [("EVERBEAT__PKI__DIR", dir.to_str().unwrap())];
        everbeat(&app, &["init"], &elsewhere).await.says(&[said]);
        everbeat(&app, &["init", "--join"], &elsewhere).await.says(&[]);
        assert_eq!(contents(dir), was, "nothing is made in {}", dir.display());
    }
    everbeat(&app, &["init", "--join"], &[]).await.good();
    assert_eq!((contents(&app.settings.pki_dir), app.count(keys).await), (before, rows));
    app.still_serves("init").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn config_check_says_every_problem_at_once() {
    let app = TestApp::new().await;
    let check = ["config", "check"];
    // The replica shows itself within a tick.
    eventually(Duration::from_secs(20), async || app.count("select count(*) from replicas").await == 1).await;
    let good = everbeat(&app, &check, &[]).await.good();
    assert!(good.contains("is the primary") && good.contains("1 replica(s)"), "{good}");
    assert!(good.contains("issuing.pem is good until"), "{good}");

    let host = format!("127.0.0.1:{}", app.database.hosts[0].1);
    let wrong = [("EVERBEAT__DATABASE__FLEET__PASSWORD", "wrong"), ("EVERBEAT__PKI__DIR", "/nowhere")];
    let said = everbeat(&app, &check, &wrong).await;
    said.says(&[&host, "everbeat_fleet (database.fleet)", "password", "/nowhere"]);
    everbeat(&app, &[&check[..], &["--offline"]].concat(), &wrong).await.good();
    assert!(!said.err.contains("everbeat_control"), "{}", said.err);

    let many = everbeat(&app, &[&check[..], &["--replicas", "90"]].concat(), &[]).await;
    many.says(&["max_connections to at least", "everbeat_fleet may have", "everbeat_control may have"]);
    everbeat(&app, &check, &[("EVERBEAT__DATABASE__HOSTS", "127.0.0.1:1")])
        .await
        .says(&["127.0.0.1:1", "0 of 1 hosts"]);
    everbeat(&app, &check, &[("EVERBEAT__DATABASE__NAME", "postgres")]).await.says(&["everbeat migrate"]);
    let foreign = scratch_dir("foreign");
    pki::create(&foreign, &["localhost".to_owned()], &Clock::System).unwrap();
    let elsewhere = [("EVERBEAT__PKI__DIR", foreign.to_str().unwrap())];
    everbeat(&app, &check, &elsewhere).await.says(&["another CA certificate"]);
    let name = &app.database.database;
    let owner = TestCluster::shared();
    owner.owner_batch("postgres", &format!("alter database {name} connection limit 20")).await;
    everbeat(&app, &check, &[]).await.says(&[&format!("the database {name} allows 20 connections")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dev_names_the_programs_that_are_missing() {
    let dir = tempfile::tempdir().unwrap();
    let held: Vec<_> = (0..3).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let ports: Vec<String> = held.iter().map(|held| held.local_addr().unwrap().port().to_string()).collect();
    drop(held);
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_everbeat"));
    command.args(["dev", "--replicas", "1", "--dir"]).arg(dir.path().join("dev")).env("PATH", dir.path());
    command.args(["--device-port", &ports[0], "--admin-port", &ports[1], "--ops-port", &ports[2]]);
    let output = command.output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("sh, sleep, rm not found") && said.contains("PATH"), "{said}");
    assert!(!dir.path().join("dev/postgres/data").exists());
}
