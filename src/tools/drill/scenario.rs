//! What is done to a deployment: the nouns. A scenario is data, so that the list of them reads as one page and a
//! report can name exactly what ran.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Whom a fault meets. Roles are resolved when the fault is injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Node {
    /// The replica that holds the sweeper's lease.
    Leader,
    /// A replica that does not.
    Follower,
    /// By number, from 1.
    Replica(u8),
    /// The load balancer that the devices use first.
    LoadBalancer,
    /// The database node that is writable.
    Primary,
    /// A synchronous standby, the first of several.
    SyncStandby,
    /// All standbys at once.
    Standbys,
    Etcd(u8),
    /// Two of three.
    EtcdMajority,
}

/// Which way packets are dropped, seen from the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cut {
    In,
    Out,
    Both,
}

/// What happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// SIGKILL of the process (its container goes with it) and a start after the hold.
    Kill,
    /// SIGTERM, and a start after the hold.
    Terminate,
    /// SIGKILL of the postmaster inside its node, which stays.
    PostmasterKill,
    /// SIGSTOP of the process, SIGCONT after the hold.
    Pause,
    /// The whole host frozen (cgroup freezer), thawed after the hold. Its kernel goes on acknowledging TCP.
    FreezeHost,
    /// A clean stop, and a start after the hold.
    Stop,
    /// Cut off from everybody.
    CutOff(Cut),
    /// A replica cut off from the database only.
    CutFromDatabase(Cut),
    /// The lease session's backend is terminated.
    TerminateLeaseSession,
    /// The change log's listener backend is terminated.
    TerminateListener,
    /// Backends whose COMMIT waits for a standby are terminated: it stays, on this node alone, and nobody is told.
    TerminateSyncWaits,
    /// Connections are cut after their COMMIT has been sent and before its answer.
    CutAfterCommit,
    /// The answer of a lease campaign is dropped.
    DropCampaignAnswer,
    /// A planned change of the primary.
    Switchover,
    /// Patroni frozen on the node, its PostgreSQL goes on.
    FreezePatroni,
    /// The data disk is full until the hold is over.
    FillDisk,
    /// A stranger holds all connections that there are.
    TakeConnections,
    /// The node's clock steps by so many seconds.
    ClockStep(i8),
    /// Every answer from the database is late by so many milliseconds.
    Delay(u16),
    /// The next token key of devices is made, published, confirmed by every replica and used.
    ReplaceTokenKey,
    /// The same with the issuing CA, and a new server certificate by it.
    ReplaceCa,
}

/// One thing done at one time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    pub kind: FaultKind,
    pub node: Node,
    /// After the scenario's moment of injection.
    pub after: Duration,
    /// How long it lasts before it is undone. Zero: there is nothing to undo.
    pub hold: Duration,
}

impl Fault {
    pub fn new(kind: FaultKind, node: Node, hold: Duration) -> Self {
        Self { kind, node, after: Duration::ZERO, hold }
    }

    #[must_use]
    pub fn after(mut self, after: Duration) -> Self {
        self.after = after;
        self
    }

    /// Its members do nothing while it is in force.
    pub fn takes_away(&self) -> bool {
        matches!(self.kind, FaultKind::Kill | FaultKind::Stop | FaultKind::Pause | FaultKind::FreezeHost)
    }
}

impl Scenario {
    /// A standby is lost beside the primary, and another has to take over.
    pub fn needs_three_nodes(&self) -> bool {
        let lost =
            |fault: &Fault| fault.node == Node::SyncStandby && matches!(fault.kind, FaultKind::Kill | FaultKind::Stop);
        self.minimums.primary_changes > 0 && self.faults.iter().any(lost)
    }
}

/// Below these a run proves nothing, and fails (I10). Zero: not demanded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Minimums {
    /// Acknowledged readings in all.
    pub acknowledged: u64,
    /// Requests that were under way when the fault began.
    pub in_flight_at_fault: u64,
    /// Readings whose first attempt ended unknown and that were sent again.
    pub ambiguous: u64,
    /// Retries of an unknown outcome that were answered as duplicates.
    pub duplicates_retried: u64,
    pub leader_changes: u64,
    pub primary_changes: u64,
    /// Devices that fall silent on purpose just before the fault, beside the one of every run.
    pub silenced: u64,
    /// Silences whose end in *offline* was due within the run.
    #[serde(default)]
    pub silences_judged: u64,
    /// Revocations that were acknowledged, each followed by an attempt of the revoked.
    pub revocations: u64,
    /// Connections that the injector cut after COMMIT was sent.
    pub commits_cut: u64,
    /// Requests that change something, sent while no standby ran.
    #[serde(default)]
    pub tried_alone: u64,
    /// Those of them that sent readings of an unknown outcome again.
    #[serde(default)]
    pub retried_alone: u64,
    /// New sessions of a human that the primary let in meanwhile.
    #[serde(default)]
    pub entered_alone: u64,
}

/// Above these something happened that must not in this scenario (I10). `None`: it may.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Maximums {
    pub leader_changes: Option<u64>,
    pub primary_changes: Option<u64>,
}

/// The most that a figure of one run may be; `None`: reported and not judged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    /// From the fault to another replica's belief.
    pub takeover: Option<Duration>,
    /// The longest span around the fault without an acknowledged reading.
    pub write_gap: Option<Duration>,
    /// From the first acknowledged write after the fault to the leader's next effect or belief.
    pub leader_after_writes: Option<Duration>,
    /// The window in which clients saw errors.
    pub error_window: Option<Duration>,
    /// Requests that failed for a client that retries once.
    pub failed_after_one_retry: Option<u64>,
}

/// A drill's chapter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scenario {
    /// Stable, for `--only` and reports: `leader-kill`.
    pub name: String,
    /// One sentence for people: what is done, and what must hold.
    pub about: String,
    /// In order of `after`.
    pub faults: Vec<Fault>,
    /// Load before the fault, beside a random phase of the lease interval.
    pub warm_up: Duration,
    /// Load after everything is healthy again.
    pub cool_down: Duration,
    /// Everything must be healthy again in this time after the last fault ended.
    pub recovery_max: Duration,
    pub minimums: Minimums,
    pub maximums: Maximums,
    pub bounds: Bounds,
}
