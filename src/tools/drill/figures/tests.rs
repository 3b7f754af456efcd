use super::*;
use crate::tools::drill::check::tests::history::{
    FAULT, SECOND, START, absence, acknowledged, device, replica, stored, unix, valid,
};
use crate::tools::drill::check::tests::plants::add;
use crate::tools::drill::evidence::{Call, Item, MarkKind, Outcome};

/// Readings every 100 ms, but for a gap of 3 s from half a second before the fault; nothing else.
fn run() -> Evidence {
    let mut evidence = valid(1, 1);
    evidence.attempts.clear();
    for step in 0..600 {
        let at = START + step * SECOND / 10;
        if !(FAULT - SECOND / 2..FAULT + 5 * SECOND / 2).contains(&at) {
            write(&mut evidence, None, at, stored(1, 0));
        }
    }
    evidence
}

fn write(evidence: &mut Evidence, retry_of: Option<u64>, at: u64, outcome: Outcome) {
    let number = evidence.attempts.len() as u64 + 1;
    let items = vec![Item { n: number, ts_unix_us: unix(at) }];
    add(evidence, Some(device(0)), Call::Readings { items, retry_of }, at);
    let last = evidence.attempts.last_mut().unwrap();
    (last.number, last.outcome) = (number, outcome);
}

fn value(evidence: &Evidence, figure: Figure) -> Option<u64> {
    Figures::of(evidence).values.get(&figure).copied()
}

fn closed() -> Outcome {
    Outcome::Unknown { error: "closed by 127.0.0.1:40123".to_owned() }
}

#[test]
fn the_write_gap_is_the_longest_around_the_fault() {
    let mut evidence = run();
    // The run goes on for 40 s after the last write, but all was well before.
    assert_eq!(value(&evidence, Figure::WriteGap), Some(3_100_000));
    evidence.marks.retain(|mark| mark.what != MarkKind::Healthy);
    assert_eq!(value(&evidence, Figure::WriteGap), Some(evidence.ended_us - (START + 59_900_000 + 1_000)));
    evidence.attempts.clear();
    assert_eq!(value(&evidence, Figure::WriteGap), None);
}

#[test]
fn take_over_is_anothers_belief() {
    let mut evidence = run();
    evidence.beliefs[1].began_us = FAULT + 900_000;
    assert_eq!(value(&evidence, Figure::Takeover), Some(900_000));
    // Writes come back at 2.5 s, and the new leader leads.
    assert_eq!(value(&evidence, Figure::LeaderAfterWrites), Some(0));
    evidence.beliefs[1].began_us = FAULT + 4 * SECOND;
    let writes = FAULT + 2_501_000;
    assert_eq!(value(&evidence, Figure::LeaderAfterWrites), Some(FAULT + 4 * SECOND - writes));
    evidence.absences.push(absence(replica(2), FAULT + 3 * SECOND, FAULT + 6 * SECOND, true));
    assert_eq!(value(&evidence, Figure::LeaderAfterWrites), Some(FAULT + 6 * SECOND - writes), "it is paused");
    evidence.beliefs[1].replica = replica(1);
    assert_eq!(value(&evidence, Figure::Takeover), None, "the same replica goes on");
    evidence.beliefs.clear();
    let leader = evidence.marks.iter().filter(|mark| mark.what == MarkKind::Leader).map(|mark| mark.at_us).max();
    assert_eq!(value(&evidence, Figure::Takeover), leader.map(|at| at - FAULT));
}

#[test]
fn errors_are_counted_by_kind_and_window() {
    let mut evidence = run();
    assert_eq!(value(&evidence, Figure::ErrorWindow), None);
    write(&mut evidence, None, FAULT - 10_000, closed());
    evidence.attempts.last_mut().unwrap().done_us = FAULT + SECOND;
    let first = evidence.attempts.last().unwrap().number;
    let (problem, detail) = (Some("unavailable".to_owned()), Some("Try again in 3 s.".to_owned()));
    write(&mut evidence, Some(first), FAULT + SECOND, Outcome::Refused { status: 503, problem, detail });
    let second = evidence.attempts.last().unwrap().number;
    write(&mut evidence, Some(second), FAULT + 2 * SECOND, closed());
    write(&mut evidence, None, START, closed());
    // A device that may call is not known: that is a failure, too. A body that is no good is not.
    let refused = |status| Outcome::Refused { status, problem: Some("revoked".to_owned()), detail: None };
    write(&mut evidence, None, FAULT + 20 * SECOND, refused(422));
    assert_eq!(Figures::of(&evidence).failed, 4);
    for status in [401, 403] {
        let mut refusing = evidence.clone();
        write(&mut refusing, None, FAULT + 20 * SECOND, refused(status));
        assert_eq!(Figures::of(&refusing).failed, 5, "{status}");
    }
    assert_eq!(value(&evidence, Figure::ErrorWindow), Some(2 * SECOND + 1_000), "from the fault to the last failure");
    // A probe asks on, whatever it is told: no client would.
    write(&mut evidence, None, FAULT + 30 * SECOND, closed());
    evidence.attempts.last_mut().unwrap().probe = true;
    assert_eq!(value(&evidence, Figure::ErrorWindow), Some(2 * SECOND + 1_000));
    let figures = Figures::of(&evidence);
    let unavailable = ("503 unavailable: Try again in # s.", 1);
    let kinds = |of: &[(&str, u64)]| of.iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect();
    assert_eq!(figures.errors, kinds(&[("422 revoked", 1), unavailable, ("no answer: closed by #.#.#.#:#", 3)]));
    assert_eq!(figures.failed_retries, kinds(&[unavailable]));
    assert_eq!((figures.failed, figures.values[&Figure::FailedAfterOneRetry]), (4, 1), "one chain failed twice");
}

#[test]
fn failures_in_a_row_are_pairs() {
    let mut evidence = run();
    for (step, fails) in [true, true, true, false, true, false, true, true].into_iter().enumerate() {
        add(&mut evidence, Some(device(0)), Call::Heartbeat, FAULT + step as u64 * SECOND);
        evidence.attempts.last_mut().unwrap().outcome = if fails { closed() } else { acknowledged() };
    }
    assert_eq!(value(&evidence, Figure::FailedAfterOneRetry), Some(2));
}

#[test]
fn a_bound_on_what_must_happen_is_broken_when_it_does_not() {
    let second = Some(Duration::from_secs(1));
    let bounds = Bounds { takeover: second, error_window: second, write_gap: second, ..Bounds::default() };
    let held = |figures: &Figures| {
        let lines = figures.judge(&bounds).into_iter();
        lines.filter(|line| !line.held).map(|line| line.figure).collect::<Vec<_>>()
    };
    let mut figures = Figures::default();
    assert_eq!(held(&figures), [Figure::WriteGap, Figure::Takeover]);
    figures.values.extend([
        (Figure::WriteGap, SECOND),
        (Figure::Takeover, SECOND + 1),
        (Figure::ErrorWindow, SECOND + 1),
    ]);
    assert_eq!(held(&figures), [Figure::Takeover, Figure::ErrorWindow]);
}
