//! A whole replica as it runs in production (`app::start`), on a database and with keys of its own, and callers to it:
//! honest devices, operators, and certificates that nobody should accept.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use everbeat::app::{self, Ground, Running};
use everbeat::config::{self, Settings};
use everbeat::domain::access::Role;
use everbeat::domain::ids::DeviceId;
use everbeat::domain::random::Random;
use everbeat::domain::time::{Clock, rfc3339};
use everbeat::identity::ca::{Issuer, Root};
use everbeat::identity::csr::{self, CheckedCsr, ExpectedNames};
use everbeat::identity::pki::{self, Pki};
use everbeat::lifecycle::shutdown::Shutdown;
use everbeat::lifecycle::tasks::Tasks;
use everbeat::store::{Login, Policy, StoreSettings};
use everbeat::tools::deploy::{self, MintRequest};
use metrics_exporter_prometheus::PrometheusHandle;
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::support::{TestCluster, scratch_dir};
use crate::wire::{Answer, Ask, Wire};

/// The PKI is older than the tests, so that certificates can have expired.
const PKI_AGE: Duration = Duration::from_hours(72);

pub const HTTP_1: &[u8] = b"http/1.1";

/// The recorder of metrics is one for each process.
fn metrics() -> PrometheusHandle {
    static METRICS: OnceLock<PrometheusHandle> = OnceLock::new();
    METRICS.get_or_init(|| app::install_metrics().unwrap()).clone()
}

/// A replica. Ends when dropped.
pub struct Replica {
    pub running: Running,
    pub tasks: Tasks,
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.tasks.shutdown().abort();
    }
}

impl Replica {
    pub async fn start(settings: Settings) -> Self {
        let tasks = Tasks::new(Shutdown::new());
        let ground =
            Ground { clock: Clock::System, random: Random::from_os(), tasks: tasks.clone(), metrics: metrics() };
        let running = app::start(settings, &ground).await.unwrap();
        let replica = Self { running, tasks };
        eventually(Duration::from_secs(20), async || replica.running.readiness.is_ready()).await;
        replica
    }
}

pub struct TestApp {
    pub settings: Settings,
    pub database: StoreSettings,
    pub pki: Arc<Pki>,
    pub replica: Replica,
    /// An admin's token.
    pub admin: String,
    /// An enrollment token for a thousand devices.
    pub token: String,
    honest: tokio::sync::Mutex<Option<Caller>>,
}

impl TestApp {
    pub async fn new() -> Self {
        Self::with("").await
    }

    /// With settings of the test's own, in TOML.
    pub async fn with(extra: &str) -> Self {
        Self::on(TestCluster::shared().database().await, extra).await
    }

    /// On a database of the test's own.
    pub async fn on(database: StoreSettings, extra: &str) -> Self {
        let mut app = Self::bare(database, extra).await;
        app.admin_post("/v1/fleets", &json!({"name": "pumps", "heartbeat_interval_s": 30})).await.ok(201);
        app.token = app.enrollment_token(1_000).await;
        app
    }

    /// Without a fleet and a token: for listeners that take no call without a load balancer's word.
    pub async fn starting(extra: &str) -> Self {
        Self::bare(TestCluster::shared().database().await, extra).await
    }

    async fn bare(database: StoreSettings, extra: &str) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let pki_dir = scratch_dir("pki");
        let then = Clock::manual(Clock::System.unix_us() - i64::try_from(PKI_AGE.as_micros()).unwrap());
        pki::create(&pki_dir, &["localhost".to_owned(), "127.0.0.1".to_owned()], &then).unwrap();
        let settings = settings(&database, &pki_dir, extra);
        let pki = Arc::new(pki::load(&pki_dir, true).unwrap());
        let admin = set_up(&settings).await;
        let replica = Replica::start(settings.clone()).await;
        let honest = tokio::sync::Mutex::new(None);
        Self { settings, database, pki, replica, admin, token: String::new(), honest }
    }

    /// The settings of this replica's first file, for commands.
    pub fn settings_file(&self) -> PathBuf {
        self.settings.pki_dir.join("base.toml")
    }

    /// One more replica on the same database.
    pub async fn another(&self) -> Replica {
        self.another_under(self.settings.store.durability).await
    }

    /// The same under another policy of durability.
    pub async fn another_under(&self, policy: Policy) -> Replica {
        let mut settings = self.settings.clone();
        settings.store = Arc::new(StoreSettings { durability: policy, ..(*settings.store).clone() });
        Replica::start(settings).await
    }

    pub fn trust(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        for der in CertificateDer::pem_slice_iter(self.pki.ca_bundle.pem().as_bytes()) {
            roots.add(der.unwrap()).unwrap();
        }
        roots
    }

    /// `alpn`: what the caller speaks.
    pub fn tls(&self, identity: Option<&Identity>, alpn: &[u8]) -> Arc<ClientConfig> {
        let builder = ClientConfig::builder().with_root_certificates(self.trust());
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let chain =
                    CertificateDer::pem_slice_iter(identity.chain.as_bytes()).collect::<Result<_, _>>().unwrap();
                let key = PrivateKeyDer::from_pem_slice(identity.key.serialize_pem().as_bytes()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        config.alpn_protocols = vec![alpn.to_vec()];
        Arc::new(config)
    }

    /// A connection to the device listener.
    pub async fn connect(&self, identity: Option<&Identity>) -> Wire {
        self.connect_to(self.replica.running.device_addr, identity).await
    }

    /// The same to another replica, or through a proxy.
    pub async fn connect_to(&self, addr: SocketAddr, identity: Option<&Identity>) -> Wire {
        Wire::tls(addr, self.tls(identity, HTTP_1)).await
    }

    pub async fn connect_admin(&self) -> Wire {
        self.connect_admin_of(&self.replica).await
    }

    pub async fn connect_admin_of(&self, replica: &Replica) -> Wire {
        Wire::tls(replica.running.admin_addr, self.tls(None, HTTP_1)).await
    }

    pub async fn connect_ops(&self) -> Wire {
        Wire::plain(self.replica.running.ops_addr).await
    }

    pub async fn admin_post(&self, path: &str, body: &Value) -> Answer {
        self.connect_admin().await.call(&Ask::post(path).bearer(&self.admin).json(body)).await
    }

    pub async fn admin_get(&self, path: &str) -> Value {
        self.connect_admin().await.call(&Ask::get(path).bearer(&self.admin)).await.ok(200)
    }

    pub async fn enrollment_token(&self, uses_max: u32) -> String {
        let asked = json!({"fleet": "pumps", "uses_max": uses_max, "expires_in_s": 3600});
        let made = self.admin_post("/v1/enrollment-tokens", &asked).await.ok(201);
        made["token"].as_str().unwrap().to_owned()
    }

    /// A token of another admin.
    pub async fn mint(&self, subject: &str) -> String {
        mint(&self.settings, subject).await
    }

    /// Enrolls a device, and gets it a token.
    pub async fn enroll(&self, name: &str) -> Caller {
        let key = KeyPair::generate().unwrap();
        let asked = json!({"token": self.token, "name": name, "csr": csr_of(&key)});
        let answer = self.connect(None).await.call(&Ask::post("/v1/enroll").json(&asked)).await.ok(201);
        self.caller(Identity::of(&answer, key)).await
    }

    /// A connection and a token with this certificate.
    pub async fn caller(&self, identity: Identity) -> Caller {
        self.caller_at(self.replica.running.device_addr, identity).await
    }

    pub async fn caller_at(&self, addr: SocketAddr, identity: Identity) -> Caller {
        let mut wire = self.connect_to(addr, Some(&identity)).await;
        let answer = wire.call(&Ask::post("/v1/token")).await.ok(200);
        let token = answer["access_token"].as_str().unwrap().to_owned();
        Caller { identity, wire, token }
    }

    /// An honest device is served as if nothing had happened, on the connection that it has had all the time.
    pub async fn still_serves(&self, after: &str) {
        let mut honest = self.honest.lock().await;
        if honest.is_none() {
            *honest = Some(self.enroll("honest").await);
        }
        let answer = honest.as_mut().unwrap().store(&reading()).await;
        assert_eq!((answer.status, &answer.json()["stored"]), (200, &json!(1)), "after {after}: {}", answer.text());
    }

    /// A certificate of our CA, which the database does not know.
    pub fn issue(&self, device: Uuid, at: OffsetDateTime, ttl: Duration) -> Identity {
        issue(&self.pki.held.issuers[0].issuer, device, at, ttl)
    }

    /// Makes a certificate known to the database as one of the device's.
    pub async fn record(&self, identity: &Identity) {
        let cluster = TestCluster::shared();
        let (print, spki) = (hex(&identity.fingerprint), hex(&identity.spki_sha256));
        let (from, to) = (rfc3339(identity.not_before), rfc3339(identity.not_after));
        let sql = format!(
            "insert into credentials (fingerprint, device_id, serial, spki_sha256, certificate_pem, not_before, not_after)
             values ('\\x{print}', '{}', '\\x{}', '\\x{spki}', '{}', '{from}', '{to}')",
            identity.device,
            hex(&identity.serial),
            identity.chain,
        );
        cluster.owner_batch(&self.database.database, &sql).await;
    }

    /// A number from the database.
    pub async fn count(&self, sql: &str) -> i64 {
        let (owner, _connection) = TestCluster::shared().owner(&self.database.database).await;
        owner.query_one(sql, &[]).await.unwrap().get(0)
    }
}

fn settings(database: &StoreSettings, pki_dir: &std::path::Path, extra: &str) -> Settings {
    let user = |name: &str, login: &Login| {
        format!("[database.{name}]\nuser = {:?}\npassword = {:?}\n", login.user, login.password.expose_secret())
    };
    let users = [
        user("owner", database.owner.as_ref().unwrap()),
        user("control", &database.control),
        user("fleet", &database.fleet),
        user("lease", &database.lease),
    ]
    .concat();
    let hosts: Vec<String> = database.hosts.iter().map(|(host, port)| format!("{host}:{port}")).collect();
    let text = format!(
        "[replica]\ndev = true\n[pki]\ndir = \"{}\"\n[devices]\naddr = \"127.0.0.1:0\"\n\
         [admin]\naddr = \"127.0.0.1:0\"\n[ops]\naddr = \"127.0.0.1:0\"\n[durability]\npolicy = \"single\"\n\
         [admission]\ndevice_requests_per_s = 0\nfailures_per_address = 0\nfailures_per_token = 0\n\
         [database]\nhosts = {hosts:?}\nname = {:?}\ntls = \"disable\"\n{users}",
        pki_dir.display(),
        database.database
    );
    let files: Vec<PathBuf> = [("base", text.as_str()), ("extra", extra)]
        .map(|(name, text)| {
            let path = pki_dir.join(format!("{name}.toml"));
            std::fs::write(&path, text).unwrap();
            path
        })
        .into();
    config::load(&files).unwrap().1
}

/// Publishes the keys and mints an admin's token. With a long deadline: a test may be about short ones.
async fn set_up(settings: &Settings) -> String {
    let tasks = Tasks::new(Shutdown::new());
    deploy::init(&patient(settings), &tasks, Random::from_os(), &[], false).await.unwrap();
    tasks.shutdown().abort();
    mint(settings, "root").await
}

/// A new token of an admin.
async fn mint(settings: &Settings, subject: &str) -> String {
    let tasks = Tasks::new(Shutdown::new());
    let request =
        MintRequest { subject: subject.to_owned(), roles: vec![(None, Role::Admin)], ttl: Duration::from_hours(1) };
    let token = deploy::mint(&patient(settings), &tasks, Random::from_os(), request).await.unwrap();
    tasks.shutdown().abort();
    token
}

fn patient(settings: &Settings) -> Settings {
    let mut settings = settings.clone();
    let statement_deadline = Duration::from_secs(20);
    settings.store = Arc::new(StoreSettings { statement_deadline, ..(*settings.store).clone() });
    settings
}

/// A certificate with its private key.
pub struct Identity {
    pub device: Uuid,
    pub name: String,
    /// PEM, leaf first.
    pub chain: String,
    pub key: KeyPair,
    pub fingerprint: [u8; 32],
    spki_sha256: [u8; 32],
    serial: [u8; 16],
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
}

impl Identity {
    /// From the answer of an enrollment or renewal.
    pub fn of(answer: &Value, key: KeyPair) -> Self {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let chain = text(&answer["certificate"]);
        let der = CertificateDer::from_pem_slice(chain.as_bytes()).unwrap();
        let known = everbeat::net::PeerCert::from_der(&der).unwrap();
        Self {
            device: known.device.0,
            name: text(&answer["device"]["name"]),
            chain,
            key,
            fingerprint: known.fingerprint.0,
            spki_sha256: known.spki_sha256,
            serial: [0; 16],
            not_before: known.not_before,
            not_after: known.not_after,
        }
    }
}

/// A device with an open connection and a token.
pub struct Caller {
    pub identity: Identity,
    pub wire: Wire,
    pub token: String,
}

impl Caller {
    /// A POST with the token.
    pub fn post(&self, path: &str) -> Ask {
        Ask::post(path).bearer(&self.token)
    }

    pub async fn call(&mut self, ask: &Ask) -> Answer {
        self.wire.call(ask).await
    }

    /// A new connection, where the service has closed the old one or may have.
    pub async fn reconnect(&mut self, app: &TestApp) {
        self.wire = app.connect(Some(&self.identity)).await;
    }

    pub async fn me(&mut self) -> Answer {
        let ask = Ask::get("/v1/me").bearer(&self.token);
        self.call(&ask).await
    }

    pub async fn store(&mut self, body: &Value) -> Answer {
        let ask = self.post("/v1/readings").json(body);
        self.call(&ask).await
    }
}

/// A certificate by any CA, for any time.
pub fn issue(issuer: &Issuer, device: Uuid, at: OffsetDateTime, ttl: Duration) -> Identity {
    let key = KeyPair::generate().unwrap();
    let made = issuer.issue(&checked(&key), DeviceId(device), at, ttl).unwrap();
    Identity {
        device,
        name: String::new(),
        chain: made.pem_chain,
        key,
        fingerprint: made.fingerprint.0,
        spki_sha256: made.spki_sha256,
        serial: made.serial,
        not_before: made.not_before,
        not_after: made.not_after,
    }
}

/// A CA that is not ours.
pub fn other_ca() -> Issuer {
    let then = now() - PKI_AGE;
    Root::make(then).unwrap().make_issuer(then).unwrap()
}

fn checked(key: &KeyPair) -> CheckedCsr {
    csr::check(&csr_of(key), &ExpectedNames { name: "any", id: None }).unwrap()
}

/// A request for a certificate that asks for nothing.
pub fn csr_of(key: &KeyPair) -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.serialize_request(key).unwrap().pem().unwrap()
}

pub fn now() -> OffsetDateTime {
    Clock::System.wall()
}

/// A reading of now with an id of its own.
pub fn reading() -> Value {
    json!({"id": Uuid::now_v7(), "ts": rfc3339(now()), "values": {"temperature": 21.5}})
}

pub fn hex(bytes: &[u8]) -> String {
    everbeat::domain::digest::hex(bytes)
}

pub async fn eventually(limit: Duration, mut holds: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(limit, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(waited.await.is_ok(), "not within {limit:?}");
}
