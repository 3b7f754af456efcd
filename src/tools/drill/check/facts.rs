//! What several judgements ask of the evidence, looked up once.

use std::collections::{BTreeMap, HashMap};

use uuid::Uuid;

use super::SECOND_US;
use crate::tools::drill::evidence::{Attempt, Call, ClockStep, Evidence, Mark, MarkKind, Outcome};

/// A clock that is moved, or put right, may show either time for so long: either may be the right one then, as it may
/// within the step's own size of its ends.
const STEP_TAKES_US: u64 = 2 * SECOND_US;

/// Of a 503 that may have been done. Under any other name nothing was.
const OUTCOME_UNKNOWN: &str = "outcome-unknown";

/// The evidence with its indexes.
pub struct Facts<'a> {
    pub evidence: &'a Evidence,
    /// A device's own requests, by when they were sent.
    pub by_device: BTreeMap<Uuid, Vec<&'a Attempt>>,
    names: HashMap<Uuid, &'a str>,
}

impl<'a> Facts<'a> {
    pub fn of(evidence: &'a Evidence) -> Self {
        let mut by_device: BTreeMap<Uuid, Vec<&Attempt>> = BTreeMap::new();
        let mut names = HashMap::new();
        for attempt in evidence.attempts.iter().filter(|attempt| is_devices_own(&attempt.call)) {
            if let Some(device) = attempt.device {
                by_device.entry(device).or_default().push(attempt);
                names.entry(device).or_insert(attempt.client.as_str());
            }
        }
        for attempts in by_device.values_mut() {
            attempts.sort_by_key(|attempt| (attempt.sent_us, attempt.number));
        }
        Self { evidence, by_device, names }
    }

    /// A device's requests; none where it made none.
    pub fn of_device(&self, device: Uuid) -> &[&'a Attempt] {
        self.by_device.get(&device).map_or(&[], Vec::as_slice)
    }

    /// `pump-7 (0190…)`: for words.
    pub fn name(&self, device: Uuid) -> String {
        match self.names.get(&device) {
            Some(name) => format!("{name} ({device})"),
            None => device.to_string(),
        }
    }

    /// Marks of this kind, but for those of the beginning: they say who it was, and are no changes.
    pub fn changes(&self, kind: MarkKind) -> impl Iterator<Item = &'a Mark> {
        let first_fault_us = self.first_fault_us();
        self.evidence.marks.iter().filter(move |mark| mark.what == kind && mark.at_us > first_fault_us)
    }

    pub fn first_fault_us(&self) -> u64 {
        self.fault_windows().into_iter().map(|(began, _)| began).min().unwrap_or(u64::MAX)
    }

    /// A moment of the run, for words: `+12.345 s` after its start.
    pub fn at(&self, us: u64) -> String {
        moment(self.evidence, i64::try_from(us).unwrap_or(i64::MAX))
    }

    /// The same for a time of the database.
    pub fn at_unix(&self, unix_us: i64) -> String {
        moment(self.evidence, self.evidence.boottime_of(unix_us))
    }

    /// When it was, on the drill's clock, that the database's clock showed this time. At least one moment; more where
    /// the drill moved that clock and both its times are possible. What lies before the beginning is the beginning.
    pub fn moments(&self, unix_us: i64) -> Vec<u64> {
        let shown = self.evidence.boottime_of(unix_us);
        let steps = &self.evidence.clock_steps;
        let is_within = |step: &ClockStep, at: u64, margin: u64| {
            (step.from_us.saturating_add(margin)..=step.until_us.saturating_sub(margin)).contains(&at)
        };
        let clamped = |us: i64| u64::try_from(us).unwrap_or(0);
        let moved = steps.iter().map(|step| (step, clamped(shown - step.by_us)));
        let moved = moved.filter(|(step, at)| is_within(step, *at, 0)).map(|(_, at)| at);
        let unmoved = clamped(shown);
        // One node's clock is moved: where another became primary meanwhile, its times are right.
        let primaries = || self.evidence.marks.iter().filter(|mark| mark.what == MarkKind::Primary);
        let is_alone = |step: &ClockStep| !primaries().any(|mark| is_within(step, mark.at_us, 0));
        let is_possible = !steps.iter().any(|step| is_alone(step) && is_within(step, unmoved, STEP_TAKES_US));
        let mut moments: Vec<u64> = is_possible.then_some(unmoved).into_iter().chain(moved).collect();
        if moments.is_empty() {
            moments.push(unmoved);
        }
        moments
    }

    /// A span by the database's clock: the longest that it can have been.
    pub fn span(&self, started_unix_us: i64, ended_unix_us: i64) -> (u64, u64) {
        let (started, ended) = (self.moments(started_unix_us), self.moments(ended_unix_us));
        (started.into_iter().min().unwrap_or(0), ended.into_iter().max().unwrap_or(u64::MAX))
    }

    /// From when on a device's identity may have been taken from it: an answer that is lost may have been a success.
    pub fn revoked_from(&self, device: Uuid) -> Option<u64> {
        let revokes = self.evidence.attempts.iter().filter(|attempt| match attempt.call {
            Call::Revoke { device: of } => of == device && may_have_acted(&attempt.outcome),
            _ => false,
        });
        revokes.map(|attempt| attempt.sent_us).min()
    }

    /// From when on a device was silenced on purpose.
    pub fn silenced_from(&self, device: Uuid) -> Option<u64> {
        self.evidence.silenced.iter().filter(|silenced| silenced.device == device).map(|silenced| silenced.at_us).min()
    }

    /// From each fault to the moment when everything was well again, or to the end of the run.
    pub fn fault_windows(&self) -> Vec<(u64, u64)> {
        fault_windows(self.evidence)
    }
}

/// From each fault to the next [`MarkKind::Healthy`], or to the end of the run.
pub fn fault_windows(evidence: &Evidence) -> Vec<(u64, u64)> {
    let of_kind = |kind: MarkKind| evidence.marks.iter().filter(move |mark: &&Mark| mark.what == kind);
    let healthy_after = |from: u64| of_kind(MarkKind::Healthy).map(|mark| mark.at_us).filter(|at| *at >= from).min();
    of_kind(MarkKind::FaultBegan)
        .map(|mark| (mark.at_us, healthy_after(mark.at_us).unwrap_or(evidence.ended_us)))
        .collect()
}

/// A request with which a device shows that it lives.
fn is_devices_own(call: &Call) -> bool {
    match call {
        Call::Enroll | Call::Heartbeat | Call::Readings { .. } | Call::Goodbye | Call::Me => true,
        Call::Change { .. } | Call::Read { .. } | Call::Revoke { .. } | Call::Restore { .. } => false,
    }
}

/// Anything but a request that certainly never arrived.
pub fn may_have_acted(outcome: &Outcome) -> bool {
    !matches!(outcome, Outcome::NotSent { .. })
}

/// Requests that send readings again which may have been stored already, and of which nobody was told yet.
pub fn retries_of_open(evidence: &Evidence) -> Vec<&Attempt> {
    let mut attempts: Vec<&Attempt> = evidence.attempts.iter().collect();
    attempts.sort_by_key(|attempt| attempt.number);
    let (mut open, mut retries) = (HashMap::new(), Vec::new());
    for attempt in attempts {
        let Call::Readings { retry_of, .. } = attempt.call else { continue };
        let first = (attempt.client.as_str(), retry_of.unwrap_or(attempt.number));
        let may_be_stored: &mut bool = open.entry(first).or_default();
        if retry_of.is_some() && *may_be_stored {
            retries.push(attempt);
        }
        *may_be_stored = (*may_be_stored || is_open(&attempt.outcome)) && !attempt.outcome.is_acknowledged();
    }
    retries
}

/// It may have been done, or not.
pub fn is_open(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Unknown { .. } => true,
        Outcome::Refused { problem, .. } => problem.as_deref() == Some(OUTCOME_UNKNOWN),
        Outcome::Acknowledged { .. } | Outcome::NotSent { .. } => false,
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown with milliseconds")]
fn moment(evidence: &Evidence, us: i64) -> String {
    let since = us - i64::try_from(evidence.started_us).unwrap_or(i64::MAX);
    format!("{:+.3} s", since as f64 / SECOND_US as f64)
}
