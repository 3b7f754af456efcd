//! What clients saw of a fault.

use std::collections::{BTreeMap, HashMap};
use std::mem::{Discriminant, discriminant};

use crate::tools::drill::check;
use crate::tools::drill::evidence::{Attempt, Call, Evidence, Outcome};

/// From here on a status says that the fault is the service's.
const SERVER_ERROR: u16 = 500;
const UNAUTHORIZED: u16 = 401;
const FORBIDDEN: u16 = 403;
/// Kinds of errors that are told apart; the rest is counted together.
const CLASSES_MAX: usize = 12;
/// Of an error's text, the beginning names its kind.
const CLASS_CHARS_MAX: usize = 90;

/// What clients sent, and no probe.
pub fn by_clients(evidence: &Evidence) -> impl Iterator<Item = &Attempt> {
    evidence.attempts.iter().filter(|attempt| !attempt.probe)
}

/// A failure of the service, for a client whose right to call nobody takes: that it is not known or may not is one, too.
pub fn is_error(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Acknowledged { .. } => false,
        Outcome::Refused { status, .. } => *status >= SERVER_ERROR || matches!(*status, UNAUTHORIZED | FORBIDDEN),
        Outcome::Unknown { .. } | Outcome::NotSent { .. } => true,
    }
}

/// From the first request that failed after the fault had begun (but not from before the fault) to the last.
pub(super) fn window(evidence: &Evidence) -> Option<u64> {
    let fault = check::fault_windows(evidence).into_iter().map(|(began, _)| began).min()?;
    let failed = || by_clients(evidence).filter(|attempt| is_error(&attempt.outcome) && attempt.done_us >= fault);
    let first = failed().map(|attempt| attempt.sent_us.max(fault)).min()?;
    failed().map(|attempt| attempt.done_us).max().map(|last| last - first)
}

/// Every refusal and failure by kind. Numbers inside an error's text (ports) make no kind of their own.
pub(super) fn by_class<'a>(attempts: impl IntoIterator<Item = &'a Attempt>) -> BTreeMap<String, u64> {
    let mut all: HashMap<String, u64> = HashMap::new();
    for attempt in attempts {
        if let Some(class) = class(&attempt.outcome) {
            *all.entry(class).or_default() += 1;
        }
    }
    let mut by_count: Vec<(String, u64)> = all.into_iter().collect();
    by_count.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    let rest = by_count.split_off(by_count.len().min(CLASSES_MAX));
    let others: u64 = rest.iter().map(|(_, count)| count).sum();
    let others = (others > 0).then(|| ("others".to_owned(), others));
    by_count.into_iter().chain(others).collect()
}

fn class(outcome: &Outcome) -> Option<String> {
    let class = match outcome {
        Outcome::Acknowledged { .. } => return None,
        Outcome::Refused { status, problem, detail } => match (problem, detail) {
            (Some(problem), Some(detail)) => format!("{status} {problem}: {}", without_numbers(detail)),
            (Some(problem), None) => format!("{status} {problem}"),
            (None, _) => status.to_string(),
        },
        Outcome::Unknown { error } => format!("no answer: {}", without_numbers(error)),
        Outcome::NotSent { error } => format!("not sent: {}", without_numbers(error)),
    };
    Some(class.chars().take(CLASS_CHARS_MAX).collect())
}

/// Each run of digits as one `#`.
fn without_numbers(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '0'..='9' if plain.ends_with('#') => {}
            '0'..='9' => plain.push('#'),
            other => plain.push(other),
        }
    }
    plain
}

/// Of each client, its requests of one kind in their order: a failure is the retry of the failure before it, and the
/// two of them are one request that failed after one retry. Batches name what they retry. Given are the retries.
pub(super) fn failed_after_one_retry(evidence: &Evidence) -> Vec<&Attempt> {
    let mut lines: HashMap<(&str, Discriminant<Call>), bool> = HashMap::new();
    let mut batches: HashMap<(&str, u64), bool> = HashMap::new();
    let mut failed = Vec::new();
    let mut attempts: Vec<&Attempt> = by_clients(evidence).collect();
    attempts.sort_by_key(|attempt| (attempt.sent_us, attempt.number));
    for attempt in attempts {
        let is_error = is_error(&attempt.outcome);
        let client = attempt.client.as_str();
        if let Call::Readings { retry_of, .. } = &attempt.call {
            // True: the first attempt failed, and this would be its one retry.
            let is_the_retry = retry_of.and_then(|first| batches.remove(&(client, first))).unwrap_or(false);
            failed.extend((is_the_retry && is_error).then_some(attempt));
            batches.insert((client, attempt.number), is_error && retry_of.is_none());
        } else {
            let failed_before = lines.entry((client, discriminant(&attempt.call))).or_default();
            failed.extend((*failed_before && is_error).then_some(attempt));
            *failed_before = is_error && !*failed_before;
        }
    }
    failed
}
