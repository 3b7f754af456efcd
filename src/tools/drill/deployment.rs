//! What is drilled. A deployment knows its members, does faults to them and undoes them, and gives what they leave
//! behind. Everything that can be seen through the database or the replicas' logs is done here, once for both kinds.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::compose::Compose;
use super::evidence::{Absence, BlindSpan, ClockStep};
use super::local::Local;
use super::scenario::{Fault, FaultKind, Node};
use super::state::{self, State};
use super::target::Target;
use super::{beliefs, state::LEADER_ROLE};
use crate::domain::time::Clock;
use crate::store::{StoreSettings, drill_nodes};

/// One part of a deployment, by number from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Member {
    Replica(u8),
    /// A database node, at the place that it has in the store's hosts.
    Database(u8),
    Etcd(u8),
    LoadBalancer,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Replica(number) => write!(f, "replica {number}"),
            Self::Database(number) => write!(f, "pg{number}"),
            Self::Etcd(number) => write!(f, "etcd{number}"),
            Self::LoadBalancer => f.write_str("load balancer"),
        }
    }
}

/// A fault that was done to its members, until it is undone.
#[derive(Clone, Debug)]
pub struct Injected {
    pub fault: Fault,
    /// Resolved when it was injected; [`Deployment::undo`] must not resolve again, since roles move.
    pub members: Vec<Member>,
    pub began_us: u64,
    /// Who the replicas among the members were.
    pub replicas: Vec<Uuid>,
    /// The processes that are away, with the time they went.
    pub away: Vec<Away>,
    /// What the injector counted meanwhile (`commits_cut`, …), filled in when it is undone.
    pub counts: BTreeMap<String, u64>,
}

/// A replica's process that was killed, stopped or paused.
#[derive(Clone, Debug)]
pub struct Away {
    pub replica: Uuid,
    pub from_us: u64,
    pub paused: bool,
}

impl Injected {
    /// Who could not hear of changes while it was in force.
    pub fn blind(&self, until_us: u64) -> Vec<BlindSpan> {
        let span = |replica| BlindSpan { replica, from_us: self.began_us, until_us };
        if self.members.iter().any(|member| matches!(member, Member::Database(_) | Member::Etcd(_))) {
            return vec![span(None)];
        }
        match self.fault.kind {
            FaultKind::CutOff(_) | FaultKind::CutFromDatabase(_) => {
                self.replicas.iter().map(|replica| span(Some(*replica))).collect()
            }
            _ => Vec::new(),
        }
    }

    /// The clock that it moved, if it moved one.
    pub fn clock_step(&self, until_us: u64) -> Option<ClockStep> {
        match self.fault.kind {
            FaultKind::ClockStep(seconds) => {
                Some(ClockStep { from_us: self.began_us, until_us, by_us: i64::from(seconds) * 1_000_000 })
            }
            _ => None,
        }
    }
}

impl Away {
    pub fn until(&self, until_us: u64) -> Absence {
        Absence { replica: self.replica, from_us: self.from_us, until_us, paused: self.paused }
    }
}

/// Done through the database, to whatever kind of deployment, and undone by nobody.
fn is_by_sql(kind: FaultKind) -> bool {
    use FaultKind as Kind;
    matches!(kind, Kind::TerminateLeaseSession | Kind::TerminateListener | Kind::TerminateSyncWaits)
}

/// Until there is somebody whose session can be ended.
const TERMINATE_WITHIN: Duration = Duration::from_secs(1);
const TERMINATE_AGAIN: Duration = Duration::from_millis(20);

/// How the drill reaches a deployment.
pub enum Deployment {
    /// Processes of our own.
    Local(Box<Local>),
    /// Containers of a compose project.
    Compose(Box<Compose>),
}

/// What both kinds of deployment bring. Not a trait: there is one list of callers, and this is it.
impl Deployment {
    /// The owner's login; `hosts[n - 1]` reaches [`Member::Database`] n from this host.
    pub fn store(&self) -> Arc<StoreSettings> {
        match self {
            Self::Local(local) => local.store(),
            Self::Compose(compose) => compose.store(),
        }
    }

    pub fn target(&self) -> Target {
        match self {
            Self::Local(local) => local.target(),
            Self::Compose(compose) => compose.target(),
        }
    }

    /// `replica.addr` as leases show it, by number.
    pub fn replica_addrs(&self) -> &[String] {
        match self {
            Self::Local(local) => local.replica_addrs(),
            Self::Compose(compose) => compose.replica_addrs(),
        }
    }

    /// Bases of `/readyz`, by number.
    pub fn ops_urls(&self) -> Vec<String> {
        match self {
            Self::Local(local) => local.ops_urls(),
            Self::Compose(compose) => compose.ops_urls(),
        }
    }

    /// Bases of the load balancers' `/metrics`, by number.
    pub fn balancer_urls(&self) -> Vec<String> {
        match self {
            Self::Local(_) => Vec::new(),
            Self::Compose(compose) => compose.balancer_urls(),
        }
    }

    /// Some faults need what a kind does not have.
    pub fn can(&self, fault: &Fault) -> bool {
        match self {
            Self::Local(_) => Local::can(fault),
            Self::Compose(compose) => compose.can(fault),
        }
    }

    /// Whoever takes over with nobody beside it acknowledges all the same: of two nodes there is no other to wait for.
    pub fn successor_works_alone(&self) -> bool {
        matches!(self, Self::Local(_))
    }

    /// Who has this role now.
    pub fn resolve(&self, node: Node, state: &State) -> Result<Vec<Member>, String> {
        let nobody = |who: &str| format!("there is no {who} now");
        let standbys = || state.standbys.iter().map(|number| Member::Database(*number));
        Ok(match node {
            Node::Leader => vec![Member::Replica(state.leader.ok_or_else(|| nobody("leader"))?)],
            Node::Follower => {
                let replicas = 1..=u8::try_from(self.replica_addrs().len()).unwrap_or(u8::MAX);
                let follower = replicas.into_iter().find(|number| Some(*number) != state.leader);
                vec![Member::Replica(follower.ok_or_else(|| nobody("follower"))?)]
            }
            Node::Replica(number) => vec![Member::Replica(number)],
            Node::LoadBalancer => vec![Member::LoadBalancer],
            Node::Primary => vec![Member::Database(state.primary.ok_or_else(|| nobody("primary"))?)],
            Node::SyncStandby => {
                vec![Member::Database(*state.sync_standbys.first().ok_or_else(|| nobody("synchronous standby"))?)]
            }
            Node::Standbys => standbys().collect(),
            Node::Etcd(number) => vec![Member::Etcd(number)],
            Node::EtcdMajority => vec![Member::Etcd(1), Member::Etcd(2)],
        })
    }

    /// Does a fault to whoever has the role now. What comes back must be given to [`Self::undo`]; after an error
    /// nothing is left in force.
    pub async fn inject(&mut self, fault: &Fault, state: &State, clock: &Clock) -> Result<Injected, String> {
        let members = self.resolve(fault.node, state)?;
        let replicas = self.replicas_of(&members).await?;
        // The earliest moment at which it can be in force: just before it is done, if the deployment knows none.
        let mut began_us = clock.boottime().as_us();
        let mut counts = BTreeMap::new();
        match fault.kind {
            FaultKind::TerminateSyncWaits => {
                counts.insert("commits_cut".to_owned(), self.terminate(fault.kind, state).await?);
            }
            kind if is_by_sql(kind) => drop(self.terminate(kind, state).await?),
            kind => match self.do_to(kind, &members).await {
                Ok(in_force_us) => began_us = in_force_us.unwrap_or(began_us),
                Err(error) => {
                    // Some of it may have been done.
                    let undone = self.undo_to(kind, &members).await;
                    return Err(undone.err().map_or(error.clone(), |more| format!("{error}; and undoing it: {more}")));
                }
            },
        }
        let gone = matches!(fault.kind, FaultKind::Kill | FaultKind::Pause | FaultKind::FreezeHost);
        let paused = fault.kind != FaultKind::Kill;
        let away = replicas.iter().filter(|_| gone);
        let away = away.map(|replica| Away { replica: *replica, from_us: began_us, paused }).collect();
        Ok(Injected { fault: fault.clone(), members, began_us, replicas, away, counts })
    }

    /// Undoes it; the spans in which processes were away.
    pub async fn undo(&mut self, injected: &mut Injected, clock: &Clock) -> Result<Vec<Absence>, String> {
        let kind = injected.fault.kind;
        if !is_by_sql(kind) {
            injected.counts = self.undo_to(kind, &injected.members).await?;
        }
        let until_us = clock.boottime().as_us();
        Ok(injected.away.iter().map(|away| away.until(until_us)).collect())
    }

    async fn do_to(&mut self, kind: FaultKind, members: &[Member]) -> Result<Option<u64>, String> {
        match self {
            Self::Local(local) => local.inject(kind, members).await.map(|()| None),
            Self::Compose(compose) => compose.inject(kind, members).await,
        }
    }

    async fn undo_to(&mut self, kind: FaultKind, members: &[Member]) -> Result<BTreeMap<String, u64>, String> {
        match self {
            Self::Local(local) => local.undo(kind, members).await,
            Self::Compose(compose) => compose.undo(kind, members).await,
        }
    }

    /// Ends the lease session of the leader, everybody's listener, or those whose commits wait for a standby; how many
    /// there were.
    async fn terminate(&self, kind: FaultKind, state: &State) -> Result<u64, String> {
        let store = self.store();
        let index = usize::from(state.primary.ok_or("there is no primary now")?) - 1;
        let session = drill_nodes::open(&store, index).await.map_err(|error| error.detail)?;
        let until = tokio::time::Instant::now() + TERMINATE_WITHIN;
        loop {
            let ended = match kind {
                FaultKind::TerminateLeaseSession => {
                    drill_nodes::terminate_lease(&session, LEADER_ROLE, state::LOOK_LIMIT).await
                }
                FaultKind::TerminateSyncWaits => drill_nodes::terminate_sync_waits(&session, state::LOOK_LIMIT).await,
                _ => {
                    let application = crate::store::follow::APPLICATION;
                    drill_nodes::terminate_application(&session, application, state::LOOK_LIMIT).await
                }
            };
            match ended.map_err(|error| error.detail)? {
                0 if tokio::time::Instant::now() > until => return Err("there was no such session to end".to_owned()),
                0 => tokio::time::sleep(TERMINATE_AGAIN).await,
                ended => return Ok(u64::try_from(ended).unwrap_or(0)),
            }
        }
    }

    /// The ids of the processes that these replicas are now.
    async fn replicas_of(&self, members: &[Member]) -> Result<Vec<Uuid>, String> {
        let numbers = members.iter().filter_map(|member| match member {
            Member::Replica(number) => Some(usize::from(*number)),
            _ => None,
        });
        let numbers: Vec<usize> = numbers.collect();
        if numbers.is_empty() {
            return Ok(Vec::new());
        }
        let logs = self.logs().await?;
        let last = |number: usize| logs.get(number - 1).and_then(|log| beliefs::read(log).replicas.last().copied());
        Ok(numbers.into_iter().filter_map(last).collect())
    }

    /// The log of each replica, by number, all its starts.
    pub async fn logs(&self) -> Result<Vec<String>, String> {
        match self {
            Self::Local(local) => local.logs(),
            Self::Compose(compose) => compose.logs().await,
        }
    }

    /// Descriptors and memory of the replicas.
    pub async fn process_samples(&self) -> Result<Vec<Sample>, String> {
        match self {
            Self::Local(local) => Ok(local.process_samples()),
            Self::Compose(compose) => compose.process_samples().await,
        }
    }

    /// Ends what the drill started, and nothing else.
    pub async fn shutdown(self) {
        match self {
            Self::Local(local) => local.shutdown().await,
            Self::Compose(compose) => compose.shutdown().await,
        }
    }
}

/// One figure of a process or of the database, now.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub place: String,
    pub what: &'static str,
    pub value: f64,
}
