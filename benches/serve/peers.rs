//! Other systems that script/bench-peers has started, each with TLS, by the same client and with as many connections.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use everbeat::client::ClientSettings;
use everbeat::client::transport::{Call, Transport};
use everbeat::client::trust::Trust;
use everbeat::lifecycle::tasks;
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use crate::{CONNECTIONS, Work};

/// As script/bench-peers starts them.
const INFLUXDB: &str = "https://localhost:28086";
const ETCD: &str = "https://localhost:22379";
const FASTAPI: &str = "https://localhost:28000";
const REDIS_PORT: &str = "26379";
const START_LIMIT: Duration = Duration::from_mins(1);

pub(crate) struct Peers {
    dir: PathBuf,
    /// One for each connection.
    transports: Vec<Transport>,
    leases: Vec<String>,
    _fastapi: Workers,
}

/// A process with those that it starts. All of them end with this, also behind a panic.
struct Workers(Child);

impl Drop for Workers {
    fn drop(&mut self) {
        if let Some(group) = self.0.id().and_then(|id| rustix::process::Pid::from_raw(id.cast_signed())) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::TERM);
        }
    }
}

impl Peers {
    /// `dir`: certificates, and the environment of the FastAPI service. `dsn`: the database that it inserts into.
    pub(crate) async fn new(dir: &Path, dsn: &str) -> Self {
        let trust = Trust::from_pem(&std::fs::read_to_string(dir.join("ca.pem")).unwrap()).unwrap();
        let transport = || Transport::new(trust.anonymous().unwrap(), &ClientSettings::device());
        let transports: Vec<Transport> = (0..CONNECTIONS).map(|_| transport()).collect();
        let (_, port) = FASTAPI.rsplit_once(':').unwrap();
        let fastapi = Command::new(dir.join("venv/bin/uvicorn"))
            .args(["fastapi_app:app", "--workers", "2", "--no-access-log", "--log-level", "warning", "--port", port])
            .arg("--app-dir")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers"))
            .arg("--ssl-certfile")
            .arg(dir.join("server.pem"))
            .arg("--ssl-keyfile")
            .arg(dir.join("server.key"))
            .env("DATABASE_URL", dsn)
            .stdin(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        let mut this = Self { dir: dir.to_owned(), transports, leases: Vec::new(), _fastapi: Workers(fastapi) };
        let begun = Instant::now();
        for (url, call) in [(FASTAPI, reading()), (INFLUXDB, influx(0)), (ETCD, grant())] {
            while !this.transports[0].exchange(url, &call).await.is_ok_and(|answer| answer.status < 300) {
                assert!(begun.elapsed() < START_LIMIT, "{url} does not answer");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
        for transport in &this.transports {
            let granted: Value = transport.exchange(ETCD, &grant()).await.unwrap().json().unwrap();
            this.leases.push(granted["ID"].as_str().unwrap().to_owned());
        }
        this
    }

    /// Requests per second.
    pub(crate) async fn rate(&self, work: Work, over: Duration) -> f64 {
        if work == Work::Redis {
            return self.redis(over).await;
        }
        let begun = Instant::now();
        let run = |(place, transport): (usize, &Transport)| {
            let (transport, lease) = (transport.clone(), self.leases[place].clone());
            tasks::spawn(async move {
                let mut done = 0_u32;
                while begun.elapsed() < over {
                    let (url, call) = match work {
                        Work::InfluxDb => (INFLUXDB, influx(place)),
                        Work::Etcd => (ETCD, keep_alive(&lease)),
                        _ => (FASTAPI, reading()),
                    };
                    let answer = transport.exchange(url, &call).await.unwrap();
                    assert!(answer.status < 300, "{url}: {} {}", answer.status, String::from_utf8_lossy(&answer.body));
                    done += 1;
                }
                done
            })
        };
        let running: Vec<_> = self.transports.iter().enumerate().map(run).collect();
        let mut total = 0;
        for task in running {
            total += task.await.unwrap();
        }
        f64::from(total) / begun.elapsed().as_secs_f64()
    }

    /// `SET … EX`, by Redis' own client.
    async fn redis(&self, over: Duration) -> f64 {
        let (mut requests, mut done, mut took) = (2_000_u32, 0_u32, Duration::ZERO);
        while took < over {
            let begun = Instant::now();
            let output = Command::new("redis-benchmark")
                .args(["-h", "localhost", "-p", REDIS_PORT, "--tls", "--cacert"])
                .arg(self.dir.join("ca.pem"))
                .args(["-c", &CONNECTIONS.to_string(), "-n", &requests.to_string(), "-r", "10000", "-q"])
                .args(["SET", "device:__rand_int__", "online", "EX", "30"])
                .stdin(Stdio::null())
                .output()
                .await
                .unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            (done, took) = (done + requests, took + begun.elapsed());
            requests = requests.max(10_000);
        }
        f64::from(done) / took.as_secs_f64()
    }
}

fn reading() -> Call {
    let values = json!({"temperature": 21.5, "humidity": 40.25, "pressure": 1013, "door": false, "mode": "auto"});
    Call::post_json("/readings", &json!({"id": uuid::Uuid::now_v7(), "values": values})).unwrap()
}

/// Line protocol; the server stamps it.
fn influx(place: usize) -> Call {
    let line = format!(
        "readings,device=bench-{place} temperature=21.5,humidity=40.25,pressure=1013i,door=false,mode=\"auto\"\n"
    );
    Call::post("/write?db=bench", Bytes::from(line))
}

fn grant() -> Call {
    Call::post_json("/v3/lease/grant", &json!({"TTL": 600})).unwrap()
}

fn keep_alive(lease: &str) -> Call {
    Call::post_json("/v3/lease/keepalive", &json!({"ID": lease})).unwrap()
}
