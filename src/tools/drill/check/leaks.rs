//! I9: what was taken is given back.

use super::Facts;
use crate::tools::drill::evidence::LeakSample;
use crate::tools::drill::verdict::{Invariant, Verdict};

pub(super) fn none(facts: &Facts<'_>) -> Verdict {
    let samples = &facts.evidence.leaks;
    // Not `after > before + tolerance`: a sample that is no number proves nothing, and fails.
    let leaky = samples.iter().filter(|sample| !within(sample));
    let breaches = leaky.map(|LeakSample { place, what, before, after, tolerance }| {
        format!("{place}: {what} was {before} before and is {after} after it, at most {tolerance} more are allowed")
    });
    Verdict::new(Invariant::NothingLeaks, samples.len() as u64, breaches.collect())
}

fn within(sample: &LeakSample) -> bool {
    sample.after <= sample.before + sample.tolerance
}
