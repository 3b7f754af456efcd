//! Statements and connections.

use std::time::Duration;

use super::{Metric, counter, gauge, seconds};

const STATEMENTS: &str = "everbeat_store_statement_seconds";
const ABANDONED: &str = "everbeat_store_abandoned_connections";
const ABANDONED_TOTAL: &str = "everbeat_store_abandoned_total";
const TIMELINE: &str = "everbeat_store_primary_timeline";
const CHANGES: &str = "everbeat_store_primary_changes_total";
const REACHABLE: &str = "everbeat_store_primary_reachable";
const SYNC_STANDBYS: &str = "everbeat_store_sync_standbys";
const UNCOVERED: &str = "everbeat_store_uncovered_commits_total";

pub(super) const METRICS: &[Metric] = &[
    seconds(STATEMENTS, "Time from sending a statement or transaction to its outcome, by name and outcome."),
    gauge(ABANDONED, "Connections whose statement passed our deadline and whose fate is not known yet, by plane."),
    counter(ABANDONED_TOTAL, "Statements that passed our deadline, by plane."),
    gauge(TIMELINE, "Timeline of the primary that the pools point at."),
    counter(CHANGES, "Changes of the primary (another host, timeline or start of its postmaster)."),
    gauge(REACHABLE, "1 while a writable primary answers its probes, else 0."),
    gauge(SYNC_STANDBYS, "Synchronous standbys that follow the primary. 0 where there is one database on purpose."),
    counter(UNCOVERED, "Commits that no synchronous standby was known to have when they came back, by plane."),
];

pub(super) fn zero() {
    for plane in ["fleet", "control"] {
        metrics::gauge!(ABANDONED, "plane" => plane).set(0.0);
        metrics::counter!(ABANDONED_TOTAL, "plane" => plane).absolute(0);
        metrics::counter!(UNCOVERED, "plane" => plane).absolute(0);
    }
    metrics::counter!(CHANGES).absolute(0);
    metrics::gauge!(REACHABLE).set(0.0);
    metrics::gauge!(SYNC_STANDBYS).set(0.0);
}

pub fn statement(name: &'static str, outcome: &'static str, took: Duration) {
    metrics::histogram!(STATEMENTS, "statement" => name, "outcome" => outcome).record(took.as_secs_f64());
}

pub fn abandoned(plane: &'static str) {
    metrics::counter!(ABANDONED_TOTAL, "plane" => plane).increment(1);
    metrics::gauge!(ABANDONED, "plane" => plane).increment(1.0);
}

pub fn abandoned_settled(plane: &'static str) {
    metrics::gauge!(ABANDONED, "plane" => plane).decrement(1.0);
}

pub fn primary_changed(timeline: i32) {
    metrics::counter!(CHANGES).increment(1);
    metrics::gauge!(TIMELINE).set(f64::from(timeline));
}

pub fn primary_reachable(reachable: bool) {
    metrics::gauge!(REACHABLE).set(if reachable { 1.0 } else { 0.0 });
}

pub fn sync_standbys(count: u32) {
    metrics::gauge!(SYNC_STANDBYS).set(f64::from(count));
}

pub fn uncovered(plane: &'static str) {
    metrics::counter!(UNCOVERED, "plane" => plane).increment(1);
}
