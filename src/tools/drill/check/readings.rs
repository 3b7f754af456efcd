//! I1 and I2: what was acknowledged is there, once, and nothing else is.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use uuid::Uuid;

use super::Facts;
use super::facts::may_have_acted;
use crate::tools::drill::evidence::{Attempt, Call, Item, Outcome};
use crate::tools::drill::verdict::{Invariant, Verdict};

/// I1. A success without a rejected item promises each item, duplicates too. With rejected items it promises as many
/// as it counts.
pub(super) fn nothing_lost(facts: &Facts<'_>) -> Verdict {
    let stored: HashSet<(Uuid, u64)> = facts.evidence.database.readings.iter().map(|row| (row.device, row.n)).collect();
    let (mut promised_in_all, mut breaches) = (0, Vec::new());
    for (attempt, device, items) in batches(facts) {
        let Outcome::Acknowledged { stored: fresh, duplicates, rejected, .. } = &attempt.outcome else {
            continue;
        };
        let lost: Vec<&Item> = items.iter().filter(|item| !stored.contains(&(device, item.n))).collect();
        if *rejected == 0 {
            promised_in_all += items.len() as u64;
            breaches.extend(lost.iter().map(|item| lost_words(facts, attempt, device, item)));
        } else {
            let promised = fresh + duplicates;
            let present = (items.len() - lost.len()) as u64;
            promised_in_all += promised;
            if present < promised {
                let of = request(facts, attempt, device);
                breaches.push(format!("{of} counted {promised} as stored, and only {present} of them are there"));
            }
        }
    }
    Verdict::new(Invariant::NothingLost, promised_in_all, breaches)
}

fn lost_words(facts: &Facts<'_>, attempt: &Attempt, device: Uuid, item: &Item) -> String {
    let Item { n, .. } = item;
    format!("reading {n} is lost: {} was acknowledged", request(facts, attempt, device))
}

/// I2. Counted by the number inside the values: the same number under another time is a double as well. What was
/// never sent, or never with this time, is a breach too.
pub(super) fn nothing_twice(facts: &Facts<'_>) -> Verdict {
    let mut sent: HashMap<(Uuid, u64), BTreeSet<i64>> = HashMap::new();
    for (attempt, device, items) in batches(facts) {
        if may_have_acted(&attempt.outcome) {
            for item in items {
                sent.entry((device, item.n)).or_default().insert(item.ts_unix_us);
            }
        }
    }
    let mut rows: BTreeMap<(Uuid, u64), Vec<i64>> = BTreeMap::new();
    for row in &facts.evidence.database.readings {
        rows.entry((row.device, row.n)).or_default().push(row.ts_unix_us);
    }
    let mut breaches = Vec::new();
    for ((device, n), times) in &rows {
        let name = facts.name(*device);
        if times.len() > 1 {
            let at: Vec<String> = times.iter().map(|ts| facts.at_unix(*ts)).collect();
            breaches.push(format!("reading {n} of {name} is stored {} times, with ts {}", times.len(), at.join(", ")));
        }
        match sent.get(&(*device, *n)) {
            None => breaches.push(format!("reading {n} of {name} is stored, but was never sent")),
            Some(known) => {
                let foreign = times.iter().filter(|ts| !known.contains(ts));
                breaches.extend(foreign.map(|ts| {
                    format!("reading {n} of {name} is stored with ts {}, which was never sent", facts.at_unix(*ts))
                }));
            }
        }
    }
    Verdict::new(Invariant::NothingTwice, facts.evidence.database.readings.len() as u64, breaches)
}

/// Every request with readings, with its device.
fn batches<'a>(facts: &Facts<'a>) -> impl Iterator<Item = (&'a Attempt, Uuid, &'a [Item])> {
    facts.evidence.attempts.iter().filter_map(|attempt| match &attempt.call {
        Call::Readings { items, .. } => Some((attempt, attempt.device?, items.as_slice())),
        _ => None,
    })
}

fn request(facts: &Facts<'_>, attempt: &Attempt, device: Uuid) -> String {
    let by = attempt.replica.map_or_else(|| "an unnamed replica".to_owned(), |replica| format!("replica {replica}"));
    let (name, number) = (facts.name(device), attempt.number);
    format!(
        "request {number} of {name}, sent {}, answered {} by {by},",
        facts.at(attempt.sent_us),
        facts.at(attempt.done_us)
    )
}
