//! The database's nodes.

use std::time::Duration;

use super::{
    HOLD, LEADER_AFTER_WRITES, WRITES_CRASH, WRITES_NODE_LOST, WRITES_SWITCHOVER, at_once, held, scenario,
    with_failover, without_failover,
};
use crate::tools::drill::scenario::{Cut, Fault, FaultKind as Kind, Node, Scenario};

/// Long enough for a lost node's time to live to run out, and for the successor to work a while.
const NODE_LOST: Duration = Duration::from_secs(40);
const TWO_MINUTES: Duration = Duration::from_mins(2);
/// Between the loss of a standby and that of the primary: longer than Patroni takes to name those that are left.
const THEN: Duration = Duration::from_secs(10);
/// Until a successor has been alone for many seconds, also on a slow day: it takes 24 to 33 s to come.
const ALONE: Duration = Duration::from_mins(1);
/// Changes that were tried meanwhile. All clients together try some dozens each second.
const TRIED_ALONE: u64 = 100;

pub(super) fn all() -> Vec<Scenario> {
    let lost = |kind, name: &str, about: &str| {
        with_failover(scenario(name, about, vec![Fault::new(kind, Node::Primary, NODE_LOST)]), WRITES_NODE_LOST)
    };
    let mut chapters = vec![
        lost(Kind::Kill, "primary-kill", "SIGKILL of the primary's node: the standby takes over, nothing is lost."),
        postmaster_crash(),
        lost(Kind::FreezeHost, "primary-pause", "The primary's host is frozen while statements are in flight."),
        lost(Kind::CutOff(Cut::Both), "primary-cut-off", "The primary's host is cut off from everybody."),
        with_failover(
            scenario("switchover", "A planned change of the primary.", at_once(Kind::Switchover, Node::Primary)),
            WRITES_SWITCHOVER,
        ),
        there_and_back(),
        lost(
            Kind::FreezePatroni,
            "patroni-frozen",
            "Patroni is frozen on the primary while writers still reach it: no write that only it has is acknowledged.",
        ),
    ];
    chapters.extend(standbys());
    chapters.extend(trouble());
    chapters
}

/// The server restarts in place or its standby takes over, whichever Patroni prefers.
fn postmaster_crash() -> Scenario {
    let about = "SIGKILL of the postmaster inside its node.";
    let mut chapter = scenario("postmaster-crash", about, held(Kind::PostmasterKill, Node::Primary));
    super::with_gap(&mut chapter, WRITES_CRASH);
    chapter
}

fn there_and_back() -> Scenario {
    let switch = |after| Fault::new(Kind::Switchover, Node::Primary, Duration::ZERO).after(after);
    let about = "The primary changes, changes again, and once more, so that a former one is primary again: no old \
                 connection or cache survives.";
    // Nobody can say which of two standbys is chosen; the third time it is one that was primary before.
    let faults = [0, 30, 60].map(|seconds| switch(Duration::from_secs(seconds))).to_vec();
    let mut chapter = with_failover(scenario("switchover-and-back", about, faults), WRITES_SWITCHOVER);
    chapter.minimums.primary_changes = 3;
    chapter
}

fn standbys() -> Vec<Scenario> {
    let stopped = scenario(
        "standby-stop",
        "A synchronous standby is stopped: writes go on with the other one, and none is lost.",
        held(Kind::Stop, Node::SyncStandby),
    );
    let paused = scenario(
        "standby-pause",
        "A synchronous standby is paused: nothing is acknowledged that no other one has.",
        held(Kind::Pause, Node::SyncStandby),
    );
    let cut = scenario(
        "standby-cut-one-way",
        "Nothing that a synchronous standby sends arrives: the primary waits for another one.",
        held(Kind::CutOff(Cut::Out), Node::SyncStandby),
    );
    let mut one_left = scenario(
        "standby-stop-primary-kill",
        "A standby is stopped, then the primary is killed: the other one takes over, acknowledges nothing before it has a \
         standby, and nothing is lost.",
        vec![
            Fault::new(Kind::Stop, Node::SyncStandby, THEN + ALONE),
            Fault::new(Kind::Kill, Node::Primary, ALONE).after(THEN),
        ],
    );
    let mut both_killed = scenario(
        "primary-and-standby-kill",
        "The primary and a standby are killed at once: the other one takes over, acknowledges nothing before it has a \
         standby, and nothing is lost.",
        vec![
            Fault::new(Kind::Kill, Node::Primary, ALONE),
            Fault::new(Kind::Kill, Node::SyncStandby, ALONE).after(Duration::from_millis(1)),
        ],
    );
    for alone in [&mut one_left, &mut both_killed] {
        alone.minimums.primary_changes = 1;
        alone.minimums.ambiguous = 1;
        alone.minimums.tried_alone = TRIED_ALONE;
        alone.minimums.entered_alone = 1;
    }
    let unchanged = [stopped, paused, cut].map(without_failover);
    unchanged.into_iter().chain([one_left, both_killed]).chain(standbys_lost()).collect()
}

/// Nobody is left who could have what the primary commits, or take its place: zero loss and a clear state are the verdict,
/// and no time is judged.
fn standbys_lost() -> Vec<Scenario> {
    let mut none_left = scenario(
        "standbys-stop-primary-kill",
        "The standbys are stopped, then the primary is killed, and the standbys come back before it: nobody is promoted \
         that was not there to the last, and nothing is lost.",
        vec![
            Fault::new(Kind::Stop, Node::Standbys, Duration::from_secs(20)),
            Fault::new(Kind::Kill, Node::Primary, Duration::from_secs(45)).after(THEN),
        ],
    );
    none_left.minimums.tried_alone = TRIED_ALONE;
    let mut both_lost = scenario(
        "standbys-lost",
        "All standbys are lost: writes are refused rather than kept on one node.",
        held(Kind::Kill, Node::Standbys),
    );
    both_lost.minimums.tried_alone = TRIED_ALONE;
    both_lost.minimums.retried_alone = 1;
    let mut frozen = scenario(
        "standbys-frozen",
        "The hosts of all standbys are frozen, and clients go on: nothing is acknowledged, and lease, listener and a human \
         still get in.",
        vec![Fault::new(Kind::FreezeHost, Node::Standbys, NODE_LOST)],
    );
    frozen.minimums.tried_alone = TRIED_ALONE;
    frozen.minimums.retried_alone = 1;
    frozen.minimums.entered_alone = 10;
    let [none_left, both_lost, frozen] = [none_left, both_lost, frozen].map(without_failover);
    vec![none_left, both_lost, frozen, sync_wait_cut()]
}

/// Quicker than the primary notices that the standbys are paused (`wal_sender_timeout`, 5 s): until then each of them may
/// take its place, and it does. Ending the waits may take a second, and then the primary's turn comes after 4.3 s at the
/// latest.
fn sync_wait_cut() -> Scenario {
    let mut chapter = scenario(
        "sync-wait-cut",
        "Commits that wait for paused standbys are cut off, so that only the primary has them, and devices send them \
         again; then the primary is lost, and a standby without them takes over.",
        vec![
            Fault::new(Kind::Pause, Node::Standbys, Duration::from_secs(6)),
            Fault::new(Kind::TerminateSyncWaits, Node::Primary, Duration::ZERO).after(Duration::from_millis(1_300)),
            Fault::new(Kind::Kill, Node::Primary, NODE_LOST).after(Duration::from_millis(3_200)),
        ],
    );
    chapter.minimums.commits_cut = 1;
    chapter.minimums.retried_alone = 1;
    chapter.minimums.ambiguous = 1;
    chapter.minimums.primary_changes = 1;
    chapter
}

fn trouble() -> Vec<Scenario> {
    let full = scenario(
        "disk-full",
        "The primary's disk is full: writes fail or move to another node, and none that was acknowledged is lost.",
        vec![Fault::new(Kind::FillDisk, Node::Primary, NODE_LOST)],
    );
    let mut taken = scenario(
        "connections-taken",
        "A stranger holds all connections: what is there goes on, and everything comes back.",
        held(Kind::TakeConnections, Node::Primary),
    );
    taken.bounds.leader_after_writes = Some(LEADER_AFTER_WRITES);
    let down = scenario(
        "database-down",
        "The database is down for two minutes: no outage is taken for silence.",
        vec![
            Fault::new(Kind::Stop, Node::Standbys, TWO_MINUTES),
            Fault::new(Kind::Stop, Node::Primary, TWO_MINUTES).after(Duration::from_secs(1)),
        ],
    );
    let clock = |name: &str, seconds, about: &str| {
        let fault = Fault::new(Kind::ClockStep(seconds), Node::Primary, HOLD);
        scenario(name, about, vec![fault])
    };
    vec![
        full,
        taken,
        down,
        clock("clock-forward", 5, "The primary's clock steps 5 s forward: no lease and no promise ends early."),
        clock("clock-back", -5, "The primary's clock steps 5 s back."),
    ]
}
