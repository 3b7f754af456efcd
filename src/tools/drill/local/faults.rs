//! What can be done to processes, and how it is undone.

use std::collections::BTreeMap;
use std::time::Duration;

use rustix::process::Signal;

use super::{Local, STOP_LIMIT, keys};
use crate::lifecycle::tasks;
use crate::tools::dev::replicas::Replica;
use crate::tools::drill::deployment::Member;
use crate::tools::drill::scenario::{Cut, Fault, FaultKind, Node};

/// Until whoever plays Patroni believes that a node is dead: its process has ended, or it only says nothing.
const DEATH_SEEN_AFTER: Duration = Duration::from_secs(1);
const SILENCE_SEEN_AFTER: Duration = Duration::from_secs(5);
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// Connections of each replica's pool that one scenario cuts.
const COMMITS_CUT: u32 = 4;

/// Is there what the fault needs? There are neither load balancers nor etcd, and a host of ours is only processes.
pub(super) fn can(fault: &Fault) -> bool {
    use FaultKind as Kind;
    let on_replica = matches!(fault.node, Node::Leader | Node::Follower | Node::Replica(1..=3));
    let on_database = matches!(fault.node, Node::Primary | Node::SyncStandby | Node::Standbys);
    match fault.kind {
        Kind::Kill | Kind::Pause => on_replica || on_database,
        Kind::Terminate
        | Kind::CutFromDatabase(_)
        | Kind::CutAfterCommit
        | Kind::DropCampaignAnswer
        | Kind::Delay(_)
        // All replicas share one directory of keys.
        | Kind::ReplaceTokenKey
        | Kind::ReplaceCa => on_replica,
        Kind::FreezeHost | Kind::PostmasterKill | Kind::Stop => on_database,
        Kind::CutOff(Cut::Both) | Kind::Switchover => fault.node == Node::Primary,
        // A stranger's connections would need a stranger.
        Kind::TakeConnections | Kind::CutOff(_) | Kind::FreezePatroni | Kind::FillDisk | Kind::ClockStep(_) => false,
        // Done through the database, to any deployment.
        Kind::TerminateLeaseSession | Kind::TerminateListener | Kind::TerminateSyncWaits => true,
    }
}

pub(super) async fn inject(local: &mut Local, kind: FaultKind, member: Member) -> Result<(), String> {
    if matches!(kind, FaultKind::ReplaceTokenKey | FaultKind::ReplaceCa) {
        return keys::replace(local.place.path("drill.toml"), kind).await;
    }
    match member {
        Member::Replica(number) => on_replica(local, kind, usize::from(number) - 1),
        Member::Database(number) => on_database(local, kind, usize::from(number) - 1).await,
        Member::Etcd(_) | Member::LoadBalancer => Err(unknown(kind, member)),
    }
}

fn unknown(kind: FaultKind, member: Member) -> String {
    format!("{kind:?} of {member} is nothing that a local deployment can do")
}

fn on_replica(local: &mut Local, kind: FaultKind, index: usize) -> Result<(), String> {
    use FaultKind as Kind;
    let signal = |signal| local.replicas[index].iter().for_each(|replica| replica.signal(signal));
    match kind {
        Kind::Kill => signal(Signal::KILL),
        Kind::Terminate => signal(Signal::TERM),
        Kind::Pause => signal(Signal::STOP),
        Kind::CutFromDatabase(way) => local.controls[index].iter().for_each(|controls| controls.silence(way)),
        Kind::CutAfterCommit => {
            local.controls[index].iter().for_each(|controls| controls.cut_after_commit(COMMITS_CUT));
        }
        Kind::DropCampaignAnswer => local.controls[index].iter().for_each(|controls| controls.drop_campaign_answer()),
        Kind::Delay(millis) => {
            let late = Duration::from_millis(millis.into());
            local.controls[index].iter().for_each(|controls| controls.delay(late));
        }
        _ => return Err(unknown(kind, Member::Replica(u8::try_from(index + 1).unwrap_or(u8::MAX)))),
    }
    Ok(())
}

async fn on_database(local: &mut Local, kind: FaultKind, index: usize) -> Result<(), String> {
    use FaultKind as Kind;
    let databases = local.databases.clone();
    let mut pair = databases.lock().await;
    let is_primary = pair.primary() == index;
    let seen_after = match kind {
        Kind::Kill | Kind::PostmasterKill => {
            pair.kill(index, kind == Kind::Kill).await?;
            DEATH_SEEN_AFTER
        }
        Kind::Stop => {
            pair.stop(index).await?;
            DEATH_SEEN_AFTER
        }
        Kind::Pause | Kind::FreezeHost => {
            pair.freeze(index)?;
            SILENCE_SEEN_AFTER
        }
        Kind::CutOff(way) => {
            local.controls.iter().for_each(|of_replica| of_replica[index].silence(way));
            SILENCE_SEEN_AFTER
        }
        Kind::Switchover => return pair.switch_over(&local.store).await,
        _ => return Err(unknown(kind, Member::Database(u8::try_from(index + 1).unwrap_or(u8::MAX)))),
    };
    drop(pair);
    if is_primary {
        let store = local.store.clone();
        local.failing_over = Some(tasks::spawn(async move {
            tokio::time::sleep(seen_after).await;
            loop {
                let mut pair = databases.lock().await;
                if !pair.is_frozen(pair.other()) {
                    return pair.fail_over(&store).await;
                }
                drop(pair);
                tokio::time::sleep(ASK_AGAIN).await;
            }
        }));
    }
    Ok(())
}

pub(super) async fn undo(local: &mut Local, kind: FaultKind, member: Member) -> Result<(), String> {
    match member {
        Member::Replica(number) => undo_on_replica(local, kind, usize::from(number) - 1).await,
        Member::Database(number) => undo_on_database(local, usize::from(number) - 1).await,
        Member::Etcd(_) | Member::LoadBalancer => Ok(()),
    }
}

async fn undo_on_replica(local: &mut Local, kind: FaultKind, index: usize) -> Result<(), String> {
    local.controls[index].iter().for_each(|controls| controls.pass());
    let Some(replica) = &mut local.replicas[index] else { return Ok(()) };
    replica.signal(Signal::CONT);
    if matches!(kind, FaultKind::Kill | FaultKind::Terminate) || replica.has_ended() {
        replica.ended(STOP_LIMIT).await;
        let number = u16::try_from(index + 1).unwrap_or(u16::MAX);
        local.replicas[index] = Some(Replica::start(&local.place, number)?);
    }
    Ok(())
}

/// Afterwards both nodes run, the other as a synchronous standby of whoever is primary now.
async fn undo_on_database(local: &mut Local, index: usize) -> Result<(), String> {
    // Whoever is to be promoted is waited for until it is thawed.
    let mut pair = local.databases.lock().await;
    if pair.primary() != index && pair.is_frozen(index) {
        pair.thaw(index)?;
    }
    drop(pair);
    if let Some(task) = local.failing_over.take() {
        task.await.map_err(|error| error.to_string())??;
    }
    local.controls.iter().for_each(|of_replica| of_replica[index].pass());
    let mut pair = local.databases.lock().await;
    if pair.is_running(index) {
        // Nobody was promoted over it, or it is a standby.
        let _ = pair.thaw(index);
        return Ok(());
    }
    if pair.primary() == index {
        return pair.run(index, false).await;
    }
    if pair.is_in_sync() { pair.run(index, false).await } else { pair.begin_standby(&local.store).await }
}

impl Local {
    /// What the proxies have counted since this was asked last, for a fault of this kind.
    pub(super) fn counts(&self, kind: FaultKind) -> BTreeMap<String, u64> {
        let counted = self.controls.iter().flatten().map(|controls| controls.take_counts());
        let (commits, campaigns) = counted.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        match kind {
            FaultKind::CutAfterCommit => BTreeMap::from([("commits_cut".to_owned(), commits)]),
            FaultKind::DropCampaignAnswer => BTreeMap::from([("campaigns_dropped".to_owned(), campaigns)]),
            _ => BTreeMap::new(),
        }
    }
}
