//! A deployment of processes on this machine, for quick runs without a container engine: three replicas, a PostgreSQL
//! primary and a synchronous standby, and between each replica and each node a proxy of the drill.
//!
//! Everything lives under one directory and ends with the drill, however the drill ends: the servers stop when their
//! pipe closes, the replicas when their parent is gone.

mod database;
mod faults;
mod keys;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use secrecy::SecretString;
use tokio::task::JoinHandle;

use self::database::{Databases, Shared};
use super::deployment::{Member, Sample};
use super::proxy::{Controls, Proxy};
use super::scenario::{Fault, FaultKind};
use super::target::Target;
use crate::config;
use crate::domain::random::Random;
use crate::store::StoreSettings;
use crate::tools::dev;
use crate::tools::dev::place::Place;
use crate::tools::dev::replicas::{Ports, Replica};

const REPLICAS: u16 = 3;
const NODES: u16 = 2;
/// Below those that the system gives to outgoing connections: who is away finds its port free when it comes back.
const PORTS_FROM: u16 = 20_000;
const PORTS_TO: u16 = 30_000;
/// More than one deployment takes: those of drills that are started together lie apart.
const PORTS_OF_ONE: u16 = 16;
/// Longer than a replica's drain.
const STOP_LIMIT: Duration = Duration::from_secs(15);

/// What the drill lays over the settings of `everbeat dev`.
const OVERLAY: &str = "[observe]\ndrill = true\n[log]\nformat = \"json\"\nfilter = \"info,everbeat::http=warn\"\n";

pub struct Local {
    place: Place,
    ports: Ports,
    /// By number; `None`: it does not run.
    replicas: Vec<Option<Replica>>,
    databases: Shared,
    /// By replica, then by node.
    controls: Vec<Vec<Arc<Controls>>>,
    _proxies: Vec<Proxy>,
    store: Arc<StoreSettings>,
    addrs: Vec<String>,
    target: Target,
    /// The task that fails over since the last fault, if one does.
    failing_over: Option<JoinHandle<Result<bool, String>>>,
}

impl Local {
    /// Sets all of it up under `dir`, which is emptied by whoever made it.
    pub async fn start(dir: &Path, random: Random) -> Result<Self, String> {
        let place = Place::open(dir)?;
        let mut free = FreePorts::new();
        let ports = Ports {
            count: REPLICAS,
            device: free.range(REPLICAS)?,
            admin: free.range(REPLICAS)?,
            ops: free.range(REPLICAS)?,
        };
        let first = free.range(NODES)?;
        let database_ports: Vec<u16> = (first..first + NODES).collect();
        let dir = place.database_dir().join("drill");
        let mut databases = Databases::start(&dir, place.password("owner")?, &database_ports).await?;
        let (controls, proxies) = proxies(&database_ports).await?;
        let store = write_settings(&place, ports, &database_ports, &proxies)?;
        let token = dev::prepare(&store, &place, random).await?;
        databases.begin_standby(&store.store).await?;
        let replicas = (1..=REPLICAS).map(|number| Replica::start(&place, number).map(Some));
        let replicas = replicas.collect::<Result<Vec<_>, _>>()?;
        let target = target(&place, ports, token, &store.store)?;
        Ok(Self {
            addrs: (0..REPLICAS).map(|index| format!("127.0.0.1:{}", ports.device + index)).collect(),
            replicas,
            databases: Arc::new(tokio::sync::Mutex::new(databases)),
            controls,
            _proxies: proxies,
            store: store.store,
            target,
            failing_over: None,
            place,
            ports,
        })
    }

    pub fn store(&self) -> Arc<StoreSettings> {
        self.store.clone()
    }

    pub fn target(&self) -> Target {
        self.target.clone()
    }

    pub fn replica_addrs(&self) -> &[String] {
        &self.addrs
    }

    pub fn ops_urls(&self) -> Vec<String> {
        (0..REPLICAS).map(|index| self.ports.ops_url(index)).collect()
    }

    pub fn can(fault: &Fault) -> bool {
        faults::can(fault)
    }

    pub async fn inject(&mut self, kind: FaultKind, members: &[Member]) -> Result<(), String> {
        for member in members {
            faults::inject(self, kind, *member).await?;
        }
        Ok(())
    }

    /// Undoes what was done, whatever of it was done; what was counted meanwhile.
    pub async fn undo(&mut self, kind: FaultKind, members: &[Member]) -> Result<BTreeMap<String, u64>, String> {
        for member in members {
            faults::undo(self, kind, *member).await?;
        }
        Ok(self.counts(kind))
    }

    /// The whole log of each replica, by number, over all its starts.
    pub fn logs(&self) -> Result<Vec<String>, String> {
        (1..=REPLICAS).map(|number| self.place.read(&format!("replica-{number}.log"))).collect()
    }

    pub fn process_samples(&self) -> Vec<Sample> {
        let running = self.replicas.iter().enumerate().filter_map(|(index, replica)| Some((index, replica.as_ref()?)));
        running.flat_map(|(index, replica)| samples(index + 1, replica.pid().as_raw_nonzero().get())).collect()
    }

    /// Stops everything that was started.
    pub async fn shutdown(mut self) {
        if let Some(task) = self.failing_over.take() {
            let _ = task.await;
        }
        let mut running: Vec<Replica> = self.replicas.iter_mut().filter_map(Option::take).collect();
        for replica in &running {
            // A stopped process hears nothing before it goes on.
            replica.signal(Signal::CONT);
            replica.signal(Signal::TERM);
        }
        for replica in &mut running {
            replica.ended(STOP_LIMIT).await;
        }
        let databases = self.databases.clone();
        drop(self);
        let _ = tokio::task::spawn_blocking(move || drop(databases)).await;
    }
}

/// A proxy from each replica to each node; first the handles, by replica and node, then the listeners in that order.
async fn proxies(database_ports: &[u16]) -> Result<(Vec<Vec<Arc<Controls>>>, Vec<Proxy>), String> {
    let (mut controls, mut proxies) = (Vec::new(), Vec::new());
    for _ in 0..REPLICAS {
        let mut of_replica = Vec::new();
        for port in database_ports {
            let handles = Arc::new(Controls::default());
            proxies.push(Proxy::start("127.0.0.1:0", format!("127.0.0.1:{port}"), handles.clone()).await?);
            of_replica.push(handles);
        }
        controls.push(of_replica);
    }
    Ok((controls, proxies))
}

/// Each replica's file, with its own proxies as hosts, and the drill's own, with the nodes themselves.
fn write_settings(
    place: &Place,
    ports: Ports,
    database_ports: &[u16],
    proxies: &[Proxy],
) -> Result<config::Settings, String> {
    for (index, own) in (0..REPLICAS).zip(proxies.chunks(database_ports.len())) {
        let hosts: Vec<String> = own.iter().map(|proxy| proxy.addr().to_string()).collect();
        place.write(&format!("replica-{}.toml", index + 1), &ports.settings_toml(index, place, &hosts, OVERLAY)?)?;
    }
    let hosts: Vec<String> = database_ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    place.write("drill.toml", &ports.settings_toml(0, place, &hosts, OVERLAY)?)?;
    let file = place.path("drill.toml");
    config::load(std::slice::from_ref(&file)).map(|(_, settings)| settings).map_err(|errors| errors.to_string())
}

fn target(place: &Place, ports: Ports, token: SecretString, store: &Arc<StoreSettings>) -> Result<Target, String> {
    Ok(Target {
        device_urls: ports.device_urls(),
        admin_urls: ports.admin_urls(),
        ca_pem: place.read("pki/ca.pem")?,
        admin_token: token,
        store: store.clone(),
    })
}

/// Descriptors and resident memory, as the kernel counts them (proc(5)).
fn samples(number: usize, pid: i32) -> Vec<Sample> {
    let place = format!("replica {number}");
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let resident_kb =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok());
    let descriptors = f64::from(u32::try_from(descriptors).unwrap_or(u32::MAX));
    vec![
        Sample { place: place.clone(), what: "process.fds", value: descriptors },
        Sample { place, what: "process.resident_bytes", value: resident_kb.unwrap_or(0.0) * 1_024.0 },
    ]
}

/// Ports that nobody uses, in rows.
struct FreePorts {
    next: u16,
}

impl FreePorts {
    fn new() -> Self {
        let place = u64::from(std::process::id()) * u64::from(PORTS_OF_ONE);
        let spread = u16::try_from(place % u64::from(PORTS_TO - PORTS_FROM)).unwrap_or(0);
        Self { next: PORTS_FROM + spread }
    }

    /// The first of `count` ports in a row.
    fn range(&mut self, count: u16) -> Result<u16, String> {
        for _ in 0..PORTS_TO - PORTS_FROM {
            let first = if self.next + count >= PORTS_TO { PORTS_FROM } else { self.next };
            self.next = first + count;
            if (first..first + count).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
                return Ok(first);
            }
            self.next = first + 1;
        }
        Err(format!("no {count} free ports in a row between {PORTS_FROM} and {PORTS_TO} on 127.0.0.1"))
    }
}
