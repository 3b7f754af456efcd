//! The drill against docker/compose.yml: faults are done to containers through the engine.
//!
//! Every fault here can be undone without knowing what was done before: a run begins by undoing all that a drill could
//! have left behind when it died ([`Compose::attach`]). The members' clocks, disks and ops listeners are as
//! docker/compose.drill.yml sets them up.

mod archive;
pub mod cut;
pub mod engine;
mod node_faults;
pub mod processes;
mod project;
mod proxy_line;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::future::join_all;
use futures_util::{StreamExt, stream};

use self::cut::{Cutter, Peers};
use self::engine::Engine;
use self::project::Project;
use crate::store::StoreSettings;
use crate::tools::drill::deployment::{Member, Sample};
use crate::tools::drill::scenario::{Fault, FaultKind, Node};
use crate::tools::drill::target::Target;

const FAULTS_IMAGE: &str = "everbeat/faults:trixie";
/// PostgreSQL on the nodes, and the proxy before the third replica's.
const DATABASE_PORTS: [u16; 4] = [5432, 15431, 15432, 15433];
/// Who reaches the database through the proxy.
const PROXIED: Member = Member::Replica(3);
/// Connections of the third replica that one scenario cuts.
const COMMITS_CUT: u32 = 4;
/// Containers that are tidied at the same time.
const TIDY_AT_ONCE: usize = 4;

/// A running compose project.
pub struct Compose {
    engine: Engine,
    project: Project,
    cutter: Cutter,
    addrs: Vec<String>,
    ops_urls: Vec<String>,
    balancer_urls: Vec<String>,
    proxy: Option<u16>,
    target: Target,
    ca_file: PathBuf,
    /// When the processes that were last told to end had been started, seconds since 1970.
    told_to_end: HashMap<Member, i32>,
}

impl Compose {
    /// Finds the project's containers, and undoes what a drill that died may have left on them.
    ///
    /// # Errors
    /// A sentence that says what is missing.
    pub async fn attach(project: &str) -> Result<Self, String> {
        let engine = Engine::connect().await?;
        let found = Project::find(&engine, project).await?;
        let cutter = Cutter { engine: engine.clone(), project: project.to_owned(), image: FAULTS_IMAGE.to_owned() };
        tidy(&engine, &found, &cutter).await?;
        // Again: what was started only now has a new beginning.
        let found = Project::find(&engine, project).await?;
        let ca_file = found.write_ca(project).await?;
        Ok(Self {
            addrs: found.replica_addrs(),
            ops_urls: found.ops_urls()?,
            balancer_urls: found.balancer_urls()?,
            proxy: found.proxy(),
            target: found.target(ca_file.clone()).await?,
            engine,
            project: found,
            cutter,
            ca_file,
            told_to_end: HashMap::new(),
        })
    }

    pub fn store(&self) -> Arc<StoreSettings> {
        self.target.store.clone()
    }

    /// `replica.addr` as leases show it, by number.
    pub fn replica_addrs(&self) -> &[String] {
        &self.addrs
    }

    /// Base of `/readyz`, by number.
    pub fn ops_urls(&self) -> Vec<String> {
        self.ops_urls.clone()
    }

    /// Base of the load balancers' `/metrics`, by number.
    pub fn balancer_urls(&self) -> Vec<String> {
        self.balancer_urls.clone()
    }

    pub fn target(&self) -> Target {
        self.target.clone()
    }

    /// Only the third replica has the proxy between itself and the database, and does without TLS for it: of the
    /// others nothing in between sees a COMMIT. Nobody can say who campaigns next. Clocks and disks are the database
    /// nodes'.
    pub fn can(&self, fault: &Fault) -> bool {
        let database = matches!(fault.node, Node::Primary | Node::SyncStandby | Node::Standbys);
        match fault.kind {
            // Keys are made where pki.dir is writable: in no replica's container.
            FaultKind::DropCampaignAnswer | FaultKind::ReplaceTokenKey | FaultKind::ReplaceCa => false,
            FaultKind::Delay(_) | FaultKind::CutAfterCommit => fault.node == Node::Replica(3) && self.proxy.is_some(),
            FaultKind::PostmasterKill
            | FaultKind::Switchover
            | FaultKind::FreezePatroni
            | FaultKind::FillDisk
            | FaultKind::TakeConnections
            | FaultKind::ClockStep(_) => database,
            _ => true,
        }
    }

    /// Does a fault to its members, to all at once. Where it takes a while to prepare: the earliest moment at which it
    /// was in force, microseconds of CLOCK_BOOTTIME.
    pub async fn inject(&mut self, kind: FaultKind, members: &[Member]) -> Result<Option<u64>, String> {
        if matches!(kind, FaultKind::Kill | FaultKind::Terminate | FaultKind::Stop) {
            for member in members {
                let state = self.engine.state(self.project.member(*member)?).await?;
                self.told_to_end.insert(*member, state.started_unix_s);
            }
        }
        let ports = Peers::Ports(DATABASE_PORTS.to_vec());
        let (cut, peers) = match kind {
            FaultKind::CutOff(cut) => (cut, Peers::Everybody),
            FaultKind::CutFromDatabase(cut) => (cut, ports),
            _ => return all(join_all(members.iter().map(|one| self.inject_one(kind, *one))).await).map(|()| None),
        };
        let work = members.iter().map(async |member| self.cutter.cut(self.project.member(*member)?, cut, &peers).await);
        let (moments, failed): (Vec<_>, Vec<_>) = join_all(work).await.into_iter().partition(Result::is_ok);
        all(failed.into_iter().map(|one| one.map(drop)).collect())?;
        Ok(moments.into_iter().flatten().min())
    }

    async fn inject_one(&self, kind: FaultKind, member: Member) -> Result<(), String> {
        let (engine, id) = (&self.engine, self.project.member(member)?);
        match kind {
            FaultKind::Kill => engine.signal(id, "SIGKILL").await,
            FaultKind::Terminate => engine.signal(id, "SIGTERM").await,
            FaultKind::Stop => engine.stop(id).await,
            FaultKind::Pause if is_database(member) => processes::pause_node(engine, id).await,
            FaultKind::Pause => processes::pause(engine, id).await,
            FaultKind::FreezeHost => engine.freeze(id).await,
            FaultKind::PostmasterKill => processes::kill_postmaster(engine, id).await,
            FaultKind::FreezePatroni => processes::freeze_patroni(engine, id).await,
            FaultKind::Switchover => node_faults::switch_over(engine, id).await,
            FaultKind::FillDisk => node_faults::fill_disk(engine, id).await,
            FaultKind::TakeConnections => node_faults::take_connections(engine, id).await,
            FaultKind::ClockStep(seconds) => node_faults::step_clock(engine, id, seconds).await,
            FaultKind::Delay(millis) => self.tell_proxy(member, &format!("delay {millis}")).await.map(drop),
            FaultKind::CutAfterCommit => {
                self.tell_proxy(member, &format!("cut-after-commit {COMMITS_CUT}")).await.map(drop)
            }
            FaultKind::CutOff(_)
            | FaultKind::CutFromDatabase(_)
            | FaultKind::TerminateLeaseSession
            | FaultKind::TerminateListener
            | FaultKind::TerminateSyncWaits
            | FaultKind::DropCampaignAnswer
            | FaultKind::ReplaceTokenKey
            | FaultKind::ReplaceCa => Err(format!("{kind:?} is not done to containers")),
        }
    }

    /// Undoes it. Goes on with the others where one member fails, and bears what is not there.
    pub async fn undo(&mut self, kind: FaultKind, members: &[Member]) -> Result<BTreeMap<String, u64>, String> {
        all(join_all(members.iter().map(|member| self.undo_one(kind, *member))).await)?;
        if kind == FaultKind::TakeConnections {
            self.forget_stranger().await?;
        }
        match (kind, self.proxy) {
            (FaultKind::Delay(_) | FaultKind::CutAfterCommit, Some(port)) => proxy_line::command(port, "pass").await,
            _ => Ok(BTreeMap::new()),
        }
    }

    async fn undo_one(&self, kind: FaultKind, member: Member) -> Result<(), String> {
        let (engine, id) = (&self.engine, self.project.member(member)?);
        match kind {
            FaultKind::Kill | FaultKind::Terminate | FaultKind::Stop => {
                engine.start_again(id, self.told_to_end.get(&member).copied()).await
            }
            FaultKind::FreezeHost => engine.thaw(id).await,
            // Whatever else was done, nothing can be undone inside a container that does not run.
            _ if !engine.state(id).await?.running => engine.start(id).await,
            FaultKind::Pause if is_database(member) => processes::resume_node(engine, id).await,
            FaultKind::Pause => processes::resume(engine, id).await,
            FaultKind::FreezePatroni => processes::resume_node(engine, id).await,
            FaultKind::CutOff(_) | FaultKind::CutFromDatabase(_) => self.cutter.mend(id).await,
            FaultKind::FillDisk => node_faults::empty_disk(engine, id).await,
            FaultKind::TakeConnections => node_faults::dismiss_stranger(engine, id).await,
            FaultKind::ClockStep(_) => node_faults::restore_clock(engine, id).await,
            _ => Ok(()),
        }
    }

    /// The role goes on the node that is primary now, which need not be the one that it was made on.
    async fn forget_stranger(&self) -> Result<(), String> {
        let nodes = self.project.members(Member::Database);
        let ids = nodes.into_iter().filter_map(|node| self.project.member(node).ok());
        all(join_all(ids.map(|id| node_faults::forget_stranger(&self.engine, id))).await)
    }

    async fn tell_proxy(&self, member: Member, line: &str) -> Result<BTreeMap<String, u64>, String> {
        match self.proxy {
            Some(port) if member == PROXIED => proxy_line::command(port, line).await,
            _ => Err(format!("{member} does not reach the database through a proxy")),
        }
    }

    /// The log of each replica, by number: of the process that ran when the drill began, and of all later ones. What
    /// earlier ones believed when they were killed nobody could say here.
    pub async fn logs(&self) -> Result<Vec<String>, String> {
        let mut logs = Vec::new();
        for member in self.project.members(Member::Replica) {
            let since = self.project.started_unix_s(member);
            let log = self.engine.log(self.project.member(member)?, since).await;
            let (stdout, stderr) = log.map_err(|e| format!("cannot read the log of {member}: {e}"))?;
            logs.push(stdout + &stderr);
        }
        Ok(logs)
    }

    /// Open descriptors and resident memory of the replicas.
    pub async fn process_samples(&self) -> Result<Vec<Sample>, String> {
        let mut samples = Vec::new();
        for member in self.project.members(Member::Replica) {
            let (fds, resident_bytes) = processes::sample(&self.engine, self.project.member(member)?).await?;
            let place = member.to_string();
            samples.push(Sample { place: place.clone(), what: "process.fds", value: fds });
            samples.push(Sample { place, what: "process.resident_bytes", value: resident_bytes });
        }
        Ok(samples)
    }

    /// Leaves the project running as it was found.
    pub async fn shutdown(self) {
        if let Err(error) = tidy(&self.engine, &self.project, &self.cutter).await {
            tracing::warn!(%error, "not everything could be tidied up");
        }
        let _ = std::fs::remove_file(&self.ca_file);
    }
}

fn is_database(member: Member) -> bool {
    matches!(member, Member::Database(_))
}

/// Undoes everything that can be done to a member, on all of them.
async fn tidy(engine: &Engine, project: &Project, cutter: &Cutter) -> Result<(), String> {
    engine.remove_besides(&cutter.project).await?;
    let work = project.running().map(|(service, id)| tidy_one(engine, service, id, cutter));
    let mut tidied: Vec<_> = stream::iter(work).buffer_unordered(TIDY_AT_ONCE).collect().await;
    if let Some(port) = project.proxy() {
        tidied.push(proxy_line::command(port, "pass").await.map(drop));
    }
    all(tidied)
}

async fn tidy_one(engine: &Engine, service: &str, id: &str, cutter: &Cutter) -> Result<(), String> {
    let say = |error| format!("{service}: {error}");
    engine.thaw(id).await.map_err(say)?;
    engine.start(id).await.map_err(say)?;
    if project::is_database(service) {
        processes::resume_node(engine, id).await.map_err(say)?;
        node_faults::empty_disk(engine, id).await.map_err(say)?;
        node_faults::forget_clock(engine, id).await.map_err(say)?;
        node_faults::dismiss_stranger(engine, id).await.map_err(say)?;
    } else {
        processes::resume(engine, id).await.map_err(say)?;
    }
    cutter.mend(id).await.map_err(say)
}

/// All errors, one sentence.
fn all(done: Vec<Result<(), String>>) -> Result<(), String> {
    let errors: Vec<String> = done.into_iter().filter_map(Result::err).collect();
    if errors.is_empty() { Ok(()) } else { Err(errors.join("; ")) }
}
