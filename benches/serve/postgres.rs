//! PostgreSQL alone, with the service's own tables and without anything before it: no HTTP, no TLS, no identity.

use std::fmt::Write;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use everbeat::domain::time::Clock;
use everbeat::lifecycle::tasks;
use futures_util::SinkExt;
use time::OffsetDateTime;
use tokio::process::Command;
use tokio::time::Instant;
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

use crate::support::{PASSWORD, TestCluster};

const CLIENTS: usize = 16;
const ROWS: usize = 100;
const VALUES: &str = r#"{"temperature": 21.5, "humidity": 40.25, "pressure": 1013, "door": false, "mode": "auto"}"#;
/// Devices whose row is updated.
const DEVICES: usize = 10_000;

pub(crate) struct Postgres {
    port: u16,
    user: String,
    database: String,
    dir: std::path::PathBuf,
    clients: Vec<Arc<Client>>,
}

impl Postgres {
    pub(crate) async fn new(cluster: &TestCluster, database: &str) -> Self {
        let dir = crate::support::scratch_dir("pgbench");
        std::fs::create_dir_all(&dir).unwrap();
        let insert = format!(
            "insert into readings (device_id, ts, digest, content, \"values\") values (gen_random_uuid(), \
             clock_timestamp(), (random() * 9e18)::bigint, 1, '{VALUES}');\n"
        );
        let update = format!(
            "\\set n random(1, {DEVICES})\nupdate bench_presence set last_seen = clock_timestamp(), hb_seq = hb_seq + 1 \
             where device_id = md5(:n::text)::uuid;\n"
        );
        std::fs::write(dir.join("insert.sql"), insert).unwrap();
        std::fs::write(dir.join("update.sql"), update).unwrap();
        let table = format!(
            "create table bench_presence (like presence including all);
             insert into bench_presence (device_id, promise_ms)
             select md5(n::text)::uuid, 30000 from generate_series(1, {DEVICES}) n"
        );
        cluster.owner_batch(database, &table).await;
        let dsn = cluster.owner_dsn(database);
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            let (client, connection) = tokio_postgres::connect(&dsn, NoTls).await.unwrap();
            drop(tasks::spawn(connection));
            clients.push(Arc::new(client));
        }
        let user = everbeat::tools::dev::postgres::OWNER.to_owned();
        Self { port: cluster.port(), user, database: database.to_owned(), dir, clients }
    }

    pub(crate) async fn insert(&self, over: Duration) -> f64 {
        self.pgbench("insert.sql", over).await
    }

    pub(crate) async fn update(&self, over: Duration) -> f64 {
        self.pgbench("update.sql", over).await
    }

    /// Transactions per second.
    async fn pgbench(&self, script: &str, over: Duration) -> f64 {
        #[expect(clippy::disallowed_methods, reason = "script/setup finds PostgreSQL's programs")]
        let programs = std::env::var("EVERBEAT_PG_BIN").unwrap_or_else(|_| panic!("run it by ./script/bench"));
        let output = Command::new(std::path::Path::new(&programs).join("pgbench"))
            .args(["--no-vacuum", "--protocol=prepared", "--jobs=2"])
            .arg(format!("--client={CLIENTS}"))
            .arg(format!("--time={}", over.as_secs()))
            .arg(format!("--file={}", self.dir.join(script).display()))
            .args(["--host=127.0.0.1", &format!("--port={}", self.port), &format!("--username={}", self.user)])
            .arg(&self.database)
            .env("PGPASSWORD", PASSWORD)
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let rate = text.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
        rate.unwrap_or_else(|| panic!("pgbench: {text}{}", String::from_utf8_lossy(&output.stderr)))
    }

    /// Statements per second.
    pub(crate) async fn unnest(&self, over: Duration) -> f64 {
        let sql = "insert into readings (device_id, ts, digest, content, \"values\")
                   select * from unnest($1::uuid[], $2::timestamptz[], $3::bigint[], $4::bigint[], $5::text[]::jsonb[])";
        let run = async |client: Arc<Client>, until: Instant| {
            let statement = client.prepare(sql).await.unwrap();
            let mut done = 0_u32;
            while Instant::now() < until {
                let device = Uuid::now_v7();
                let (devices, now) = (vec![device; ROWS], Clock::System.wall());
                let times: Vec<OffsetDateTime> = vec![now; ROWS];
                let numbers: Vec<i64> = (0..ROWS).map(|n| i64::try_from(n).unwrap()).collect();
                let values = vec![VALUES; ROWS];
                client.execute(&statement, &[&devices, &times, &numbers, &numbers, &values]).await.unwrap();
                done += 1;
            }
            done
        };
        self.together(over, run).await
    }

    /// Statements per second.
    pub(crate) async fn copy(&self, over: Duration) -> f64 {
        let run = async |client: Arc<Client>, until: Instant| {
            let mut done = 0_u32;
            while Instant::now() < until {
                let (device, now) = (Uuid::now_v7(), Clock::System.wall());
                let mut text = String::with_capacity(ROWS * 200);
                for n in 0..ROWS {
                    let _ = writeln!(text, "{device}\t{now}\t{n}\t{n}\t{VALUES}");
                }
                let sql = "copy readings (device_id, ts, digest, content, \"values\") from stdin";
                let sink = client.copy_in::<_, Bytes>(sql).await.unwrap();
                let mut sink = std::pin::pin!(sink);
                sink.send(Bytes::from(text)).await.unwrap();
                sink.finish().await.unwrap();
                done += 1;
            }
            done
        };
        self.together(over, run).await
    }

    async fn together<F>(&self, over: Duration, run: F) -> f64
    where
        F: AsyncFn(Arc<Client>, Instant) -> u32,
    {
        let begun = Instant::now();
        let all = self.clients.iter().map(|client| run(client.clone(), begun + over));
        let done: u32 = futures_util::future::join_all(all).await.into_iter().sum();
        f64::from(done) / begun.elapsed().as_secs_f64()
    }
}

/// Devices that are registered and silent.
pub(crate) async fn register_a_million(cluster: &TestCluster, database: &str) {
    let sql = "insert into devices (id, fleet_id, name)
               select gen_random_uuid(), (select id from fleets limit 1), 'crowd-' || n from generate_series(1, 1000000) n;
               insert into presence (device_id, state, last_seen, promise_ms)
               select id, 3, clock_timestamp() - interval '1 day', 30000 from devices where name like 'crowd-%';
               analyze devices; analyze presence; checkpoint";
    cluster.owner_batch(database, sql).await;
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
