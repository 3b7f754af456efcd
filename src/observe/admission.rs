//! Who was let in, and who was not.

use super::{Metric, counter, gauge};

const LIMIT: &str = "everbeat_admission_limit_requests";
const UNDER_WAY: &str = "everbeat_admission_under_way_requests";
const OFFERED: &str = "everbeat_admission_offered_total";
const SHED: &str = "everbeat_admission_shed_total";

pub(super) const METRICS: &[Metric] = &[
    gauge(
        LIMIT,
        "Requests under way from which on some are refused, as the latency of commits allows; at twice of it all are.",
    ),
    gauge(UNDER_WAY, "Requests that are under way, by class."),
    counter(OFFERED, "Requests that asked to be let in, by class."),
    counter(SHED, "Requests that were not served, by class and by what refused them. Offered less shed is accepted."),
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
}

impl Stage {
    const ALL: [Self; 4] = [Self::Concurrency, Self::Deadline, Self::DeviceRate, Self::FleetRate];

    fn as_str(self) -> &'static str {
        match self {
            Self::Concurrency => "concurrency",
            Self::Deadline => "deadline",
            Self::DeviceRate => "device_rate",
            Self::FleetRate => "fleet_rate",
        }
    }
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
