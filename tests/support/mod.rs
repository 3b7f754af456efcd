//! What tests share: a PostgreSQL cluster of their own, a database for each test, and the production wiring on it.
#![expect(dead_code, reason = "each test binary uses its own part of this module")]
#![expect(clippy::expect_used, reason = "a test that cannot be set up has failed")]

pub mod admin;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use everbeat::domain::random::Random;
use everbeat::lifecycle::shutdown::Shutdown;
use everbeat::lifecycle::tasks::Tasks;
use everbeat::store::settings::TlsMode;
use everbeat::store::{ControlStore, FleetStore, Login, Policy, PrimaryWatch, StoreSettings, migrate, primary};
use everbeat::tools::dev::postgres::{Cluster, ClusterOptions, OWNER};

pub const PASSWORD: &str = "only-for-tests";
const TEMPLATE: &str = "everbeat_template";

/// The cluster of this test binary. It stops, and its directory is removed, when the process ends.
pub struct TestCluster {
    cluster: Cluster,
    databases: AtomicU32,
}

static CLUSTER: OnceLock<TestCluster> = OnceLock::new();
static STARTING: Mutex<()> = Mutex::new(());

impl TestCluster {
    /// Starts the cluster at the first call, with every migration applied to a template.
    pub fn shared() -> &'static Self {
        let _one_at_a_time = STARTING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        CLUSTER.get_or_init(|| {
            let started = Self::start(&[]);
            started.make_template();
            started
        })
    }

    /// A cluster for a test that stops or freezes it.
    pub fn start(settings: &[&str]) -> Self {
        let dir = scratch_dir("pg");
        let mut all = vec!["max_connections=300"];
        all.extend_from_slice(settings);
        let options = ClusterOptions { dir: &dir, password: PASSWORD, settings: &all, port: None, throwaway: true };
        let cluster = Cluster::start(&options).unwrap_or_else(|error| panic!("{error}"));
        Self { cluster, databases: AtomicU32::new(0) }
    }

    pub fn port(&self) -> u16 {
        self.cluster.port()
    }

    /// Connection settings for one database of this cluster.
    pub fn settings(&self, database: &str) -> StoreSettings {
        store_settings(&[self.port()], database)
    }

    /// A text that `tokio_postgres::connect` takes, as the superuser.
    pub fn owner_dsn(&self, database: &str) -> String {
        format!("host=127.0.0.1 port={} user={OWNER} password={PASSWORD} dbname={database}", self.port())
    }

    /// The same as a URL.
    pub fn owner_url(&self, database: &str) -> String {
        format!("postgresql://{OWNER}:{PASSWORD}@127.0.0.1:{}/{database}", self.port())
    }

    /// A database with the whole schema, for one test.
    pub async fn database(&self) -> StoreSettings {
        let number = self.databases.fetch_add(1, Ordering::SeqCst);
        let name = format!("test_{number}");
        self.owner_batch("postgres", &format!("create database {name} template {TEMPLATE}")).await;
        self.settings(&name)
    }

    /// Runs statements as the superuser.
    pub async fn owner_batch(&self, database: &str, sql: &str) {
        let (client, _connection) = self.owner(database).await;
        client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// A session as the superuser. The connection ends with the second value.
    pub async fn owner(&self, database: &str) -> (tokio_postgres::Client, tokio_util::task::AbortOnDropHandle<()>) {
        let connected = tokio_postgres::connect(&self.owner_dsn(database), tokio_postgres::NoTls).await;
        let (client, connection) = connected.expect("the owner connects");
        let driver = everbeat::lifecycle::tasks::spawn(async move {
            let _ = connection.await;
        });
        (client, tokio_util::task::AbortOnDropHandle::new(driver))
    }

    /// Creates a database and applies the migrations to it.
    pub fn make_template(&self) {
        // A test may already run inside a runtime, so this one gets a thread of its own.
        let make = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                self.owner_batch("postgres", &format!("create database {TEMPLATE}")).await;
                let settings = self.settings(TEMPLATE);
                migrate::migrate(&settings, &settings.hosts[0]).await.expect("migrations apply");
            });
        };
        std::thread::scope(|scope| scope.spawn(make).join()).expect("the template is made");
    }
}

/// Connection settings for one database of the servers at these ports.
pub fn store_settings(ports: &[u16], database: &str) -> StoreSettings {
    let login = |user: &str| Login { user: user.to_owned(), password: PASSWORD.to_owned().into() };
    StoreSettings {
        hosts: ports.iter().map(|port| ("127.0.0.1".to_owned(), *port)).collect(),
        database: database.to_owned(),
        tls: TlsMode::Disable,
        ca_file: None,
        owner: Some(login(OWNER)),
        control: login("everbeat_control"),
        fleet: login("everbeat_fleet"),
        lease: login("everbeat_lease"),
        durability: Policy::Single,
        control_connections_max: 4,
        fleet_connections_max: 8,
        connect_deadline: Duration::from_secs(2),
        statement_deadline: Duration::from_millis(1_500),
    }
}

/// A directory of this test process that an unprivileged user may enter.
pub fn scratch_dir(kind: &str) -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::SeqCst);
    let dir = std::env::temp_dir().join(format!("everbeat-{kind}-{}-{number}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    dir
}

/// The store half of the production wiring, on a database of its own.
pub struct TestStore {
    pub settings: Arc<StoreSettings>,
    pub tasks: Tasks,
    pub primary: PrimaryWatch,
    pub fleet: FleetStore,
    pub control: ControlStore,
    pub random: Random,
}

impl TestStore {
    pub async fn new() -> Self {
        Self::on(TestCluster::shared().database().await).await
    }

    pub async fn on(settings: StoreSettings) -> Self {
        let settings = Arc::new(settings);
        let tasks = Tasks::new(Shutdown::new());
        let random = Random::seeded(7);
        let mut primary = primary::track(settings.clone(), &tasks).primary;
        let fleet = FleetStore::start(settings.clone(), primary.clone(), &tasks, random.clone());
        let control = ControlStore::start(settings.clone(), primary.clone(), &tasks, random.clone());
        let found = primary::wait_for_primary(&mut primary, Duration::from_secs(10)).await;
        assert!(found.is_some(), "the tracker finds the primary");
        tokio::time::sleep(Duration::from_millis(20)).await;
        Self { settings, tasks, primary, fleet, control, random }
    }
}

impl Drop for TestStore {
    fn drop(&mut self) {
        self.tasks.shutdown().abort();
    }
}
