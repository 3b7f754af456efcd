//! Who decides about the primary.

use super::{HOLD, scenario};
use crate::tools::drill::scenario::{Fault, FaultKind as Kind, Node, Scenario};

pub(super) fn all() -> Vec<Scenario> {
    let one = Fault::new(Kind::Kill, Node::Etcd(1), HOLD);
    // The primary steps down without a majority of etcd, unless Patroni's failsafe keeps it; no time is judged.
    let two = Fault::new(Kind::Kill, Node::EtcdMajority, HOLD);
    vec![
        scenario("etcd-one-lost", "One node of etcd is lost: nothing happens.", vec![one]),
        scenario("etcd-two-lost", "Two nodes of etcd are lost: nothing that was acknowledged is.", vec![two]),
    ]
}
