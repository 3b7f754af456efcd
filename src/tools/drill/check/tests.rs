//! Hand-built histories: each planted fault is found and told in the right words, and the same history without it
//! is clean; so is any valid history.

mod cases;
pub(in crate::tools::drill) mod history;
pub(in crate::tools::drill) mod plants;
mod properties;

use super::judge;
use crate::tools::drill::evidence::Evidence;
use crate::tools::drill::verdict::{Invariant, Verdict};

/// The verdict on one invariant.
fn verdict(evidence: &Evidence, invariant: Invariant) -> Verdict {
    judge(evidence).into_iter().find(|verdict| verdict.invariant == invariant).expect("each invariant is judged")
}

/// Everything that was broken, in words.
fn breaches(evidence: &Evidence) -> Vec<String> {
    judge(evidence).into_iter().flat_map(|verdict| verdict.breaches).collect()
}
