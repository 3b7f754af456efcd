//! Keys are replaced while devices talk: on connections that are open all the time and on new ones, with replicas that
//! are restarted in between. No request fails that a device with one retry would see.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use everbeat::identity::ca::Root;
use rcgen::KeyPair;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, ServerName, UnixTime};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::app::{Caller, HTTP_1, Identity, Replica, TestApp, csr_of, eventually, hex, now, reading};
use crate::commands::everbeat;
use crate::support::{TestCluster, scratch_dir};
use crate::wire::{Answer, Ask, Wire};

/// A replica looks at its files every five seconds, and the machine may be busy.
const SOON: Duration = Duration::from_mins(1);
/// Connections wait for the commands in between, and statements for the machine.
const PATIENT: &str = "[devices]\nidle_max_ms = 300000\n[admin]\nfirst_request_deadline_ms = 300000\nidle_max_ms = 300000\n\
                       [database]\nstatement_deadline_ms = 20000\n";

/// Who signed a token.
fn kid(token: &str) -> String {
    let header = URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
    let header: Value = serde_json::from_slice(&header).unwrap();
    header["kid"].as_str().unwrap().to_owned()
}

fn copied(dir: &Path) -> PathBuf {
    let copy = scratch_dir("pki-copy");
    std::fs::create_dir_all(&copy).unwrap();
    for entry in std::fs::read_dir(dir).unwrap() {
        let from = entry.unwrap().path();
        std::fs::copy(&from, copy.join(from.file_name().unwrap())).unwrap();
    }
    copy
}

async fn sql(app: &TestApp, text: &str) {
    TestCluster::shared().owner_batch(&app.database.database, text).await;
}

/// The replicas that live have all confirmed the next key of this use.
async fn confirmed(app: &TestApp, role: &str, replicas: i64) {
    let query = format!(
        "select count(*) from replica_keys k join signing_keys s on s.key = k.key and s.state = 'next' and s.role = '{role}'
         join replicas r on r.id = k.replica and r.seen_at > now() - interval '1 minute'"
    );
    eventually(SOON, async || app.count(&query).await == replicas).await;
}

/// Two replicas and devices that never stop talking.
struct Fleet {
    app: Arc<TestApp>,
    addrs: Arc<Mutex<[SocketAddr; 2]>>,
    stop: Arc<AtomicBool>,
    calls: Arc<AtomicU64>,
    retries: Arc<AtomicU64>,
    devices: Vec<JoinHandle<()>>,
    other: Replica,
}

impl Fleet {
    async fn start(app: TestApp) -> Self {
        let other = app.another().await;
        let addrs = [app.replica.running.device_addr, other.running.device_addr];
        let mut fleet = Self {
            app: Arc::new(app),
            addrs: Arc::new(Mutex::new(addrs)),
            stop: Arc::default(),
            calls: Arc::default(),
            retries: Arc::default(),
            devices: Vec::new(),
            other,
        };
        for number in 0..4 {
            let device = fleet.app.enroll(&format!("talker-{number}")).await;
            let talker = Talker {
                app: fleet.app.clone(),
                addrs: fleet.addrs.clone(),
                calls: fleet.calls.clone(),
                retries: fleet.retries.clone(),
                at: number % 2,
                device,
            };
            fleet.devices.push(everbeat::lifecycle::tasks::spawn(talker.talk(number, fleet.stop.clone())));
        }
        fleet
    }

    /// The second replica is killed, and another takes its place.
    async fn restart(&mut self) {
        let old = self.other.running.replica;
        // As a load balancer does; who is on their way there all the same is let down.
        self.addrs.lock().unwrap()[1] = self.app.replica.running.device_addr;
        self.other.tasks.shutdown().abort();
        self.other = self.app.another().await;
        self.addrs.lock().unwrap()[1] = self.other.running.device_addr;
        sql(&self.app, &format!("update replicas set seen_at = seen_at - interval '1 hour' where id = '{old}'")).await;
    }

    /// Everybody has been served since.
    async fn go_on(&self) {
        let calls = self.calls.load(Ordering::SeqCst);
        eventually(SOON, async || self.calls.load(Ordering::SeqCst) > calls + 40).await;
        assert!(self.devices.iter().all(|device| !device.is_finished()), "a device gave up");
    }

    async fn end(self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        for device in self.devices {
            device.await.unwrap();
        }
        self.retries.load(Ordering::SeqCst)
    }
}

struct Talker {
    app: Arc<TestApp>,
    addrs: Arc<Mutex<[SocketAddr; 2]>>,
    calls: Arc<AtomicU64>,
    retries: Arc<AtomicU64>,
    at: usize,
    device: Caller,
}

impl Talker {
    async fn talk(mut self, number: usize, stop: Arc<AtomicBool>) {
        let mut round = 0_u32;
        while !stop.load(Ordering::SeqCst) {
            round += 1;
            // Half of them keep their connection for as long as it lasts.
            if number < 2 && round.is_multiple_of(10) {
                self.at = 1 - self.at;
                self.reconnect().await;
            }
            self.served("/v1/heartbeat", &json!({}), 200).await;
            self.served("/v1/readings", &reading(), 200).await;
            if round.is_multiple_of(25) {
                self.renew().await;
            }
            self.calls.fetch_add(2, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn served(&mut self, path: &str, body: &Value, status: u16) {
        let ask = self.device.post(path).json(body);
        let first = self.device.wire.try_call(&ask).await;
        if first.as_ref().is_some_and(|answer| answer.status == status) {
            return;
        }
        self.retry(path, first.as_ref()).await;
        let ask = self.device.post(path).json(body);
        let second = self.device.wire.try_call(&ask).await;
        let said = second.as_ref().map(Answer::text);
        assert_eq!(second.as_ref().map(|answer| answer.status), Some(status), "{path} after one retry: {said:?}");
    }

    /// What a client does: to the other replica, with a new token.
    async fn retry(&mut self, path: &str, first: Option<&Answer>) {
        self.retries.fetch_add(1, Ordering::SeqCst);
        if let Some(answer) = first {
            eprintln!("one retry of {path}, after {} {}", answer.status, answer.text());
        }
        self.at = 1 - self.at;
        assert!(self.try_reconnect().await, "{path}: no connection and token, after one retry");
    }

    async fn reconnect(&mut self) {
        if !self.try_reconnect().await {
            self.retry("/v1/token", None).await;
        }
    }

    async fn try_reconnect(&mut self) -> bool {
        let (addr, tls) = (self.addrs.lock().unwrap()[self.at], self.app.tls(Some(&self.device.identity), HTTP_1));
        // A connection that is refused is a panic of the task.
        let Ok(mut wire) = everbeat::lifecycle::tasks::spawn(Wire::tls(addr, tls)).await else { return false };
        let Some(answer) = wire.try_call(&Ask::post("/v1/token")).await else { return false };
        if answer.status != 200 {
            eprintln!("no token: {} {}", answer.status, answer.text());
            return false;
        }
        answer.json()["access_token"].as_str().unwrap().clone_into(&mut self.device.token);
        self.device.wire = wire;
        true
    }

    async fn renew(&mut self) {
        let key = KeyPair::generate().unwrap();
        let ask = Ask::post("/v1/renew").json(&json!({"csr": csr_of(&key)}));
        let first = self.device.wire.try_call(&ask).await;
        let answer = match first {
            Some(answer) if answer.status == 200 => answer,
            first => {
                self.retry("/v1/renew", first.as_ref()).await;
                self.device.wire.call(&ask).await
            }
        };
        self.device.identity = Identity::of(&answer.ok(200), key);
        self.reconnect().await;
    }
}

/// The certificates that a replica shows, leaf first.
async fn presented(app: &TestApp, addr: SocketAddr) -> Vec<CertificateDer<'static>> {
    let tcp = tokio::net::TcpStream::connect(addr).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let stream = tokio_rustls::TlsConnector::from(app.tls(None, HTTP_1)).connect(name, tcp).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap().iter().map(|der| der.clone().into_owned()).collect()
}

/// Is the certificate that this replica shows signed by the CA with this fingerprint?
async fn is_by(app: &TestApp, addr: SocketAddr, ca: &str) -> bool {
    hex(&everbeat::domain::digest::sha256(&presented(app, addr).await[1])) == ca
}

async fn new_token(app: &TestApp, addr: SocketAddr, identity: &Identity) -> String {
    let mut wire = app.connect_to(addr, Some(identity)).await;
    wire.call(&Ask::post("/v1/token")).await.ok(200)["access_token"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_token_key_of_devices_is_replaced_while_they_talk() {
    let app = TestApp::with(PATIENT).await;
    let mut fleet = Fleet::start(app).await;
    let app = fleet.app.clone();
    let mut witness = app.enroll("witness").await;
    let (old, old_token) = (kid(&witness.token), witness.token.clone());

    everbeat(&app, &["keys", "activate", "--audience", "device"], &[]).await.says(&["no next key"]);
    let said = everbeat(&app, &["keys", "next", "--audience", "device"], &[]).await.good();
    let next = said.split_whitespace().next().unwrap().to_owned();
    assert!(said.contains(&format!("token-device.{next}.key")), "{said}");
    let said = everbeat(&app, &["keys", "next", "--audience", "device"], &[]).await.good();
    assert!(said.contains(&next) && said.contains("before"), "a repetition makes no other: {said}");
    confirmed(&app, "device", 2).await;
    fleet.restart().await;
    confirmed(&app, "device", 2).await;
    let listed = everbeat(&app, &["keys", "list"], &[]).await.good();
    let line = listed.lines().find(|line| line.contains(&next)).unwrap();
    assert!(line.contains("next") && line.contains("2 of 2") && line.contains(".key"), "{listed}");
    assert_eq!(kid(&new_token(&app, app.replica.running.device_addr, &witness.identity).await), old, "not yet");
    fleet.go_on().await;

    for _ in 0..2 {
        let said = everbeat(&app, &["keys", "activate", "--audience", "device"], &[]).await.good();
        assert!(said.contains(&next), "{said}");
    }
    for at in 0..2 {
        let addr = fleet.addrs.lock().unwrap()[at];
        eventually(SOON, async || kid(&new_token(&app, addr, &witness.identity).await) == next).await;
    }
    fleet.restart().await;
    fleet.go_on().await;
    witness.me().await.ok(200);
    everbeat(&app, &["keys", "retire", "--audience", "device"], &[]).await.says(&[
        &old,
        "may be valid until 20",
        "Z; retire",
    ]);
    everbeat(&app, &["keys", "retire", "--audience", "device", "--key", &next], &[]).await.says(&["is active"]);
    witness.me().await.ok(200);

    sql(&app, "update token_keys set state_since = state_since - interval '1 hour' where state = 'retiring'").await;
    for _ in 0..2 {
        let key = ["keys", "retire", "--audience", "device", "--key", &old];
        let said = everbeat(&app, &key, &[]).await.good();
        assert!(said.contains("token-device.key may be removed"), "{said}");
    }
    eventually(Duration::from_secs(10), async || witness.me().await.status == 401).await;
    witness.me().await.refused(401, "token-invalid");
    fleet.restart().await;
    let ask = Ask::get("/v1/me").bearer(&old_token);
    let mut there = app.connect_to(fleet.other.running.device_addr, Some(&witness.identity)).await;
    there.call(&ask).await.refused(401, "token-invalid");
    fleet.go_on().await;

    // The file of the retired key is of no use to anybody.
    std::fs::remove_file(app.settings.pki_dir.join("token-device.key")).unwrap();
    fleet.restart().await;
    fleet.go_on().await;
    let kinds = "select count(*) from events where kind in ('key.published', 'key.activated', 'key.retired')";
    assert_eq!(app.count(kinds).await, 3);
    println!("{} retries", fleet.end().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_without_the_file_holds_the_key_back() {
    let app = TestApp::with(PATIENT).await;
    let mut settings = app.settings.clone();
    settings.pki_dir = copied(&app.settings.pki_dir);
    let elsewhere = settings.pki_dir.clone();
    let apart = Replica::start(settings).await;
    let said = everbeat(&app, &["keys", "next", "--audience", "admin"], &[]).await.good();
    let next = said.split_whitespace().next().unwrap().to_owned();
    confirmed(&app, "admin", 1).await;
    let id = apart.running.replica.to_string();
    let activate = ["keys", "activate", "--audience", "admin"];
    everbeat(&app, &activate, &[]).await.says(&["1 of the 2", &id, "copy its file"]);

    // The other host's directory does not know the key either, and says so instead of making a second one.
    let there = [("EVERBEAT__PKI__DIR", elsewhere.to_str().unwrap())];
    everbeat(&app, &["keys", "next", "--audience", "admin"], &there).await.says(&[&next, "not in pki.dir"]);

    let name = format!("token-operator.{next}.key");
    std::fs::copy(app.settings.pki_dir.join(&name), elsewhere.join(&name)).unwrap();
    confirmed(&app, "admin", 2).await;
    everbeat(&app, &activate, &[]).await.good();

    // Operators' tokens from before count until they end; those that are made now are signed by the new key.
    app.admin_get("/v1/whoami").await;
    let minted = everbeat(&app, &["token", "mint", "--subject", "anna", "--role", "viewer"], &[]).await.good();
    assert_eq!(kid(minted.trim()), next);
    let whoami = Ask::get("/v1/whoami").bearer(minted.trim());
    app.connect_admin_of(&apart).await.call(&whoami).await.ok(200);
    sql(&app, "update token_keys set state_since = state_since - interval '10 minutes' where state = 'retiring'").await;
    everbeat(&app, &["keys", "retire", "--audience", "admin"], &[]).await.says(&["may be valid until"]);
    everbeat(&app, &["keys", "retire", "--audience", "admin", "--force"], &[]).await.good();
    let stolen = Ask::get("/v1/whoami").bearer(&app.admin);
    let mut wire = app.connect_admin_of(&apart).await;
    eventually(Duration::from_secs(10), async || wire.call(&stolen).await.status == 401).await;
    app.connect_admin_of(&apart).await.call(&whoami).await.ok(200);

    // Without the active key nobody starts.
    std::fs::remove_file(elsewhere.join(&name)).unwrap();
    everbeat(&app, &["init", "--join"], &there).await.says(&[&next, "token-operator*.key"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_interrupted_next_left_is_published_and_no_other_is_made() {
    let app = TestApp::with(PATIENT).await;
    // As if the process had died between the file and the database.
    let file =
        everbeat::identity::held::make_token_key(&app.settings.pki_dir, everbeat::identity::jwt::Audience::Device);
    let file = file.unwrap();
    let other = app.another().await;
    assert!(other.running.readiness.is_ready(), "a file that the database does not know harms nobody");
    let listed = everbeat(&app, &["keys", "list"], &[]).await.good();
    assert!(listed.lines().any(|line| line.contains("not published") && line.contains(&file)), "{listed}");
    let said = everbeat(&app, &["keys", "next", "--audience", "device"], &[]).await.good();
    assert!(said.contains(&file), "{said}");
    let keys = std::fs::read_dir(&app.settings.pki_dir).unwrap();
    let keys = keys.filter(|entry| entry.as_ref().unwrap().file_name().to_str().unwrap().starts_with("token-device"));
    assert_eq!(keys.count(), 2);
    // It may be given up as long as it has signed nothing.
    let key = said.split_whitespace().next().unwrap();
    everbeat(&app, &["keys", "retire", "--audience", "device", "--key", key], &[]).await.good();
    std::fs::remove_file(app.settings.pki_dir.join(&file)).unwrap();
    let again = everbeat(&app, &["keys", "next", "--audience", "device"], &[]).await.good();
    assert!(!again.contains(key), "{again}");
    app.still_serves("keys that came and went").await;
}

/// Would a client that was given this bundle trust the chain?
fn verifies(bundle: &str, chain: &str) -> bool {
    let ders = |pem: &str| CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>().unwrap();
    let mut roots = RootCertStore::empty();
    for der in ders(bundle) {
        roots.add(der).unwrap();
    }
    let chain = ders(chain);
    let verifier = rustls::server::WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap();
    let at = UnixTime::since_unix_epoch(Duration::from_secs(now().unix_timestamp().try_into().unwrap()));
    // The leaf alone: the bundle must hold who signed it.
    verifier.verify_client_cert(&chain[0], &[], at).is_ok()
}

async fn bundle(app: &TestApp) -> String {
    app.connect(None).await.call(&Ask::get("/v1/ca")).await.text()
}

/// Makes and publishes the next CA, with the right root's key only; its fingerprint.
async fn publish_ca(app: &TestApp, root_key: &Path) -> String {
    everbeat(app, &["ca", "next"], &[]).await.says(&["--root-key"]);
    everbeat(app, &["ca", "next", "--root-key", "/nowhere"], &[]).await.says(&["/nowhere"]);
    let foreign = scratch_dir("other-root");
    std::fs::create_dir_all(&foreign).unwrap();
    let foreign = foreign.join("root.key");
    std::fs::write(&foreign, Root::make(now()).unwrap().key_pem()).unwrap();
    everbeat(app, &["ca", "next", "--root-key", foreign.to_str().unwrap()], &[]).await.says(&["does not belong"]);
    let next = ["ca", "next", "--root-key", root_key.to_str().unwrap()];
    let said = everbeat(app, &next, &[]).await.good();
    assert!(everbeat(app, &next, &[]).await.good().contains("before"));
    said.split_whitespace().next().unwrap().to_owned()
}

/// Uses it, one renewal period later and not before.
async fn activate_ca(app: &TestApp, ca: &str) {
    let older = async |days: u32| {
        let older = format!("update ca_certificates set state_since = state_since - interval '{days} days'");
        sql(app, &format!("{older} where state = 'next'")).await;
    };
    everbeat(app, &["ca", "activate"], &[]).await.says(&["renewal period", "--now"]);
    older(59).await;
    everbeat(app, &["ca", "activate"], &[]).await.says(&["renewal period"]);
    older(2).await;
    for _ in 0..2 {
        assert!(everbeat(app, &["ca", "activate"], &[]).await.good().contains(ca));
    }
}

/// How many revocation lists this replica gives; the one in DER is the first of them.
async fn lists(app: &TestApp, addr: SocketAddr) -> usize {
    let mut wire = app.connect_to(addr, None).await;
    let (all, one) = (wire.call(&Ask::get("/v1/crl.pem")).await.body, wire.call(&Ask::get("/v1/crl")).await.body);
    let all: Vec<_> = CertificateRevocationListDer::pem_slice_iter(&all).map(Result::unwrap).collect();
    assert_eq!(*all[0], *one);
    all.len()
}

/// The first device that the new CA has signed for.
async fn signed_by_the_new(app: &TestApp) -> Identity {
    let mut number = 0;
    let mut found = None;
    eventually(SOON, async || {
        number += 1;
        let device = app.enroll(&format!("new-{number}")).await.identity;
        let by_the_new = !device.chain.contains(app.pki.held.issuers[0].issuer.certificate_pem());
        found = Some(device);
        by_the_new
    })
    .await;
    found.unwrap()
}

/// What the first CA signed is refused everywhere, on connections from before too.
async fn retire_ca(app: &TestApp, mut old_device: Caller, (first, second): (&str, &str)) {
    everbeat(app, &["ca", "retire"], &[]).await.says(&["live certificates", first, "devices have no other"]);
    old_device.me().await.ok(200);
    let listed = everbeat(app, &["ca", "list"], &[]).await.good();
    assert!(listed.lines().any(|line| line.contains(first) && line.contains("retiring")), "{listed}");
    // The fleet renews by itself: then nobody of it needs the first one any more.
    let others = format!(
        "select count(*) from devices d where name like 'talker-%' and not exists (select from credentials c
         where c.device_id = d.id and c.issuer = '\\x{second}')"
    );
    eventually(SOON, async || app.count(&others).await == 0).await;
    everbeat(app, &["ca", "retire", "--force"], &[]).await.good();
    eventually(Duration::from_secs(10), async || old_device.me().await.status == 401).await;
    old_device.me().await.refused(401, "certificate-untrusted");
    let renewal = json!({"csr": csr_of(&old_device.identity.key)});
    old_device.call(&Ask::post("/v1/renew").json(&renewal)).await.refused(401, "certificate-untrusted");
    eventually(SOON, async || bundle(app).await.matches("BEGIN CERTIFICATE").count() == 2).await;
    let mut wire = app.connect(Some(&old_device.identity)).await;
    wire.call(&Ask::post("/v1/token")).await.refused(401, "certificate-untrusted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_issuing_ca_is_replaced_while_devices_talk() {
    let app = TestApp::with(PATIENT).await;
    let root_key = app.settings.pki_dir.with_extension("root.key");
    std::fs::rename(app.settings.pki_dir.join("root.key"), &root_key).unwrap();
    let mut fleet = Fleet::start(app).await;
    let app = fleet.app.clone();
    let mut old_device = app.enroll("old").await;
    let first = hex(&app.pki.held.issuers[0].issuer.fingerprint().0);
    let second = publish_ca(&app, &root_key).await;
    confirmed(&app, "issuing", 2).await;
    fleet.restart().await;
    confirmed(&app, "issuing", 2).await;

    // Devices are told before it signs anything.
    let told = bundle(&app).await;
    assert_eq!(told.matches("BEGIN CERTIFICATE").count(), 3, "{told}");
    let between = app.enroll("between").await.identity;
    assert!(between.chain.contains(app.pki.held.issuers[0].issuer.certificate_pem()), "the old one signs");
    activate_ca(&app, &second).await;
    fleet.restart().await;
    let new = signed_by_the_new(&app).await;
    assert!(verifies(&told, &new.chain), "by the bundle that was given before");
    assert!(!verifies(&app.pki.ca_bundle.pem(), &new.chain), "and not by the one before that");
    for addr in [app.replica.running.device_addr, fleet.other.running.device_addr] {
        let token = new_token(&app, addr, &new).await;
        let mut wire = app.connect_to(addr, Some(&new)).await;
        wire.call(&Ask::post("/v1/readings").bearer(&token).json(&reading())).await.ok(200);
    }
    old_device.me().await.ok(200);
    assert_eq!(lists(&app, fleet.other.running.device_addr).await, 2, "what the old one signed may be revoked, too");
    fleet.go_on().await;

    // The server's certificate follows, while connections are open and new ones come.
    let server = ["ca", "server", "--server-name", "localhost", "--server-name", "127.0.0.1"];
    everbeat(&app, &server, &[]).await.good();
    eventually(SOON, async || is_by(&app, app.replica.running.device_addr, &second).await).await;
    fleet.restart().await;
    assert!(is_by(&app, fleet.other.running.device_addr, &second).await);
    fleet.go_on().await;

    retire_ca(&app, old_device, (&first, &second)).await;
    fleet.restart().await;
    assert_eq!(lists(&app, fleet.other.running.device_addr).await, 1);
    fleet.go_on().await;
    println!("{} retries", fleet.end().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_has_not_heard_of_its_cas_end_certifies_nothing() {
    let app = TestApp::new().await;
    let mut device = app.enroll("tank").await;
    let renewal = json!({"csr": csr_of(&KeyPair::generate().unwrap())});
    let renew = Ask::post("/v1/renew").json(&renewal);
    let ask = json!({"token": app.token, "name": "pump", "csr": csr_of(&KeyPair::generate().unwrap())});
    let enroll = Ask::post("/v1/enroll").json(&ask);
    // Past the change log: nobody is told.
    let states = async |state: &str| {
        sql(&app, &format!("update ca_certificates set state = '{state}' where kind = 'issuing'")).await;
    };
    states("retired").await;
    // The device's own is of another, which is still good.
    sql(&app, "update credentials set issuer = decode(repeat('00', 32), 'hex')").await;
    let answer = app.connect(None).await.call(&enroll).await;
    assert!(answer.header("retry-after").is_some(), "{}", answer.text());
    answer.refused(503, "unavailable");
    device.call(&renew).await.refused(503, "unavailable");
    assert_eq!(app.count("select count(*) from devices").await, 1);
    assert_eq!(app.count("select count(*) from credentials").await, 1);
    states("active").await;
    app.connect(None).await.call(&enroll).await.ok(201);
    device.call(&renew).await.ok(200);
}
