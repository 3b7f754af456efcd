//! One deployment: a database, two replicas, an operator; set up by the commands that a person would type.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use everbeat::client::{AdminClient, ClientSettings, Context, plain_get};
use everbeat::domain::random::Random;
use everbeat::domain::time::Clock;
use everbeat::wire::admin::{Event, EventPage, Fleet, Lease, NewEnrollmentToken, NewFleet, Presence};
use rustix::process::Signal;
use tokio::sync::{Mutex, MutexGuard};
use uuid::Uuid;

use super::database::{Database, NAME, PASSWORD, until};
use super::process::{Process, free_port, run};

/// Of the leases. Short, so that a test sees an expiry.
pub const TTL: Duration = Duration::from_secs(3);
/// Nothing that must happen takes longer on a busy machine.
pub const LONG: Duration = Duration::from_secs(30);

static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// A replica's ports; they stay when it is started again.
#[derive(Clone, Copy)]
struct Ports {
    device: u16,
    admin: u16,
    ops: u16,
}

/// The order of the fields is that of their end: processes before the server, and the directory last.
pub struct World {
    pub replicas: Vec<Replica>,
    pub database: Database,
    pub admin: AdminClient,
    pub token: String,
    root: Root,
    _turn: MutexGuard<'static, ()>,
}

pub struct Replica {
    pub process: Process,
    ports: Ports,
    config: PathBuf,
    log: PathBuf,
}

struct Root(PathBuf);

impl Root {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::SeqCst);
        let dir = std::env::temp_dir().join(format!("everbeat-ha-{}-{number}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub fn context() -> Context {
    Context { settings: ClientSettings::operator(), clock: Clock::System, random: Random::from_os() }
}

impl World {
    pub async fn start() -> Self {
        let turn = ONE_AT_A_TIME.lock().await;
        let root = Root::new();
        let database = Database::create(&root.0.join("postgres")).await;
        let ports: Vec<Ports> =
            (0..2).map(|_| Ports { device: free_port(), admin: free_port(), ops: free_port() }).collect();
        let config = |index: usize| root.0.join(format!("replica-{index}.toml"));
        for index in 0..ports.len() {
            std::fs::write(config(index), settings(&root.0, &ports, index, database.port())).unwrap();
        }
        let first = config(0).to_str().unwrap().to_owned();
        run(&["migrate", "--config", &first], &[]);
        run(&["init", "--config", &first], &[]);
        let token = run(&["token", "mint", "--config", &first, "--subject", "walker", "--role", "admin"], &[]);
        let start = |(index, ports): (usize, &Ports)| {
            Replica::start(*ports, config(index), root.0.join(format!("replica-{index}.log")))
        };
        let replicas: Vec<Replica> = ports.iter().enumerate().map(start).collect();
        for replica in &replicas {
            replica.ready(LONG).await;
        }
        let urls: Vec<String> = replicas.iter().map(Replica::admin_url).collect();
        let ca = std::fs::read_to_string(root.0.join("pki/ca.pem")).unwrap();
        let admin = AdminClient::new(&urls, &ca, token.clone().into(), context()).unwrap();
        Self { replicas, database, admin, token, root, _turn: turn }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.0.join(name)
    }

    pub fn ca_pem(&self) -> String {
        std::fs::read_to_string(self.path("pki/ca.pem")).unwrap()
    }

    pub fn device_urls(&self) -> Vec<String> {
        self.replicas.iter().map(Replica::device_url).collect()
    }

    /// Makes a fleet; the token that enrolls its devices.
    pub async fn fleet(&self, name: &str, interval_s: u64) -> String {
        let fleet = NewFleet {
            name: name.to_owned(),
            heartbeat_interval_s: Some(interval_s),
            certificate_ttl_s: None,
            renew_expired_within_s: None,
        };
        let _: Fleet = self.admin.post("/v1/fleets", &fleet).await.unwrap();
        let request = NewEnrollmentToken {
            fleet: name.to_owned(),
            uses_max: Some(100),
            expires_in_s: Some(3_600),
            ..Default::default()
        };
        let made: everbeat::wire::admin::EnrollmentToken =
            self.admin.post("/v1/enrollment-tokens", &request).await.unwrap();
        made.token.unwrap()
    }

    pub async fn presence(&self, device: Uuid) -> Presence {
        self.admin.get(&format!("/v1/devices/{device}/presence")).await.unwrap()
    }

    /// Every event whose kind begins so, in the order to follow.
    pub async fn events(&self, kind: &str) -> Vec<Event> {
        let (mut all, mut cursor) = (Vec::new(), String::new());
        loop {
            let page: EventPage = self.admin.get(&format!("/v1/events?kind={kind}{cursor}")).await.unwrap();
            all.extend(page.items);
            match page.next {
                Some(next) => cursor = format!("&cursor={}", everbeat::client::admin::percent(&next)),
                None => return all,
            }
        }
    }

    pub async fn lease(&self, role: &str) -> Option<Lease> {
        let leases: Vec<Lease> = self.admin.pages("/v1/leases", &[]).take(100).await.ok()?;
        leases.into_iter().find(|lease| lease.role == role)
    }

    /// The number of the replica that holds a duty, and the lease.
    pub async fn holder(&self, role: &str) -> (usize, Lease) {
        until("somebody holds the lease", LONG, async || {
            let lease = self.lease(role).await.filter(|lease| lease.holder.is_some() && !lease.expired)?;
            let index = self.replicas.iter().position(|replica| replica.device_addr() == lease.addr)?;
            Some((index, lease))
        })
        .await
    }
}

impl Replica {
    fn start(ports: Ports, config: PathBuf, log: PathBuf) -> Self {
        let process = Process::start(&["serve", "--die-with-parent", "--config", config.to_str().unwrap()], &log);
        Self { process, ports, config, log }
    }

    /// Starts it again on the same ports, after its end.
    pub async fn start_again(&mut self) {
        let fresh = Self::start(self.ports, self.config.clone(), self.log.clone());
        *self = fresh;
        self.ready(LONG).await;
    }

    pub fn device_addr(&self) -> String {
        format!("127.0.0.1:{}", self.ports.device)
    }

    pub fn device_url(&self) -> String {
        format!("https://{}", self.device_addr())
    }

    pub fn admin_url(&self) -> String {
        format!("https://127.0.0.1:{}", self.ports.admin)
    }

    /// Status and text of `/readyz?verbose`; status 0 when nobody answers.
    pub async fn readyz(&self) -> (u16, String) {
        let url = format!("http://127.0.0.1:{}/readyz?verbose", self.ports.ops);
        plain_get(&url, Duration::from_secs(2)).await.unwrap_or_else(|error| (0, error))
    }

    pub async fn ready(&self, limit: Duration) {
        until("the replica is ready", limit, async || (self.readyz().await.0 == 200).then_some(())).await;
    }

    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }
}

fn settings(root: &Path, ports: &[Ports], index: usize, database_port: u16) -> String {
    let own = ports[index];
    let endpoints: Vec<String> = ports.iter().map(|ports| format!("https://127.0.0.1:{}", ports.device)).collect();
    let user = |plane: &str, user: &str| format!("[database.{plane}]\nuser = \"{user}\"\npassword = \"{PASSWORD}\"\n");
    let users: String = [
        ("owner", everbeat::tools::dev::postgres::OWNER),
        ("control", "everbeat_control"),
        ("fleet", "everbeat_fleet"),
        ("lease", "everbeat_lease"),
    ]
    .map(|(plane, name)| user(plane, name))
    .concat();
    format!(
        r#"
[log]
format = "human"
filter = "info,everbeat::http=warn"
[observe]
drill = true
[replica]
drain_limit_s = 10
[pki]
dir = "{root}/pki"
[devices]
addr = "127.0.0.1:{device}"
endpoints = {endpoints:?}
[admin]
addr = "127.0.0.1:{admin}"
[ops]
addr = "127.0.0.1:{ops}"
[ingest]
retention_days = 7300
[durability]
policy = "single"
[leases]
ttl_ms = {ttl_ms}
renew_ms = 600
poll_ms = 300
sweep_interval_ms = 500
[database]
hosts = ["127.0.0.1:{database_port}"]
name = "{NAME}"
tls = "disable"
{users}"#,
        root = root.display(),
        device = own.device,
        admin = own.admin,
        ops = own.ops,
        ttl_ms = TTL.as_millis(),
    )
}
