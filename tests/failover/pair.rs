//! A primary and a synchronous standby that was made from it.

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use everbeat::lifecycle::tasks::spawn;
use everbeat::store::{StoreSettings, migrate};
use everbeat::tools::dev::postgres::{Cluster, ClusterOptions, OWNER, arguments_of};
use tokio_postgres::{Client, NoTls};
use tokio_util::task::AbortOnDropHandle;

use crate::app::eventually;
use crate::freeze::{Frozen, freeze, postmaster};
use crate::support::{PASSWORD, scratch_dir, store_settings};

pub const LONG: Duration = Duration::from_secs(30);
const NAME: &str = "everbeat";

/// One server. It comes back on its port.
pub struct Node {
    cluster: Option<Cluster>,
    dir: PathBuf,
    port: u16,
}

/// A session. Ends when dropped.
pub struct Direct {
    pub client: Client,
    _driver: AbortOnDropHandle<()>,
}

impl Direct {
    pub async fn number(&self, sql: &str) -> i64 {
        self.client.query_one(sql, &[]).await.unwrap().get(0)
    }
}

impl Node {
    fn start(dir: PathBuf, port: Option<u16>, connections: u32) -> Self {
        // The kernel keeps what was written, so only a crash of the machine would need the syncs.
        let max = format!("max_connections={connections}");
        let settings = [max.as_str(), "fsync=off", "full_page_writes=off", "wal_keep_size=256MB"];
        let options = ClusterOptions { dir: &dir, password: PASSWORD, settings: &settings, port, throwaway: false };
        let cluster = Cluster::start(&options).unwrap_or_else(|error| panic!("{error}"));
        let port = cluster.port();
        Self { cluster: Some(cluster), dir, port }
    }

    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    pub fn freeze(&self) -> Frozen {
        freeze(&self.data())
    }

    /// As a service manager stops it.
    pub fn stop(&mut self) {
        self.cluster = None;
    }

    pub fn start_again(&mut self, connections: u32) {
        *self = Self::start(self.dir.clone(), Some(self.port), connections);
    }

    pub async fn owner(&self) -> Direct {
        self.connect(OWNER, PASSWORD).await
    }

    pub async fn connect(&self, user: &str, password: &str) -> Direct {
        let dsn = format!("host=127.0.0.1 port={} user={user} password={password} dbname={NAME}", self.port);
        let (client, connection) = tokio_postgres::connect(&dsn, NoTls).await.unwrap();
        let driver = spawn(async move {
            let _ = connection.await;
        });
        Direct { client, _driver: AbortOnDropHandle::new(driver) }
    }

    /// Makes a standby the primary; returns when it takes writes.
    pub async fn promote(&self) -> Direct {
        let owner = self.owner().await;
        let promoted: bool = owner.client.query_one("select pg_promote(true, 60)", &[]).await.unwrap().get(0);
        assert!(promoted);
        owner
    }
}

/// The order of the fields is that of their end: a primary does not stop before its standby is gone.
pub struct Pair {
    pub standby: Node,
    pub primary: Node,
    pub settings: StoreSettings,
    pub connections: u32,
    _root: Root,
}

struct Root(PathBuf);

impl Drop for Root {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Pair {
    /// Commits of the primary wait for the standby. Those of the standby, once it is promoted, wait for nobody.
    pub async fn start(connections: u32) -> Self {
        let root = scratch_dir("pair");
        std::fs::create_dir_all(&root).unwrap();
        let primary = Node::start(root.join("primary"), None, connections);
        let mut alone = store_settings(&[primary.port], "postgres");
        let sql = format!("create database {NAME}");
        let dsn = format!("host=127.0.0.1 port={} user={OWNER} password={PASSWORD} dbname=postgres", primary.port);
        let (client, connection) = tokio_postgres::connect(&dsn, NoTls).await.unwrap();
        let driver = AbortOnDropHandle::new(spawn(async move {
            let _ = connection.await;
        }));
        client.batch_execute(&sql).await.unwrap();
        drop((client, driver));
        NAME.clone_into(&mut alone.database);
        migrate::migrate(&alone, &alone.hosts[0]).await.unwrap();
        let dir = root.join("standby");
        base_backup(&primary, &dir);
        let standby = Node::start(dir, None, connections);
        let settings = store_settings(&[primary.port, standby.port], NAME);
        let pair = Self { standby, primary, settings, connections, _root: Root(root) };
        let owner = pair.primary.owner().await;
        owner.client.batch_execute("alter system set synchronous_standby_names = '*'").await.unwrap();
        owner.client.batch_execute("select pg_reload_conf()").await.unwrap();
        pair.synchronous().await;
        pair
    }

    /// Waits until the standby follows synchronously.
    pub async fn synchronous(&self) {
        let owner = self.primary.owner().await;
        let sql = "select count(*) from pg_stat_replication where sync_state = 'sync' and state = 'streaming'";
        eventually(LONG, async || owner.number(sql).await == 1).await;
    }
}

/// As the user that runs the server.
fn base_backup(primary: &Node, dir: &Path) {
    let server = arguments_of(postmaster(&primary.data()).as_raw_nonzero().get());
    let meta = std::fs::metadata(primary.data()).unwrap();
    std::fs::create_dir_all(dir).unwrap();
    std::os::unix::fs::chown(dir, Some(meta.uid()), Some(meta.gid())).unwrap();
    let mut backup = Command::new(server[0].with_file_name("pg_basebackup"));
    backup
        .args(["-h", "127.0.0.1", "-p", &primary.port.to_string(), "-U", OWNER])
        .args(["-R", "-X", "stream", "-c", "fast", "--no-sync", "-D"])
        .arg(dir.join("data"))
        .env("PGPASSWORD", PASSWORD)
        .current_dir("/")
        .uid(meta.uid())
        .gid(meta.gid());
    let output = backup.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
