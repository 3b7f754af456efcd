//! The chapters of the drill, in the order in which they run. Bounds are those that the design promises of the compose
//! deployment; a shared machine under load may need more, and then the drill fails, and says by how much.

mod clients;
mod database;
mod leader;
mod network;

use std::time::Duration;

use super::scenario::{Bounds, Fault, FaultKind, Maximums, Minimums, Node, Scenario};

const WARM_UP: Duration = Duration::from_secs(6);
const COOL_DOWN: Duration = Duration::from_secs(5);
const RECOVERY_MAX: Duration = Duration::from_mins(2);
/// Long enough for every reaction to have happened before the fault is undone.
const HOLD: Duration = Duration::from_secs(20);
/// Below this the load was not there. A tenth of what the usual load sends in the shortest chapter.
const ACKNOWLEDGED_MIN: u64 = 500;

/// Who leads again after the old leader resigned; crashed; was paused, or cut off.
const TAKEOVER_RESIGNED: Duration = Duration::from_secs(1);
const TAKEOVER_CRASHED: Duration = Duration::from_secs(3);
const TAKEOVER_SILENT: Duration = Duration::from_secs(15);
/// Writes are possible again after a planned change; a crash of the server; the loss of its node.
const WRITES_SWITCHOVER: Duration = Duration::from_secs(4);
const WRITES_CRASH: Duration = Duration::from_secs(5);
const WRITES_NODE_LOST: Duration = Duration::from_secs(25);
/// The leader works after writes are possible: it still lives.
const LEADER_AFTER_WRITES: Duration = Duration::from_secs(3);
/// It died too.
const NEW_LEADER_AFTER_WRITES: Duration = Duration::from_secs(12);
/// Clients saw errors after one replica was killed.
const ERRORS_REPLICA_KILLED: Duration = Duration::from_secs(5);

/// The names of the quick set.
const SMOKE: [&str; 4] = ["leader-kill", "leader-pause", "primary-kill", "rolling-restart"];

/// All chapters.
pub fn all() -> Vec<Scenario> {
    [leader::all(), clients::all(), database::all(), network::all()].concat()
}

/// The quick set.
pub fn smoke() -> Vec<Scenario> {
    all().into_iter().filter(|scenario| SMOKE.contains(&scenario.name.as_str())).collect()
}

/// Those of these names, in the order of the list.
///
/// # Errors
/// Names a name that is none.
pub fn named(names: &[String]) -> Result<Vec<Scenario>, String> {
    let all = all();
    match names.iter().find(|name| !all.iter().any(|scenario| scenario.name == **name)) {
        Some(unknown) => Err(format!("there is no scenario {unknown}; --list shows all")),
        None => Ok(all.into_iter().filter(|scenario| names.contains(&scenario.name)).collect()),
    }
}

/// A chapter with the usual times and demands.
fn scenario(name: &str, about: &str, faults: Vec<Fault>) -> Scenario {
    Scenario {
        name: name.to_owned(),
        about: about.to_owned(),
        faults,
        warm_up: WARM_UP,
        cool_down: COOL_DOWN,
        recovery_max: RECOVERY_MAX,
        minimums: Minimums { acknowledged: ACKNOWLEDGED_MIN, ..Minimums::default() },
        maximums: Maximums::default(),
        bounds: Bounds::default(),
    }
}

/// One fault, undone after the usual time.
fn held(kind: FaultKind, node: Node) -> Vec<Fault> {
    vec![Fault::new(kind, node, HOLD)]
}

/// One fault that leaves nothing to undo.
fn at_once(kind: FaultKind, node: Node) -> Vec<Fault> {
    vec![Fault::new(kind, node, Duration::ZERO)]
}

/// The primary may not change.
fn without_failover(mut scenario: Scenario) -> Scenario {
    scenario.maximums.primary_changes = Some(0);
    scenario
}

/// A device that falls silent in the beginning must be seen to be offline before the end. Where a replica ends, or is cut
/// off or paused, or the database away, those whom it heard last have another deadline, which may be later.
fn with_silence(mut scenario: Scenario) -> Scenario {
    scenario.minimums.silences_judged = 1;
    scenario
}

/// The leader must change.
fn with_takeover(mut scenario: Scenario, takeover: Duration) -> Scenario {
    scenario.minimums.leader_changes = 1;
    scenario.bounds.takeover = Some(takeover);
    scenario
}

/// The primary must change, and writes and the leader be back in time.
fn with_failover(mut scenario: Scenario, writes: Duration) -> Scenario {
    scenario.minimums.primary_changes = 1;
    with_gap(&mut scenario, writes);
    scenario
}

fn with_gap(scenario: &mut Scenario, writes: Duration) {
    // Without requests under way, and some of an unknown outcome, nothing was there that could be lost or doubled.
    scenario.minimums.in_flight_at_fault = 1;
    scenario.minimums.ambiguous = 1;
    scenario.bounds.write_gap = Some(writes);
    scenario.bounds.leader_after_writes = Some(LEADER_AFTER_WRITES);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_every_chapter_demands_something() {
        let all = all();
        let mut names: Vec<&str> = all.iter().map(|scenario| scenario.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all.len());
        assert_eq!(smoke().len(), SMOKE.len());
        for scenario in &all {
            assert!(scenario.minimums.acknowledged > 0 && !scenario.about.is_empty(), "{}", scenario.name);
            let after: Vec<Duration> = scenario.faults.iter().map(|fault| fault.after).collect();
            assert!(after.is_sorted() && !after.is_empty(), "{}: faults in order", scenario.name);
        }
        assert!(named(&["leader-kill".to_owned()]).is_ok_and(|found| found.len() == 1));
        assert!(named(&["leader-hug".to_owned()]).is_err());
    }
}
