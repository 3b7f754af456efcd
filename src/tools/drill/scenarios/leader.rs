//! The replica that leads.

use std::time::Duration;

use super::{
    HOLD, NEW_LEADER_AFTER_WRITES, TAKEOVER_CRASHED, TAKEOVER_RESIGNED, TAKEOVER_SILENT, WRITES_NODE_LOST, at_once,
    held, scenario, with_failover, with_silence, with_takeover,
};
use crate::tools::drill::scenario::{Cut, Fault, FaultKind as Kind, Node, Scenario};

/// Three times the TTL: a pause that outlives every trust.
const PAUSE: Duration = Duration::from_secs(30);

pub(super) fn all() -> Vec<Scenario> {
    let mut chapters = vec![
        with_takeover(
            scenario("leader-kill", "SIGKILL of the leader: another takes over.", held(Kind::Kill, Node::Leader)),
            TAKEOVER_CRASHED,
        ),
        with_takeover(
            scenario(
                "leader-pause",
                "SIGSTOP of the leader for 30 s: another takes over, and the old one acts on nothing when it wakes up.",
                vec![Fault::new(Kind::Pause, Node::Leader, PAUSE)],
            ),
            TAKEOVER_SILENT,
        ),
        with_takeover(
            scenario(
                "leader-terminate",
                "SIGTERM of the leader: it resigns, and another takes over at once.",
                held(Kind::Terminate, Node::Leader),
            ),
            TAKEOVER_RESIGNED,
        ),
        with_silence(scenario(
            "leader-session-terminated",
            "The leader's lease session is terminated: its belief ends first, and somebody leads again.",
            at_once(Kind::TerminateLeaseSession, Node::Leader),
        )),
        with_takeover(
            scenario(
                "leader-paused-session-terminated",
                "The leader is paused and its session terminated: the lock is free while it still believes nothing.",
                vec![
                    Fault::new(Kind::Pause, Node::Leader, PAUSE),
                    Fault::new(Kind::TerminateLeaseSession, Node::Leader, Duration::ZERO).after(Duration::from_secs(2)),
                ],
            ),
            TAKEOVER_SILENT,
        ),
    ];
    chapters.extend(cut_off());
    chapters.push(scenario(
        "campaign-answer-lost",
        "The leader is killed, and the next campaign's answer is lost: its sender settles it by campaigning again.",
        // After the kill: followers also campaign in vain, about once a second.
        std::iter::once(Fault::new(Kind::Kill, Node::Leader, HOLD))
            .chain((1..=3).map(|number| {
                Fault::new(Kind::DropCampaignAnswer, Node::Replica(number), HOLD).after(Duration::from_millis(1))
            }))
            .collect(),
    ));
    let mut both = with_failover(
        scenario(
            "leader-and-primary-kill",
            "The leader and the primary are killed at once.",
            vec![
                Fault::new(Kind::Kill, Node::Leader, HOLD),
                Fault::new(Kind::Kill, Node::Primary, HOLD).after(Duration::from_millis(1)),
            ],
        ),
        WRITES_NODE_LOST,
    );
    both.bounds.leader_after_writes = Some(NEW_LEADER_AFTER_WRITES);
    both.minimums.leader_changes = 1;
    chapters.push(both);
    chapters
}

fn cut_off() -> Vec<Scenario> {
    let ways = [
        ("leader-cut-out", Cut::Out, "Nothing that the leader sends reaches the database."),
        ("leader-cut-in", Cut::In, "No answer of the database reaches the leader."),
        ("leader-cut-both", Cut::Both, "The leader is cut off from the database."),
    ];
    let chapter = |(name, way, about): (&str, Cut, &str)| {
        with_takeover(scenario(name, about, held(Kind::CutFromDatabase(way), Node::Leader)), TAKEOVER_SILENT)
    };
    ways.map(chapter).to_vec()
}
