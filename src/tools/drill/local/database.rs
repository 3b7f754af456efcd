//! Two database nodes on this machine, and who plays Patroni between them: it fences a primary that is gone, promotes
//! the standby if that has everything, and takes the old primary back as a standby.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::store::{Session, StoreSettings, drill_nodes};
use crate::tools::dev::postgres::{Cluster, ClusterOptions};
use crate::tools::dev::standby;

/// Of one statement that manages a node.
const COMMAND_LIMIT: Duration = Duration::from_secs(30);
const STREAMING_LIMIT: Duration = Duration::from_secs(30);
const LOOK_LIMIT: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(50);

/// Three replicas' pools and dedicated sessions, the drill's own, and some room.
const SETTINGS: [&str; 8] = [
    "max_connections=150",
    "shared_buffers=64MB",
    "wal_keep_size=256MB",
    "wal_retrieve_retry_interval=500ms",
    "max_wal_senders=8",
    "hot_standby=on",
    // The kernel keeps what was written; only a crash of the machine would need the syncs.
    "fsync=off",
    "full_page_writes=off",
];

struct Node {
    name: String,
    dir: PathBuf,
    port: u16,
    /// `None`: it does not run.
    cluster: Option<Cluster>,
    is_frozen: bool,
}

/// The pair.
pub(super) struct Databases {
    nodes: Vec<Node>,
    password: String,
    /// Index of the node that is to be writable.
    primary: usize,
    /// The standby has everything that was acknowledged: it may be promoted.
    in_sync: bool,
}

impl Databases {
    /// Makes and starts a first node; [`Self::begin_standby`] makes the other.
    pub(super) async fn start(dir: &Path, password: String, ports: &[u16]) -> Result<Self, String> {
        let node = |(index, port): (usize, &u16)| {
            let name = format!("pg{}", index + 1);
            Node { dir: dir.join(&name), name, port: *port, cluster: None, is_frozen: false }
        };
        let nodes = ports.iter().enumerate().map(node).collect();
        let mut pair = Self { nodes, password, primary: 0, in_sync: false };
        pair.run(0, false).await?;
        Ok(pair)
    }

    pub(super) fn primary(&self) -> usize {
        self.primary
    }

    /// The node beside the primary.
    pub(super) fn other(&self) -> usize {
        1 - self.primary
    }

    /// Nobody was promoted since the standby had everything.
    pub(super) fn is_in_sync(&self) -> bool {
        self.in_sync
    }

    pub(super) fn is_running(&self, index: usize) -> bool {
        self.nodes[index].cluster.is_some()
    }

    /// Starts a node with what it has, or as a fresh copy of the other.
    pub(super) async fn run(&mut self, index: usize, copied: bool) -> Result<(), String> {
        let other = self.nodes[1 - index].port;
        let node = &self.nodes[index];
        let (dir, port, name, password) = (node.dir.clone(), node.port, node.name.clone(), self.password.clone());
        let work = move || {
            let mut options =
                ClusterOptions { dir: &dir, password: &password, settings: &[], port: Some(port), throwaway: false };
            if copied {
                standby::copy(&options, other)?;
            }
            let source = format!("primary_conninfo={}", standby::source(&options, &name, other)?);
            let settings: Vec<&str> = SETTINGS.iter().copied().chain([source.as_str()]).collect();
            options.settings = &settings;
            Cluster::start(&options)
        };
        let started = tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())?;
        self.nodes[index].cluster = Some(started?);
        self.nodes[index].is_frozen = false;
        Ok(())
    }

    /// Makes the other node a standby of the primary, waits until it streams, and has commits wait for it.
    pub(super) async fn begin_standby(&mut self, store: &StoreSettings) -> Result<(), String> {
        let other = self.other();
        self.run(other, true).await?;
        self.demand_sync(store).await
    }

    /// From now on commits wait for the standby, once it streams.
    pub(super) async fn demand_sync(&mut self, store: &StoreSettings) -> Result<(), String> {
        let session = self.session(store, self.primary).await?;
        let deadline = tokio::time::Instant::now() + STREAMING_LIMIT;
        while drill_nodes::look(&session, LOOK_LIMIT).await.map_or(0, |node| node.standbys.len()) == 0 {
            if tokio::time::Instant::now() > deadline {
                return Err(format!("{} does not stream", self.nodes[self.other()].name));
            }
            tokio::time::sleep(PAUSE).await;
        }
        sync_standbys(&session, "pg1, pg2").await?;
        self.in_sync = true;
        Ok(())
    }

    /// A clean stop: every session ends, and the standby gets all of it before.
    pub(super) async fn stop(&mut self, index: usize) -> Result<(), String> {
        let cluster = self.nodes[index].cluster.take();
        tokio::task::spawn_blocking(move || drop(cluster)).await.map_err(|error| error.to_string())
    }

    /// SIGKILL to the postmaster, and to all its children if the whole node is to be gone.
    pub(super) async fn kill(&mut self, index: usize, children: bool) -> Result<(), String> {
        if let Some(postmaster) = self.postmaster(index) {
            let all = if children { children_of(postmaster) } else { Vec::new() };
            for pid in std::iter::once(postmaster).chain(all) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        self.stop(index).await
    }

    /// SIGSTOP to every process of the node; its sockets stay open, and the kernel goes on acknowledging.
    pub(super) fn freeze(&mut self, index: usize) -> Result<(), String> {
        self.nodes[index].is_frozen = true;
        self.signal_all(index, Signal::STOP)
    }

    pub(super) fn thaw(&mut self, index: usize) -> Result<(), String> {
        self.nodes[index].is_frozen = false;
        self.signal_all(index, Signal::CONT)
    }

    /// It runs and cannot be asked: whoever would promote it waits until it can.
    pub(super) fn is_frozen(&self, index: usize) -> bool {
        self.is_running(index) && self.nodes[index].is_frozen
    }

    fn signal_all(&self, index: usize, signal: Signal) -> Result<(), String> {
        let postmaster = self.postmaster(index).ok_or_else(|| format!("{} does not run", self.nodes[index].name))?;
        let _ = kill_process(postmaster, signal);
        for child in children_of(postmaster) {
            let _ = kill_process(child, signal);
        }
        Ok(())
    }

    /// Kills what is left of the primary and promotes the standby. Without a standby that has everything nobody is
    /// promoted, and `false` comes back.
    pub(super) async fn fail_over(&mut self, store: &StoreSettings) -> Result<bool, String> {
        let (old, new) = (self.primary, self.other());
        if !self.in_sync || !self.is_running(new) {
            return Ok(false);
        }
        self.kill(old, true).await?;
        self.promote(store, new).await.map(|()| true)
    }

    /// A planned change: the primary stops cleanly, so the standby has all of it.
    pub(super) async fn switch_over(&mut self, store: &StoreSettings) -> Result<(), String> {
        let (old, new) = (self.primary, self.other());
        self.stop(old).await?;
        self.promote(store, new).await
    }

    /// The new primary works alone until [`Self::begin_standby`]: with two nodes there is nobody else to wait for.
    async fn promote(&mut self, store: &StoreSettings, index: usize) -> Result<(), String> {
        let session = self.session(store, index).await?;
        sync_standbys(&session, "").await?;
        let promote = format!("select pg_promote(true, {})", COMMAND_LIMIT.as_secs());
        drill_nodes::command(&session, &promote, COMMAND_LIMIT).await.map_err(|error| error.detail)?;
        (self.primary, self.in_sync) = (index, false);
        Ok(())
    }

    async fn session(&self, store: &StoreSettings, index: usize) -> Result<Session, String> {
        drill_nodes::open(store, index).await.map_err(|error| format!("{}: {}", self.nodes[index].name, error.detail))
    }

    /// `None` when it does not run: its file may name another process by now.
    fn postmaster(&self, index: usize) -> Option<Pid> {
        self.nodes[index].cluster.as_ref()?;
        let text = std::fs::read_to_string(self.nodes[index].dir.join("data/postmaster.pid")).ok()?;
        Pid::from_raw(text.lines().next()?.trim().parse().ok()?)
    }
}

impl Drop for Databases {
    fn drop(&mut self) {
        // A frozen server would not hear that it is to stop.
        for index in 0..self.nodes.len() {
            if self.is_running(index) {
                let _ = self.thaw(index);
            }
        }
    }
}

async fn sync_standbys(session: &Session, names: &str) -> Result<(), String> {
    for sql in [format!("alter system set synchronous_standby_names = '{names}'"), "select pg_reload_conf()".to_owned()]
    {
        drill_nodes::command(session, &sql, COMMAND_LIMIT).await.map_err(|error| error.detail)?;
    }
    Ok(())
}

/// Processes whose parent it is. In /proc/PID/stat the parent stands second after the name in parentheses.
fn children_of(parent: Pid) -> Vec<Pid> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse().ok()));
    pids.filter_map(Pid::from_raw)
        .filter(|pid| {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
            let of = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
            of.and_then(Pid::from_raw) == Some(parent)
        })
        .collect()
}

/// Shared with the task that fails over while the drill goes on.
pub(super) type Shared = Arc<tokio::sync::Mutex<Databases>>;
