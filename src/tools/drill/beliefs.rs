//! What replicas believed, read from their logs (`jobs::belief` writes it), and which processes there were.

use std::collections::BTreeMap;

use serde::Deserialize;
use uuid::Uuid;

use super::evidence::{Absence, BeliefSpan};

const NS_PER_US: u64 = 1_000;

/// A line of the log, as far as it matters here.
#[derive(Deserialize)]
struct Line {
    message: String,
    replica: Option<Uuid>,
    duty: Option<String>,
    holder: Option<Uuid>,
    epoch: Option<i64>,
    timeline: Option<i32>,
    since_boottime_ns: Option<u64>,
    trust_until_boottime_ns: Option<u64>,
    until_boottime_ns: Option<u64>,
}

/// What the log of one replica says, over all its starts.
#[derive(Debug, Default)]
pub struct Told {
    /// The ids of its processes, in the order of their starts.
    pub replicas: Vec<Uuid>,
    pub spans: Vec<BeliefSpan>,
}

/// Reads a log. Lines that are no JSON, or say something else, are passed over; a line may stand there twice.
pub fn read(log: &str) -> Told {
    let mut told = Told::default();
    let mut spans: BTreeMap<(Uuid, String, u64), BeliefSpan> = BTreeMap::new();
    for line in log.lines().filter(|line| line.contains("belief") || line.contains("serving")) {
        // A container engine puts its own words before the line.
        let Some(start) = line.find('{') else { continue };
        let Ok(line) = serde_json::from_str::<Line>(&line[start..]) else { continue };
        if line.message == "serving" {
            told.replicas.extend(line.replica);
            continue;
        }
        let (Some(span), Some(since)) = (span_of(&line), line.since_boottime_ns) else { continue };
        let known = spans.entry((span.replica, span.duty.clone(), since)).or_insert(span);
        known.ended_us = known.ended_us.or(line.until_boottime_ns.map(|ns| ns / NS_PER_US));
        let trusted = line.trust_until_boottime_ns.or(line.until_boottime_ns).unwrap_or(since) / NS_PER_US;
        known.trust_until_us = known.trust_until_us.max(trusted);
    }
    told.spans = spans.into_values().collect();
    told.spans.sort_by_key(|span| span.began_us);
    told
}

fn span_of(line: &Line) -> Option<BeliefSpan> {
    let began_us = line.since_boottime_ns? / NS_PER_US;
    matches!(line.message.as_str(), "belief began" | "belief ended").then_some(())?;
    Some(BeliefSpan {
        replica: line.holder?,
        duty: line.duty.clone()?,
        timeline: line.timeline?,
        epoch: line.epoch?,
        began_us,
        ended_us: None,
        trust_until_us: began_us,
    })
}

/// The spans that reach into a run that began at `since_us`. One without an end belongs to it only if its process was
/// not killed before.
pub fn reaching(spans: Vec<BeliefSpan>, absences: &[Absence], since_us: u64) -> Vec<BeliefSpan> {
    let killed_before = |span: &BeliefSpan| {
        absences.iter().any(|away| away.replica == span.replica && !away.paused && away.from_us < since_us)
    };
    let reaches = |span: &BeliefSpan| match span.ended_us {
        Some(ended) => ended >= since_us,
        None => !killed_before(span),
    };
    spans.into_iter().filter(reaches).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = r#"
{"level":"INFO","message":"serving","replica":"00000000-0000-0000-0000-000000000001","device_addr":"127.0.0.1:1"}
everbeat1 | {"message":"belief began","duty":"sweeper","holder":"00000000-0000-0000-0000-000000000001","epoch":3,"timeline":1,"since_boottime_ns":5000,"trust_until_boottime_ns":9000}
{"message":"belief began","duty":"sweeper","holder":"00000000-0000-0000-0000-000000000001","epoch":3,"timeline":1,"since_boottime_ns":5000,"trust_until_boottime_ns":9000}
half a line {"message":"belief ended","duty"
{"message":"belief ended","duty":"sweeper","holder":"00000000-0000-0000-0000-000000000001","epoch":3,"timeline":1,"since_boottime_ns":5000,"until_boottime_ns":20000,"reason":"drain"}
{"message":"serving","replica":"00000000-0000-0000-0000-000000000002"}
{"message":"belief began","duty":"sweeper","holder":"00000000-0000-0000-0000-000000000002","epoch":4,"timeline":1,"since_boottime_ns":30000,"trust_until_boottime_ns":40000}
"#;

    #[test]
    fn spans_have_their_ends_and_processes_their_order() {
        let told = read(LOG);
        let ids: Vec<u128> = told.replicas.iter().map(Uuid::as_u128).collect();
        assert_eq!(ids, [1, 2]);
        let spans: Vec<_> = told.spans.iter().map(|s| (s.began_us, s.ended_us, s.trust_until_us, s.epoch)).collect();
        assert_eq!(spans, [(5, Some(20), 20, 3), (30, None, 40, 4)]);
    }

    #[test]
    fn a_process_that_was_killed_in_an_earlier_run_believes_nothing_in_this() {
        let spans = read(LOG).spans;
        let killed = Absence { replica: Uuid::from_u128(2), from_us: 50, until_us: 60, paused: false };
        let epochs = |since| {
            reaching(spans.clone(), std::slice::from_ref(&killed), since).iter().map(|s| s.epoch).collect::<Vec<_>>()
        };
        assert_eq!(epochs(10), [3, 4]);
        assert_eq!(epochs(40), [4], "it is killed in this one");
        assert_eq!(epochs(70), [] as [i64; 0]);
    }
}
