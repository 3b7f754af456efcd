//! Who is who in a deployment, and is all of it well?

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use uuid::Uuid;

use super::deployment::Deployment;
use crate::client::plain_get;
use crate::domain::lease::Duty;
use crate::store::drill_nodes::{self, HeldLease, NodeView};
use crate::store::{Session, StoreSettings};

/// The duty whose holder the drill calls the leader.
pub const LEADER_ROLE: &str = "sweeper";
/// One question to a node, the connection included. A frozen host never answers.
pub const LOOK_LIMIT: Duration = Duration::from_secs(2);
const READY_LIMIT: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(200);

/// What was seen at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Number of the database node that is writable; of several, the one with the highest timeline.
    pub primary: Option<u8>,
    pub timeline: i32,
    pub demands_sync: bool,
    /// Of so many at once commits waited, or for any one of them, at some time since the drill began.
    pub sync_most: usize,
    /// Numbers of those that stream from it, and of those that commits wait for.
    pub standbys: Vec<u8>,
    pub sync_standbys: Vec<u8>,
    /// Number of the replica that leads.
    pub leader: Option<u8>,
    pub leader_id: Option<Uuid>,
    /// Duties that somebody holds.
    pub held: Vec<String>,
    /// Numbers of the replicas that are not ready.
    pub unready: Vec<u8>,
    /// Numbers of a load balancer and of a replica that it sends nobody to.
    pub unrouted: Vec<(u8, u8)>,
}

impl State {
    /// What is not well, in words; `standbys`: so many belong to the deployment.
    pub fn complaint(&self, standbys: usize) -> Option<String> {
        if self.primary.is_none() {
            return Some("no database node is writable".to_owned());
        }
        if self.standbys.len() < standbys {
            return Some(format!("{} of {standbys} standbys stream", self.standbys.len()));
        }
        if self.sync_standbys.is_empty() || !self.demands_sync {
            return Some("commits wait for no standby".to_owned());
        }
        // Patroni names a standby that is back some seconds after it streams.
        if self.sync_standbys.len() < self.sync_most {
            return Some(format!("{} of {} standbys are synchronous", self.sync_standbys.len(), self.sync_most));
        }
        let lacking = Duty::ALL.iter().find(|duty| !self.held.iter().any(|role| role == duty.as_str()));
        if let Some(duty) = lacking {
            return Some(format!("nobody holds the duty {}", duty.as_str()));
        }
        if self.leader.is_none() {
            return Some("the leader is none of the replicas".to_owned());
        }
        if let Some(number) = self.unready.first() {
            return Some(format!("replica {number} is not ready"));
        }
        self.unrouted.first().map(|(lb, replica)| format!("load balancer {lb} sends nobody to replica {replica}"))
    }
}

/// Sessions with the nodes, kept between two looks.
pub struct Watcher {
    store: Arc<StoreSettings>,
    sessions: Vec<Option<Session>>,
    sync_most: usize,
}

impl Watcher {
    pub fn new(store: Arc<StoreSettings>) -> Self {
        let sessions = store.hosts.iter().map(|_| None).collect();
        Self { store, sessions, sync_most: 0 }
    }

    /// The next look opens new sessions.
    pub fn forget_sessions(&mut self) {
        self.sessions.fill_with(|| None);
    }

    /// Looks at all of it once; whoever does not answer in time is away.
    pub async fn look(&mut self, deployment: &Deployment) -> State {
        let urls = deployment.ops_urls();
        let ready =
            join_all(urls.iter().map(|url| async move {
                matches!(plain_get(&format!("{url}/readyz"), READY_LIMIT).await, Ok((200, _)))
            }));
        let (nodes, ready, unrouted) = tokio::join!(self.nodes(), ready, unrouted(deployment));
        let unready = numbered(ready.into_iter().map(|ready| !ready)).collect();
        let mut state = State { unready, unrouted, ..State::default() };
        let writable = |node: &&(usize, NodeView)| node.1.is_writable();
        let Some((index, node)) = nodes.iter().filter(writable).max_by_key(|(_, node)| node.timeline) else {
            return state;
        };
        state.primary = u8::try_from(index + 1).ok();
        state.timeline = node.timeline.unwrap_or(0);
        state.demands_sync = node.demands_sync;
        state.standbys = node.standbys.iter().filter_map(|name| number_of(name)).collect();
        state.sync_standbys = node.sync_standbys.iter().filter_map(|name| number_of(name)).collect();
        self.sync_most = self.sync_most.max(state.sync_standbys.len());
        state.sync_most = self.sync_most;
        self.add_leases(*index, deployment.replica_addrs(), &mut state).await;
        state
    }

    async fn nodes(&mut self) -> Vec<(usize, NodeView)> {
        let store = &self.store;
        let asked = self.sessions.iter_mut().enumerate().map(async |(index, slot)| {
            let ask = async {
                let session = match slot.take().filter(|session| !session.is_closed()) {
                    Some(session) => session,
                    None => drill_nodes::open(store, index).await.ok()?,
                };
                let view = drill_nodes::look(&session, LOOK_LIMIT).await.ok()?;
                *slot = Some(session);
                Some((index, view))
            };
            tokio::time::timeout(LOOK_LIMIT, ask).await.ok().flatten()
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    async fn add_leases(&mut self, index: usize, addrs: &[String], state: &mut State) {
        let Some(Some(session)) = self.sessions.get(index) else { return };
        let leases = drill_nodes::leases(session, LOOK_LIMIT).await.unwrap_or_default();
        if let Some(HeldLease { holder, addr, .. }) = leases.iter().find(|lease| lease.role == LEADER_ROLE) {
            state.leader = addrs.iter().position(|known| known == addr).and_then(|at| u8::try_from(at + 1).ok());
            state.leader_id = Some(*holder);
        }
        state.held = leases.into_iter().map(|lease| lease.role).collect();
    }

    /// Waits until nothing is wrong.
    ///
    /// # Errors
    /// What still is, after `limit`.
    pub async fn healthy(&mut self, deployment: &Deployment, limit: Duration) -> Result<State, String> {
        let standbys = self.store.hosts.len() - 1;
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            let state = self.look(deployment).await;
            match state.complaint(standbys) {
                None => return Ok(state),
                Some(complaint) if tokio::time::Instant::now() > deadline => {
                    return Err(format!("after {} s still: {complaint}", limit.as_secs()));
                }
                Some(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }
}

/// A replica that nobody is sent to proves nothing, and leaves the others alone with its part of the load.
async fn unrouted(deployment: &Deployment) -> Vec<(u8, u8)> {
    let urls = deployment.balancer_urls();
    let asked = join_all(urls.iter().map(|url| async move {
        match plain_get(&format!("{url}/metrics?scope=server"), READY_LIMIT).await {
            Ok((200, metrics)) => routed(&metrics),
            _ => Vec::new(),
        }
    }));
    let replicas = 1..=u8::try_from(deployment.ops_urls().len()).unwrap_or(u8::MAX);
    let of = |(lb, routed): (u8, Vec<u8>)| {
        replicas.clone().filter(move |replica| !routed.contains(replica)).map(move |replica| (lb, replica))
    };
    (1_u8..).zip(asked.await).flat_map(of).collect()
}

/// Numbers of the replicas that a load balancer sends devices and operators to, as its metrics say.
fn routed(metrics: &str) -> Vec<u8> {
    let up = |proxy: &str| -> Vec<u8> {
        let of_proxy = format!("proxy=\"{proxy}\"");
        let is_up = |line: &&str| {
            line.starts_with("haproxy_server_status{")
                && line.contains(&of_proxy)
                && line.contains("state=\"UP\"")
                && line.ends_with(" 1")
        };
        let number = |line: &str| line.split_once("server=\"everbeat")?.1.split('"').next()?.parse().ok();
        metrics.lines().filter(is_up).filter_map(number).collect()
    };
    let operators = up("operators_ready");
    up("devices_ready").into_iter().filter(|replica| operators.contains(replica)).collect()
}

fn numbered(flags: impl Iterator<Item = bool>) -> impl Iterator<Item = u8> {
    (1_u8..).zip(flags).filter_map(|(number, flag)| flag.then_some(number))
}

/// `pg2` is 2: nodes call themselves so in both kinds of deployment.
fn number_of(name: &str) -> Option<u8> {
    name.strip_prefix("pg")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_missing_part_is_a_complaint() {
        let well = State {
            primary: Some(1),
            timeline: 1,
            demands_sync: true,
            sync_most: 2,
            standbys: vec![2, 3],
            sync_standbys: vec![2, 3],
            leader: Some(3),
            leader_id: None,
            held: Duty::ALL.iter().map(|duty| duty.as_str().to_owned()).collect(),
            unready: Vec::new(),
            unrouted: Vec::new(),
        };
        assert_eq!(well.complaint(2), None);
        let one_of_both = State { sync_most: 1, sync_standbys: vec![3], ..well.clone() };
        assert_eq!(one_of_both.complaint(2), None);
        let broken: [fn(&mut State); 9] = [
            |state| state.sync_standbys.truncate(1),
            |state| state.primary = None,
            |state| state.standbys.clear(),
            |state| state.sync_standbys.clear(),
            |state| state.demands_sync = false,
            |state| state.leader = None,
            |state| state.held.truncate(1),
            |state| state.unready.push(2),
            |state| state.unrouted.push((1, 2)),
        ];
        for damage in broken {
            let mut state = well.clone();
            damage(&mut state);
            assert!(state.complaint(2).is_some(), "{state:?}");
        }
        assert!(well.complaint(3).is_some());
        assert_eq!((number_of("pg2"), number_of("walreceiver")), (Some(2), None));
    }

    #[test]
    fn a_replica_is_routed_when_both_proxies_have_it_up() {
        let status = |proxy: &str, server: &str, state: &str, value: u8| {
            format!("haproxy_server_status{{proxy=\"{proxy}\",server=\"{server}\",state=\"{state}\"}} {value}\n")
        };
        let mut metrics = "# TYPE haproxy_server_status gauge\n".to_owned();
        for (server, devices, operators) in [("everbeat1", 1, 1), ("everbeat2", 1, 0), ("everbeat3", 0, 1)] {
            metrics += &status("devices_ready", server, "UP", devices);
            metrics += &status("devices_ready", server, "DOWN", 1 - devices);
            metrics += &status("operators_ready", server, "UP", operators);
            metrics += &status("devices_alive", server, "UP", 1);
        }
        assert_eq!(routed(&metrics), [1]);
        assert_eq!(routed(""), [0_u8; 0]);
    }
}
