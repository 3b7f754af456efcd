//! Replicas and load balancers, as devices see them.

use std::time::Duration;

use super::{ERRORS_REPLICA_KILLED, HOLD, at_once, held, scenario, with_silence};
use crate::tools::drill::scenario::{Cut, Fault, FaultKind as Kind, Node, Scenario};

/// Between two steps of a rolling restart, at least; the next waits until all is well again.
const ROLL_STEP: Duration = Duration::from_secs(10);
/// From the signal until the replica is started again, if its drain is over by then.
const ROLL_HOLD: Duration = Duration::from_secs(3);
/// A device that falls silent is offline well within this.
const SILENCE_SEEN: Duration = Duration::from_secs(20);
/// Longer than heartbeats are acknowledged without a flush, and longer than a minute.
const AWAY_LONG: Duration = Duration::from_secs(75);

pub(super) fn all() -> Vec<Scenario> {
    let mut rolling = scenario(
        "rolling-restart",
        "One replica after the other is terminated and started: no client that retries once sees a failure.",
        (1..=3).map(|number| roll(number, ROLL_STEP * u32::from(number - 1))).collect(),
    );
    rolling.bounds.failed_after_one_retry = Some(0);
    let mut killed = scenario(
        "replica-kill",
        "SIGKILL of a replica with heartbeats and promises that are not flushed: devices go on elsewhere, none turns \
         offline, and one that falls silent does.",
        held(Kind::Kill, Node::Follower),
    );
    killed.bounds.error_window = Some(ERRORS_REPLICA_KILLED);
    killed.minimums.silenced = 1;
    killed.cool_down = SILENCE_SEEN;
    let balancer = scenario(
        "load-balancer-restart",
        "A load balancer restarts: devices go on through the other.",
        held(Kind::Stop, Node::LoadBalancer),
    );
    let blind = scenario(
        "replica-blind",
        "A replica is cut off from the database for over a minute while its devices stay: it refuses rather than \
         promise, and nobody turns offline for it.",
        vec![Fault::new(Kind::CutFromDatabase(Cut::Both), Node::Follower, AWAY_LONG)],
    );
    let mut listener = scenario(
        "listener-cut",
        "Every replica's listener of the change log is terminated while rights are taken: no revoked device gets in.",
        at_once(Kind::TerminateListener, Node::Primary),
    );
    listener.minimums.revocations = 1;
    let commit = |name, about, nodes: &[Node]| {
        let faults = nodes.iter().map(|node| Fault::new(Kind::CutAfterCommit, *node, HOLD)).collect();
        let mut commit = scenario(name, about, faults);
        commit.minimums.commits_cut = 1;
        commit.minimums.duplicates_retried = 1;
        commit
    };
    let every_commit = commit(
        "commit-cut",
        "Connections are cut after COMMIT was sent: the outcome is unknown, and the retry is a duplicate.",
        &[Node::Leader, Node::Follower],
    );
    let one_commit = commit(
        "commit-cut-one-replica",
        "The same on the third replica alone, which is all that a deployment of containers can do.",
        &[Node::Replica(3)],
    );
    let late = scenario(
        "answers-late",
        "Every answer of the database to one replica is half a second late.",
        vec![Fault::new(Kind::Delay(500), Node::Replica(3), HOLD)],
    );
    let seen = [balancer, every_commit, one_commit].map(with_silence);
    keys_replaced().into_iter().chain([rolling, killed, listener, late, blind]).chain(seen).collect()
}

fn roll(number: u8, after: Duration) -> Fault {
    Fault::new(Kind::Terminate, Node::Replica(number), ROLL_HOLD).after(after)
}

/// Everybody restarts afterwards: what was replaced must be found again.
fn keys_replaced() -> Vec<Scenario> {
    let replaced = |name, about, kind| {
        let rolling = (1..=3).map(|number| roll(number, ROLL_STEP * u32::from(number)));
        let mut replaced = scenario(name, about, at_once(kind, Node::Replica(1)).into_iter().chain(rolling).collect());
        replaced.bounds.failed_after_one_retry = Some(0);
        replaced
    };
    let token_key = replaced(
        "token-key-replaced",
        "The key that signs devices' tokens is replaced and the former one retired at once, then each replica restarts: \
         no client that retries once sees a failure.",
        Kind::ReplaceTokenKey,
    );
    let ca = replaced(
        "ca-replaced",
        "The issuing CA and the server's certificate are replaced, and the old CA is kept from being retired while its \
         certificates live, then each replica restarts: no client that retries once sees a failure.",
        Kind::ReplaceCa,
    );
    vec![token_key, ca]
}
