//! The checker: from what a run left behind to a verdict on each promise. Pure: the same evidence gives the same
//! verdicts, so that a run can be judged again when the checker has become stricter.
//!
//! One rule holds for all of them: what the evidence leaves open is decided for the service where the service could
//! not know better (a request under way), and against it where it has spoken (an answer is a promise).

mod alone;
mod caches;
mod effects;
mod facts;
mod leaks;
mod presence;
mod readings;
mod revocation;
mod silence;
#[cfg(test)]
pub(super) mod tests;
mod vacuous;

pub use self::effects::spans as belief_spans;
pub use self::facts::{Facts, fault_windows};
pub use self::silence::seen_us as silence_seen_us;

use super::evidence::Evidence;
use super::verdict::Verdict;

/// Microseconds in a second.
pub const SECOND_US: u64 = 1_000_000;

/// One verdict for each invariant, in their order.
pub fn judge(evidence: &Evidence) -> Vec<Verdict> {
    let facts = Facts::of(evidence);
    vec![
        readings::nothing_lost(&facts),
        readings::nothing_twice(&facts),
        effects::ordered(&facts),
        effects::one_belief(&facts),
        presence::no_false_offline(&facts),
        silence::seen(&facts),
        revocation::acts(&facts),
        caches::forward(&facts),
        leaks::none(&facts),
        vacuous::not_vacuous(&facts),
        alone::nothing(&facts),
    ]
}
