//! Who decides about the primary.

use super::{HOLD, scenario, without_failover};
use crate::tools::drill::scenario::{Fault, FaultKind as Kind, Node, Scenario};

pub(super) fn all() -> Vec<Scenario> {
    let one = Fault::new(Kind::Kill, Node::Etcd(1), HOLD);
    // The primary steps down without a majority of etcd, unless Patroni's failsafe keeps it; no time is judged.
    let two = Fault::new(Kind::Kill, Node::EtcdMajority, HOLD);
    let mut one_lost =
        without_failover(scenario("etcd-one-lost", "One node of etcd is lost: nothing happens.", vec![one]));
    one_lost.maximums.leader_changes = Some(0);
    one_lost.bounds.failed_after_one_retry = Some(0);
    vec![
        one_lost,
        scenario("etcd-two-lost", "Two nodes of etcd are lost: nothing that was acknowledged is.", vec![two]),
    ]
}
