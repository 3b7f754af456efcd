//! Who was let in, and who was not.

use super::{Metric, counter, gauge};

const LIMIT: &str = "everbeat_admission_limit_requests";
const UNDER_WAY: &str = "everbeat_admission_under_way_requests";
const OFFERED: &str = "everbeat_admission_offered_total";
const SHED: &str = "everbeat_admission_shed_total";
const FAILED: &str = "everbeat_admission_failed_attempts_total";
const FAILING: &str = "everbeat_admission_failing_callers";

pub(super) const METRICS: &[Metric] = &[
    gauge(
        LIMIT,
        "Requests under way from which on some are refused, as their waits for commits allow; at twice of it all are.",
    ),
    gauge(UNDER_WAY, "Requests that are under way, by class."),
    counter(OFFERED, "Requests that asked to be let in, by class."),
    counter(SHED, "Requests that were not served, by class and by what refused them. Offered less shed is accepted."),
    counter(FAILED, "Attempts to prove who is calling that failed and were counted, by what was attempted."),
    gauge(FAILING, "Callers whose failed attempts are remembered, by what they are counted by."),
];

/// What refused a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Its class had too many under way.
    Concurrency,
    /// It could not have been answered in time.
    Deadline,
    DeviceRate,
    FleetRate,
    /// Too many attempts failed from its address.
    AddressFailures,
    /// Too many attempts with its enrollment token failed.
    TokenFailures,
    /// Too many requests were waiting for their bodies, of all callers or of one.
    SlowBodies,
    /// What it was to be put into was full.
    Queue,
    /// Too many were waiting for a connection to the database.
    Database,
}

impl Stage {
    const ALL: [Self; 9] = [
        Self::Concurrency,
        Self::Deadline,
        Self::DeviceRate,
        Self::FleetRate,
        Self::AddressFailures,
        Self::TokenFailures,
        Self::SlowBodies,
        Self::Queue,
        Self::Database,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Concurrency => "concurrency",
            Self::Deadline => "deadline",
            Self::DeviceRate => "device_rate",
            Self::FleetRate => "fleet_rate",
            Self::AddressFailures => "address_failures",
            Self::TokenFailures => "token_failures",
            Self::SlowBodies => "slow_bodies",
            Self::Queue => "queue",
            Self::Database => "database",
        }
    }
}

/// What failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    Enrollment,
    Operator,
}

impl Attempt {
    const ALL: [Self; 2] = [Self::Enrollment, Self::Operator];

    fn as_str(self) -> &'static str {
        match self {
            Self::Enrollment => "enrollment",
            Self::Operator => "operator",
        }
    }
}

/// What failed attempts are counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailedBy {
    Address,
    EnrollmentToken,
}

impl FailedBy {
    fn as_str(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::EnrollmentToken => "enrollment_token",
        }
    }
}

pub fn zero_failures() {
    for attempt in Attempt::ALL {
        metrics::counter!(FAILED, "attempt" => attempt.as_str()).absolute(0);
    }
}

pub fn failed(attempt: Attempt) {
    metrics::counter!(FAILED, "attempt" => attempt.as_str()).increment(1);
}

pub fn failing(by: FailedBy, callers: u64) {
    metrics::gauge!(FAILING, "by" => by.as_str()).set(f64::from(u32::try_from(callers).unwrap_or(u32::MAX)));
}

pub fn limit(requests: u32) {
    metrics::gauge!(LIMIT).set(f64::from(requests));
}

pub fn under_way(class: &'static str, requests: u32) {
    metrics::gauge!(UNDER_WAY, "class" => class).set(f64::from(requests));
}

/// What is counted for each request of one class, looked up once.
pub struct ClassCounters {
    offered: metrics::Counter,
    shed: [metrics::Counter; Stage::ALL.len()],
}

impl ClassCounters {
    /// Counts with the recorder that is installed now.
    pub fn of(class: &'static str) -> Self {
        let shed = |stage: Stage| metrics::counter!(SHED, "class" => class, "stage" => stage.as_str());
        Self { offered: metrics::counter!(OFFERED, "class" => class), shed: Stage::ALL.map(shed) }
    }

    pub fn offered(&self) {
        self.offered.increment(1);
    }

    pub fn shed(&self, stage: Stage) {
        self.shed[stage as usize].increment(1);
    }
}
