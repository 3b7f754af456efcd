//! What the service does over mutual TLS with 256 connections, beside an empty handler behind the same accept loop with
//! the same certificates and the same client, and beside PostgreSQL alone with the same rows, in one run:
//!
//!     ./script/bench serve                      all of it
//!     ./script/bench serve -- heartbeats        one row alone, for a profile
//!     ./script/bench figures                    all of it, and writes the tables of docs/performance.md
//!     ./script/bench-peers                      beside other systems, too
//!
//! Client, server and database share the machine, so only the ratios mean something. The database syncs its WAL. The
//! least limit is above the connections: what is refused in a slow moment is benches/overload.py's to measure.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a bench that cannot be set up has failed, and reports")]

mod peers;
mod postgres;
mod report;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::convert::Infallible;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use everbeat::app::{self, Ground};
use everbeat::client::transport::{Call, Transport};
use everbeat::client::trust::Trust;
use everbeat::client::{AdminClient, ClientSettings, Context, DeviceClient, Enrollment, Identity, StateDir};
use everbeat::config::{self, Settings};
use everbeat::domain::access::Role;
use everbeat::domain::random::Random;
use everbeat::domain::time::Clock;
use everbeat::lifecycle::shutdown::Shutdown;
use everbeat::lifecycle::tasks::{self, Tasks};
use everbeat::net::{self, ClientAuth, Listener, TlsHandle, TlsSettings};
use everbeat::tools::deploy::{self, MintRequest};
use everbeat::wire::admin::{EnrollmentToken, Fleet, NewEnrollmentToken, NewFleet};
use everbeat::wire::device::TokenAnswer;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Request, Response};
use secrecy::ExposeSecret;
use serde_json::json;
use tokio::time::Instant;

use support::{TestCluster, scratch_dir};

/// The binary's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const CONNECTIONS: usize = 256;
/// Of those, so many send batches: the queue has room for what all of them send at once.
const BATCH_CONNECTIONS: usize = 64;
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(3);
/// Between two rows: until so much of all cores is idle, looked at so often, and at most so long.
const REST_IDLE_PERCENT: u64 = 92;
const REST_STEP: Duration = Duration::from_millis(500);
const REST_MAX: Duration = Duration::from_secs(30);

/// One connection of one device.
#[derive(Clone)]
struct Caller {
    transport: Transport,
    token: String,
}

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Empty,
    Heartbeat,
    Reading,
    Batch,
    PgInsert,
    PgUpdate,
    PgUnnest,
    PgCopy,
    FastApi,
    InfluxDb,
    Etcd,
    Redis,
    Crowded,
}

impl Work {
    const ALL: [Self; 13] = [
        Self::Empty,
        Self::Heartbeat,
        Self::Reading,
        Self::Batch,
        Self::PgInsert,
        Self::PgUpdate,
        Self::PgUnnest,
        Self::PgCopy,
        Self::FastApi,
        Self::InfluxDb,
        Self::Etcd,
        Self::Redis,
        Self::Crowded,
    ];

    fn is_peers(self) -> bool {
        matches!(self, Self::FastApi | Self::InfluxDb | Self::Etcd | Self::Redis)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Empty => "empty handler",
            Self::Heartbeat => "heartbeats",
            Self::Reading => "single readings",
            Self::Batch => "readings in batches of 100",
            Self::PgInsert => "pgbench: INSERT of one row",
            Self::PgUpdate => "pgbench: UPDATE of one row",
            Self::PgUnnest => "PostgreSQL: INSERT of 100 rows from unnest",
            Self::PgCopy => "PostgreSQL: COPY of 100 rows",
            Self::FastApi => "FastAPI with asyncpg: single readings",
            Self::InfluxDb => "InfluxDB 1.6: single readings",
            Self::Etcd => "etcd: lease keep-alives, by its JSON gateway",
            Self::Redis => "Redis: SET … EX, appendfsync always",
            Self::Crowded => "heartbeats, with 1,000,000 devices more registered",
        }
    }

    /// Rows or readings in one request.
    fn rows(self) -> f64 {
        match self {
            Self::Batch | Self::PgUnnest | Self::PgCopy => 100.0,
            _ => 1.0,
        }
    }
}

/// What is measured, and with what.
struct Field {
    empty: String,
    device_url: String,
    callers: Vec<Caller>,
    postgres: postgres::Postgres,
    peers: Option<peers::Peers>,
}

impl Field {
    /// Requests, rows or readings per second.
    async fn rate(&self, work: Work) -> f64 {
        let per_second = match work {
            Work::Empty => measure(work, &self.empty, &self.callers).await,
            Work::Heartbeat | Work::Crowded | Work::Reading => measure(work, &self.device_url, &self.callers).await,
            Work::Batch => measure(work, &self.device_url, &self.callers[..BATCH_CONNECTIONS]).await,
            Work::PgInsert => self.postgres.insert(ROUND).await,
            Work::PgUpdate => self.postgres.update(ROUND).await,
            Work::PgUnnest => self.postgres.unnest(ROUND).await,
            Work::PgCopy => self.postgres.copy(ROUND).await,
            Work::FastApi | Work::InfluxDb | Work::Etcd | Work::Redis => match &self.peers {
                Some(peers) => peers.rate(work, ROUND).await,
                None => panic!("without --peers"),
            },
        };
        per_second * work.rows()
    }
}

fn main() {
    net::install_provider();
    let cluster = TestCluster::start(&["fsync=on", "full_page_writes=on", "shared_buffers=256MB", "max_wal_size=4GB"]);
    cluster.make_template();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(run(&cluster));
}

async fn run(cluster: &TestCluster) {
    let tasks = Tasks::new(Shutdown::new());
    let ground = Ground {
        clock: Clock::System,
        random: Random::from_os(),
        tasks: tasks.clone(),
        metrics: app::install_metrics().unwrap(),
    };
    let dir = scratch_dir("serve");
    let (settings, admin, settings_database) = set_up(cluster, &dir).await;
    let empty = empty_listener(&settings, &ground).await;
    let running = app::start(settings, &ground).await.unwrap();
    while !running.readiness.is_ready() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let device_url = format!("https://127.0.0.1:{}", running.device_addr.port());
    let admin_url = format!("https://127.0.0.1:{}", running.admin_addr.port());
    let callers = enroll(&device_url, &admin_url, &admin, &dir).await;
    let Arguments { only, write, peers } = arguments();
    let is_wanted = |work: &Work| {
        (peers.is_some() || !work.is_peers()) && only.as_ref().is_none_or(|only| work.name().starts_with(only))
    };
    let kinds: Vec<Work> = Work::ALL.into_iter().filter(is_wanted).collect();
    assert!(!kinds.is_empty(), "nothing is called {only:?}");
    let postgres = postgres::Postgres::new(cluster, &settings_database).await;
    let peers = match &peers {
        Some(dir) => Some(peers::Peers::new(dir, &cluster.owner_url(&settings_database)).await),
        None => None,
    };
    let field = Field { empty, device_url, callers, postgres, peers };
    println!("{CONNECTIONS} connections, {ROUNDS} rounds of {} s each", ROUND.as_secs());
    let mut table = report::Table::new(&kinds);
    let (crowded, kinds): (Vec<Work>, Vec<Work>) = kinds.into_iter().partition(|work| *work == Work::Crowded);
    let rest = Rest { cluster, database: &settings_database };
    rounds(&field, &rest, &kinds, &mut table).await;
    if !crowded.is_empty() {
        postgres::register_a_million(cluster, &settings_database).await;
        rounds(&field, &rest, &crowded, &mut table).await;
    }
    println!("{}", table.text());
    drop(field);
    if let Some(file) = write {
        table.write(&file);
    }
    tasks.shutdown().drain();
    let _ = tasks.finish(Duration::from_secs(5)).await;
    let _ = std::fs::remove_dir_all(&dir);
}

/// What a row leaves behind (a checkpoint, a vacuum, a compaction) is not for the next one to pay.
struct Rest<'a> {
    cluster: &'a TestCluster,
    database: &'a str,
}

impl Rest<'_> {
    async fn take(&self) {
        self.cluster.owner_batch(self.database, "checkpoint").await;
        let begun = Instant::now();
        let mut before = all_and_idle();
        while begun.elapsed() < REST_MAX {
            tokio::time::sleep(REST_STEP).await;
            let now = all_and_idle();
            // The time of waiting for disks may go down (proc(5)).
            if now.1.saturating_sub(before.1) * 100 >= REST_IDLE_PERCENT * (now.0 - before.0) {
                return;
            }
            before = now;
        }
        println!("something is still busy after {} s", REST_MAX.as_secs());
    }
}

/// Of all cores, in clock ticks since the machine started.
fn all_and_idle() -> (u64, u64) {
    let text = std::fs::read_to_string("/proc/stat").unwrap();
    let ticks: Vec<u64> = text.lines().next().unwrap().split(' ').filter_map(|word| word.parse().ok()).collect();
    (ticks.iter().sum(), ticks[3] + ticks[4])
}

async fn rounds(field: &Field, rest: &Rest<'_>, kinds: &[Work], table: &mut report::Table) {
    for round in 0..=ROUNDS {
        for work in kinds {
            rest.take().await;
            let rate = field.rate(*work).await;
            // The first round warms connections, caches and partitions.
            if round > 0 {
                table.add(*work, rate);
            }
        }
    }
}

async fn set_up(cluster: &TestCluster, dir: &std::path::Path) -> (Settings, String, String) {
    let database = cluster.database().await;
    let mut text = format!(
        "[log]\nfilter = \"error\"\n[replica]\ndev = true\n[pki]\ndir = \"{}\"\n[devices]\naddr = \"127.0.0.1:0\"\n\
         [admin]\naddr = \"127.0.0.1:0\"\n[ops]\naddr = \"127.0.0.1:0\"\n[durability]\npolicy = \"single\"\n[admission]\ndevice_requests_per_s = 0\nlimit_min = 512\n\
         [database]\nhosts = [\"127.0.0.1:{}\"]\nname = {:?}\ntls = \"disable\"\n",
        dir.join("pki").display(),
        cluster.port(),
        database.database
    );
    for (name, login) in [("control", &database.control), ("fleet", &database.fleet), ("lease", &database.lease)] {
        let password = login.password.expose_secret();
        let _ = writeln!(text, "[database.{name}]\nuser = {:?}\npassword = {password:?}", login.user);
    }
    std::fs::create_dir_all(dir).unwrap();
    let file = dir.join("everbeat.toml");
    std::fs::write(&file, text).unwrap();
    let settings = config::load(&[file]).unwrap().1;
    let tasks = Tasks::new(Shutdown::new());
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    deploy::init(&settings, &tasks, Random::from_os(), &names, false).await.unwrap();
    let request =
        MintRequest { subject: "bench".to_owned(), roles: vec![(None, Role::Admin)], ttl: Duration::from_hours(1) };
    let admin = deploy::mint(&settings, &tasks, Random::from_os(), request).await.unwrap();
    tasks.shutdown().abort();
    (settings, admin, database.database)
}

/// The same accept loop, TLS and limits, and a handler that takes the body in and answers 204.
async fn empty_listener(settings: &Settings, ground: &Ground) -> String {
    let files = TlsSettings {
        certificate_file: settings.pki_dir.join("server.pem"),
        key_file: settings.pki_dir.join("server.key"),
        client_ca_file: Some(settings.pki_dir.join("ca.pem")),
        client_auth: ClientAuth::Optional,
        dev: true,
    };
    let tls = TlsHandle::load(Listener::Device, files, ground.clock.clone()).await.unwrap();
    let socket = net::bind(([127, 0, 0, 1], 0).into()).unwrap();
    let url = format!("https://127.0.0.1:{}", socket.local_addr().unwrap().port());
    let service = tower::service_fn(|request: Request<Incoming>| async move {
        let _ = request.into_body().collect().await;
        let mut answer = Response::new(Full::new(Bytes::new()));
        *answer.status_mut() = hyper::StatusCode::NO_CONTENT;
        Ok::<_, Infallible>(answer)
    });
    let (tasks, limits) = (ground.tasks.clone(), settings.device_listener.clone());
    ground.tasks.essential("empty", net::serve(socket, limits, tls, net::Clearing::never(), tasks, service));
    url
}

async fn enroll(device_url: &str, admin_url: &str, admin: &str, dir: &std::path::Path) -> Vec<Caller> {
    let ca_pem = std::fs::read_to_string(dir.join("pki/ca.pem")).unwrap();
    let context = |settings| Context { settings, clock: Clock::System, random: Random::from_os() };
    let operator = context(ClientSettings::operator());
    let admin = AdminClient::new(&[admin_url.to_owned()], &ca_pem, admin.to_owned().into(), operator).unwrap();
    let fleet = NewFleet {
        name: "bench".to_owned(),
        heartbeat_interval_s: Some(30),
        certificate_ttl_s: None,
        renew_expired_within_s: None,
    };
    let _: Fleet = admin.post("/v1/fleets", &fleet).await.unwrap();
    let token = NewEnrollmentToken { fleet: "bench".to_owned(), uses_max: Some(1_000), ..Default::default() };
    let token: EnrollmentToken = admin.post("/v1/enrollment-tokens", &token).await.unwrap();
    let token = token.token.unwrap();
    let mut callers = Vec::new();
    for number in 0..CONNECTIONS {
        let name = format!("bench-{number}");
        let state = StateDir::open(dir.join(&name)).unwrap();
        let asked = Enrollment {
            urls: vec![device_url.to_owned()],
            name: name.parse().unwrap(),
            token: token.parse().unwrap(),
            ca_pem: Some(ca_pem.clone()),
            tags: Vec::new(),
        };
        DeviceClient::enroll(state.clone(), &asked, context(ClientSettings::device())).await.unwrap();
        callers.push(caller(device_url, state.load().unwrap().unwrap()).await);
    }
    callers
}

async fn caller(device_url: &str, identity: Identity) -> Caller {
    let trust = Trust::from_pem(&identity.ca_pem).unwrap();
    let tls = trust.as_device(&identity.certificate_pem, identity.key_pem.expose_secret()).unwrap();
    let transport = Transport::new(tls, &ClientSettings::device());
    let answer = transport.exchange(device_url, &Call::post("/v1/token", Bytes::new())).await.unwrap();
    let token: TokenAnswer = answer.json().unwrap();
    Caller { transport, token: token.access_token }
}

/// Requests per second of all connections together, each sending the next when it has the answer.
async fn measure(work: Work, url: &str, callers: &[Caller]) -> f64 {
    let (begun, url) = (Instant::now(), Arc::<str>::from(url));
    let run = |caller: Caller| {
        let url = url.clone();
        tasks::spawn(async move {
            let mut done = 0_u32;
            while begun.elapsed() < ROUND {
                let answer = caller.transport.exchange(&url, &call(work, &caller.token)).await.unwrap();
                assert!(answer.status < 300, "{}: {}", answer.status, String::from_utf8_lossy(&answer.body));
                done += 1;
            }
            done
        })
    };
    let running: Vec<_> = callers.iter().cloned().map(run).collect();
    let mut total = 0;
    for task in running {
        total += task.await.unwrap();
    }
    f64::from(total) / begun.elapsed().as_secs_f64()
}

fn call(work: Work, token: &str) -> Call {
    let values = || json!({"temperature": 21.5, "humidity": 40.25, "pressure": 1013, "door": false, "mode": "auto"});
    let reading = || json!({"id": uuid::Uuid::now_v7(), "values": values()});
    let call = match work {
        // The same body, so that both ends move the same bytes.
        Work::Empty => Call::post_json("/empty", &reading()),
        Work::Heartbeat | Work::Crowded => Call::post_json("/v1/heartbeat", &json!({})),
        Work::Batch => Call::post_json("/v1/readings", &(0..100).map(|_| reading()).collect::<Vec<_>>()),
        _ => Call::post_json("/v1/readings", &reading()),
    };
    call.unwrap().bearer(token).unwrap()
}

/// What the command line says. Cargo adds an option of its own.
#[derive(Default)]
struct Arguments {
    /// The beginning of a row's name: this one alone.
    only: Option<String>,
    /// The file whose tables are to be written.
    write: Option<std::path::PathBuf>,
    /// Where script/bench-peers has prepared the other systems.
    peers: Option<std::path::PathBuf>,
}

fn arguments() -> Arguments {
    let mut all = Arguments::default();
    for argument in std::env::args().skip(1) {
        match argument.split_once('=') {
            Some(("--write", file)) => all.write = Some(file.into()),
            Some(("--peers", dir)) => all.peers = Some(dir.into()),
            _ if argument.starts_with('-') => {}
            _ => all.only = Some(argument),
        }
    }
    all
}
