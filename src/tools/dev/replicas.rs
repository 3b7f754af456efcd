//! The replicas of `everbeat dev`: processes of this same binary, each with ports and a log of its own.

use std::fs::OpenOptions;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;

use super::place::Place;
use super::postgres::OWNER;
use crate::client::plain_get;
use crate::lifecycle::shutdown::Shutdown;

const STOP_LIMIT: Duration = Duration::from_secs(25);

/// The ports of all replicas, counted up from the first's.
#[derive(Clone, Copy)]
pub(super) struct Ports {
    pub(super) count: u16,
    pub(super) device: u16,
    pub(super) admin: u16,
    pub(super) ops: u16,
}

impl Ports {
    /// Says which port is taken, and which option moves it.
    pub(super) fn check_free(self) -> Result<(), String> {
        for (first, option) in [(self.device, "--device-port"), (self.admin, "--admin-port"), (self.ops, "--ops-port")]
        {
            for index in 0..self.count {
                let port = first.checked_add(index).ok_or_else(|| format!("{option}: too high"))?;
                let address = SocketAddr::from(([127, 0, 0, 1], port));
                TcpListener::bind(address).map_err(|error| {
                    format!("port {port} on 127.0.0.1 cannot be used ({error}): stop what uses it, or give {option}")
                })?;
            }
        }
        Ok(())
    }

    pub(super) fn device_urls(self) -> Vec<String> {
        (0..self.count).map(|i| format!("https://127.0.0.1:{}", self.device + i)).collect()
    }

    pub(super) fn admin_urls(self) -> Vec<String> {
        (0..self.count).map(|i| format!("https://127.0.0.1:{}", self.admin + i)).collect()
    }

    pub(super) fn ops_url(self, index: u16) -> String {
        format!("http://127.0.0.1:{}", self.ops + index)
    }

    /// The settings of one replica, over config/dev.toml.
    pub(super) fn settings_toml(self, index: u16, place: &Place, database_port: u16) -> Result<String, String> {
        let user = |user: &str, name: &str| -> Result<UserKeys, String> {
            Ok(UserKeys { user: user.to_owned(), password: place.password(name)? })
        };
        let overlay = Overlay {
            pki: PkiKeys { dir: place.path("pki") },
            devices: DeviceKeys { addr: format!("127.0.0.1:{}", self.device + index), endpoints: self.device_urls() },
            admin: AddrKeys { addr: format!("127.0.0.1:{}", self.admin + index) },
            ops: AddrKeys { addr: format!("127.0.0.1:{}", self.ops + index) },
            database: DatabaseKeys {
                hosts: vec![format!("127.0.0.1:{database_port}")],
                owner: user(OWNER, "owner")?,
                control: user("everbeat_control", "control")?,
                fleet: user("everbeat_fleet", "fleet")?,
                lease: user("everbeat_lease", "lease")?,
            },
        };
        let own = toml::to_string(&overlay).map_err(|error| error.to_string())?;
        let shared: toml::Table = toml::from_str(DEV_TOML).map_err(|error| format!("config/dev.toml: {error}"))?;
        let own: toml::Table = toml::from_str(&own).map_err(|error| error.to_string())?;
        toml::to_string(&merged(shared, own)).map_err(|error| error.to_string())
    }
}

const DEV_TOML: &str = include_str!("../../../config/dev.toml");

fn merged(mut below: toml::Table, above: toml::Table) -> toml::Table {
    for (key, value) in above {
        let value = match (below.remove(&key), value) {
            (Some(toml::Value::Table(under)), toml::Value::Table(over)) => toml::Value::Table(merged(under, over)),
            (_, value) => value,
        };
        below.insert(key, value);
    }
    below
}

#[derive(Serialize)]
struct Overlay {
    pki: PkiKeys,
    devices: DeviceKeys,
    admin: AddrKeys,
    ops: AddrKeys,
    database: DatabaseKeys,
}

#[derive(Serialize)]
struct PkiKeys {
    dir: PathBuf,
}

#[derive(Serialize)]
struct DeviceKeys {
    addr: String,
    endpoints: Vec<String>,
}

#[derive(Serialize)]
struct AddrKeys {
    addr: String,
}

#[derive(Serialize)]
struct DatabaseKeys {
    hosts: Vec<String>,
    owner: UserKeys,
    control: UserKeys,
    fleet: UserKeys,
    lease: UserKeys,
}

#[derive(Serialize)]
struct UserKeys {
    user: String,
    password: String,
}

struct Replica {
    child: Child,
    reported: bool,
}

pub(super) struct Replicas {
    ports: Ports,
    running: Mutex<Vec<Replica>>,
}

impl Replicas {
    pub(super) fn start(place: &Place, ports: Ports) -> Result<Self, String> {
        let program = crate::config::this_program().map_err(|error| format!("cannot find this program: {error}"))?;
        let mut running = Vec::new();
        for number in 1..=ports.count {
            let path = place.path(&format!("replica-{number}.log"));
            let log = OpenOptions::new().create(true).append(true).open(&path);
            let log = log.map_err(|error| format!("cannot write {}: {error}", path.display()))?;
            let child = Command::new(&program)
                .args(["serve", "--die-with-parent", "--config"])
                .arg(place.path(&format!("replica-{number}.toml")))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log)
                .process_group(0)
                .spawn();
            let child = child.map_err(|error| format!("cannot start a replica: {error}"))?;
            running.push(Replica { child, reported: false });
        }
        Ok(Self { ports, running: Mutex::new(running) })
    }

    /// The process ids, for people who want to kill one.
    pub(super) fn pids(&self) -> Vec<u32> {
        self.locked(|running| running.iter().map(|replica| replica.child.id()).collect())
    }

    /// The numbers of replicas that have ended since the last call.
    pub(super) fn newly_ended(&self) -> Vec<usize> {
        self.locked(|running| {
            let mut ended = Vec::new();
            for (index, replica) in running.iter_mut().enumerate() {
                if !replica.reported && matches!(replica.child.try_wait(), Ok(Some(_))) {
                    replica.reported = true;
                    ended.push(index + 1);
                }
            }
            ended
        })
    }

    fn locked<T>(&self, work: impl FnOnce(&mut Vec<Replica>) -> T) -> T {
        work(&mut self.running.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) async fn wait_until_ready(&self, limit: Duration, shutdown: &Shutdown) -> Result<(), String> {
        let deadline = tokio::time::Instant::now() + limit;
        for index in 0..self.ports.count {
            let url = format!("{}/readyz", self.ports.ops_url(index));
            loop {
                if shutdown.is_draining() {
                    return Ok(());
                }
                if let Some(ended) = self.newly_ended().first() {
                    return Err(format!("replica {ended} did not start; its log says why (replica-{ended}.log)"));
                }
                match plain_get(&url, Duration::from_secs(1)).await {
                    Ok((200, _)) => break,
                    _ if tokio::time::Instant::now() > deadline => {
                        return Err(format!("replica {} is not ready after {limit:?}; see its log", index + 1));
                    }
                    _ => tokio::time::sleep(Duration::from_millis(100)).await,
                }
            }
        }
        Ok(())
    }

    /// SIGTERM to all, and SIGKILL to those that are still there after the limit.
    pub(super) async fn stop(self) {
        let mut running = self.running.into_inner().unwrap_or_else(PoisonError::into_inner);
        for replica in &running {
            let pid = i32::try_from(replica.child.id()).ok().and_then(rustix::process::Pid::from_raw);
            if let (Some(pid), false) = (pid, replica.reported) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
        }
        let deadline = tokio::time::Instant::now() + STOP_LIMIT;
        for replica in &mut running {
            while matches!(replica.child.try_wait(), Ok(None)) {
                if tokio::time::Instant::now() > deadline {
                    let _ = replica.child.kill();
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}
