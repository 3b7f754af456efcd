//! A PostgreSQL server that can be stopped, killed and frozen, and comes back on its port with what it had.

use std::path::{Path, PathBuf};
use std::time::Duration;

use everbeat::lifecycle::tasks::spawn;
use everbeat::tools::dev::postgres::{Cluster, ClusterOptions, OWNER};
use rustix::process::{Signal, kill_process};
use tokio_postgres::{Client, NoTls};
use tokio_util::task::AbortOnDropHandle;

use super::freeze::{Frozen, freeze, postmaster};
use super::process::free_port;

pub const PASSWORD: &str = "only-for-tests";
pub const NAME: &str = "everbeat";

pub struct Database {
    cluster: Option<Cluster>,
    dir: PathBuf,
    port: u16,
}

/// A session as the superuser.
pub struct Owner {
    pub client: Client,
    _driver: AbortOnDropHandle<()>,
}

impl Database {
    pub async fn create(dir: &Path) -> Self {
        let mut database = Self { cluster: None, dir: dir.to_owned(), port: free_port() };
        database.start();
        let owner = database.connect("postgres").await;
        owner.client.batch_execute(&format!("create database {NAME}")).await.unwrap();
        database
    }

    /// Starts it again; recovers what a kill left.
    pub fn start(&mut self) {
        // The kernel keeps what was written, so only a crash of the machine would need the syncs.
        let settings = ["max_connections=100", "fsync=off", "full_page_writes=off"];
        let options = ClusterOptions {
            dir: &self.dir,
            password: PASSWORD,
            settings: &settings,
            port: Some(self.port),
            throwaway: false,
        };
        self.cluster = Some(Cluster::start(&options).unwrap_or_else(|error| panic!("{error}")));
    }

    /// As a service manager stops it: every session ends, then the server.
    pub fn stop(&mut self) {
        self.cluster = None;
    }

    /// As a crash ends it: SIGQUIT, nothing is written any more.
    pub fn crash(&mut self) {
        kill_process(postmaster(&self.dir.join("data")), Signal::QUIT).unwrap();
        self.cluster = None;
    }

    /// SIGSTOP to every process of the server. Its sockets stay open, and the kernel goes on acknowledging.
    pub fn freeze(&self) -> Frozen {
        freeze(&self.dir.join("data"))
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub async fn owner(&self) -> Owner {
        self.connect(NAME).await
    }

    async fn connect(&self, name: &str) -> Owner {
        let dsn = format!("host=127.0.0.1 port={} user={OWNER} password={PASSWORD} dbname={name}", self.port);
        let (client, connection) = tokio_postgres::connect(&dsn, NoTls).await.unwrap();
        let driver = spawn(async move {
            let _ = connection.await;
        });
        Owner { client, _driver: AbortOnDropHandle::new(driver) }
    }
}

/// Asks again and again until there is an answer.
pub async fn until<T>(what: &str, limit: Duration, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let began = tokio::time::Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(began.elapsed() < limit, "after {limit:?} still not: {what}");
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}
