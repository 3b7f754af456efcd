//! The replicas of `everbeat dev`: processes of this same binary, each with ports and a log of its own.

use std::fs::OpenOptions;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;

use rustix::process::{Pid, Signal, kill_process};

use super::place::Place;
use super::postgres::OWNER;
use crate::client::plain_get;
use crate::lifecycle::shutdown::Shutdown;

const STOP_LIMIT: Duration = Duration::from_secs(25);

/// The ports of all replicas, counted up from the first's.
#[derive(Clone, Copy)]
pub(in crate::tools) struct Ports {
    pub(in crate::tools) count: u16,
    pub(in crate::tools) device: u16,
    pub(in crate::tools) admin: u16,
    pub(in crate::tools) ops: u16,
}

impl Ports {
    /// Says which port is taken, and which option moves it.
    pub(in crate::tools) fn check_free(self) -> Result<(), String> {
        let mut held = Vec::new();
        for (first, option) in [(self.device, "--device-port"), (self.admin, "--admin-port"), (self.ops, "--ops-port")]
        {
            for index in 0..self.count {
                let port = first.checked_add(index).ok_or_else(|| format!("{option}: too high"))?;
                let address = SocketAddr::from(([127, 0, 0, 1], port));
                // Held until all are checked, so that ranges that overlap are found, too.
                held.push(TcpListener::bind(address).map_err(|error| {
                    format!("port {port} on 127.0.0.1 cannot be used ({error}): stop what uses it, or give {option}")
                })?);
            }
        }
        Ok(())
    }

    pub(in crate::tools) fn device_urls(self) -> Vec<String> {
        (0..self.count).map(|i| format!("https://127.0.0.1:{}", self.device + i)).collect()
    }

    pub(in crate::tools) fn admin_urls(self) -> Vec<String> {
        (0..self.count).map(|i| format!("https://127.0.0.1:{}", self.admin + i)).collect()
    }

    pub(in crate::tools) fn ops_url(self, index: u16) -> String {
        format!("http://127.0.0.1:{}", self.ops + index)
    }

    /// The settings of one replica, over config/dev.toml. `hosts`: the database's nodes as this replica reaches them;
    /// `above`: more settings (TOML) that win over these.
    pub(in crate::tools) fn settings_toml(
        self,
        index: u16,
        place: &Place,
        hosts: &[String],
        above: &str,
    ) -> Result<String, String> {
        let user = |user: &str, name: &str| -> Result<UserKeys, String> {
            Ok(UserKeys { user: user.to_owned(), password: place.password(name)? })
        };
        let overlay = Overlay {
            pki: PkiKeys { dir: place.path("pki") },
            devices: DeviceKeys { addr: format!("127.0.0.1:{}", self.device + index), endpoints: self.device_urls() },
            admin: AddrKeys { addr: format!("127.0.0.1:{}", self.admin + index) },
            ops: AddrKeys { addr: format!("127.0.0.1:{}", self.ops + index) },
            database: DatabaseKeys {
                hosts: hosts.to_vec(),
                owner: user(OWNER, "owner")?,
                control: user("everbeat_control", "control")?,
                fleet: user("everbeat_fleet", "fleet")?,
                lease: user("everbeat_lease", "lease")?,
            },
        };
        let own = toml::to_string(&overlay).map_err(|error| error.to_string())?;
        let shared: toml::Table = toml::from_str(DEV_TOML).map_err(|error| format!("config/dev.toml: {error}"))?;
        let own: toml::Table = toml::from_str(&own).map_err(|error| error.to_string())?;
        let above: toml::Table = toml::from_str(above).map_err(|error| error.to_string())?;
        toml::to_string(&merged(merged(shared, own), above)).map_err(|error| error.to_string())
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

/// One replica's process. Its log is `replica-NUMBER.log`, over all its starts.
pub(in crate::tools) struct Replica {
    child: Child,
    reported: bool,
}

impl Replica {
    /// To be called from a thread that lives as long as the program: the replica ends with the thread.
    pub(in crate::tools) fn start(place: &Place, number: u16) -> Result<Self, String> {
        let program = crate::config::this_program().map_err(|error| format!("cannot find this program: {error}"))?;
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
        Ok(Self { child, reported: false })
    }

    pub(in crate::tools) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub(in crate::tools) fn signal(&self, signal: Signal) {
        let _ = kill_process(self.pid(), signal);
    }

    pub(in crate::tools) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end; SIGKILL after `limit`.
    pub(in crate::tools) async fn ended(&mut self, limit: Duration) {
        let deadline = tokio::time::Instant::now() + limit;
        while !self.has_ended() {
            if tokio::time::Instant::now() > deadline {
                let _ = self.child.kill();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

pub(in crate::tools) struct Replicas {
    ports: Ports,
    root: PathBuf,
    running: Mutex<Vec<Replica>>,
}

impl Replicas {
    pub(in crate::tools) fn start(place: &Place, ports: Ports) -> Result<Self, String> {
        let running = (1..=ports.count).map(|number| Replica::start(place, number)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { ports, root: place.root().to_owned(), running: Mutex::new(running) })
    }

    /// The process ids, for people who want to kill one.
    pub(in crate::tools) fn pids(&self) -> Vec<u32> {
        self.locked(|running| running.iter().map(|replica| replica.child.id()).collect())
    }

    /// The numbers of replicas that have ended since the last call.
    pub(in crate::tools) fn newly_ended(&self) -> Vec<usize> {
        self.locked(|running| {
            let mut ended = Vec::new();
            for (index, replica) in running.iter_mut().enumerate() {
                if !replica.reported && replica.has_ended() {
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

    pub(in crate::tools) async fn wait_until_ready(&self, limit: Duration, shutdown: &Shutdown) -> Result<(), String> {
        let deadline = tokio::time::Instant::now() + limit;
        for index in 0..self.ports.count {
            let url = format!("{}/readyz", self.ports.ops_url(index));
            loop {
                if shutdown.is_draining() {
                    return Ok(());
                }
                if let Some(ended) = self.newly_ended().first() {
                    let log = self.root.join(format!("replica-{ended}.log"));
                    let last = std::fs::read_to_string(&log).unwrap_or_default();
                    let last = last.lines().last().unwrap_or_default();
                    return Err(format!("replica {ended} did not start: {last} (see {})", log.display()));
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
    pub(in crate::tools) async fn stop(self) {
        let mut running = self.running.into_inner().unwrap_or_else(PoisonError::into_inner);
        for replica in running.iter().filter(|replica| !replica.reported) {
            replica.signal(Signal::TERM);
        }
        let deadline = tokio::time::Instant::now() + STOP_LIMIT;
        for replica in &mut running {
            replica.ended(deadline.saturating_duration_since(tokio::time::Instant::now())).await;
        }
    }
}
