//! The database's nodes.

use std::time::Duration;

use super::{
    HOLD, LEADER_AFTER_WRITES, WRITES_CRASH, WRITES_NODE_LOST, WRITES_SWITCHOVER, at_once, held, scenario,
    with_failover,
};
use crate::tools::drill::scenario::{Cut, Fault, FaultKind as Kind, Node, Scenario};

/// Long enough for a lost node's time to live to run out, and for the successor to work a while.
const NODE_LOST: Duration = Duration::from_secs(40);
const TWO_MINUTES: Duration = Duration::from_mins(2);
/// Between the loss of the standby and that of the primary: what is committed meanwhile is on no standby, if anything.
const THEN: Duration = Duration::from_secs(5);

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
    let about = "The primary changes and changes back: no old connection or cache survives.";
    let faults = vec![switch(Duration::ZERO), switch(Duration::from_secs(30))];
    let mut chapter = with_failover(scenario("switchover-and-back", about, faults), WRITES_SWITCHOVER);
    chapter.minimums.primary_changes = 2;
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
    // Nobody may be promoted here: zero loss and a clear state are the verdict, and no time is judged.
    let none_left = scenario(
        "standby-stop-primary-kill",
        "The standbys are stopped, then the primary is killed: nobody is promoted, and nothing is lost.",
        vec![
            Fault::new(Kind::Stop, Node::Standbys, NODE_LOST),
            Fault::new(Kind::Kill, Node::Primary, HOLD).after(THEN),
        ],
    );
    let both_lost = scenario(
        "standbys-lost",
        "All standbys are lost: writes are refused rather than kept on one node.",
        vec![Fault::new(Kind::Kill, Node::Standbys, HOLD)],
    );
    let mut sync_wait = scenario(
        "sync-wait-cut",
        "Connections are cut while their commits wait for a paused standby, devices send again, then the primary is lost.",
        vec![
            Fault::new(Kind::Pause, Node::SyncStandby, Duration::from_secs(8)),
            Fault::new(Kind::CutFromDatabase(Cut::Both), Node::Follower, Duration::from_secs(5))
                .after(Duration::from_secs(2)),
            Fault::new(Kind::Kill, Node::Primary, NODE_LOST).after(Duration::from_secs(10)),
        ],
    );
    sync_wait.minimums.ambiguous = 1;
    sync_wait.minimums.primary_changes = 1;
    vec![stopped, paused, cut, none_left, both_lost, sync_wait]
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
