//! What we tell the people who run Everbeat: logs, and every metric with its name, unit, help and labels.
//! Label values come from closed enums; never from a device, an address or anything a client sent.

pub mod admission;
pub mod http;
pub mod identity;
pub mod ingest;
pub mod jobs;
pub mod log;
pub mod net;
pub mod presence;
pub mod process;
pub mod store;

use metrics::Unit;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// A metric's entry in the catalogue.
pub struct Metric {
    pub kind: Kind,
    pub name: &'static str,
    pub unit: Option<Unit>,
    pub help: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

pub(crate) const fn counter(name: &'static str, help: &'static str) -> Metric {
    Metric { kind: Kind::Counter, name, unit: None, help }
}

pub(crate) const fn gauge(name: &'static str, help: &'static str) -> Metric {
    Metric { kind: Kind::Gauge, name, unit: None, help }
}

pub(crate) const fn seconds(name: &'static str, help: &'static str) -> Metric {
    Metric { kind: Kind::Histogram, name, unit: Some(Unit::Seconds), help }
}

pub(crate) const fn sizes(name: &'static str, help: &'static str) -> Metric {
    Metric { kind: Kind::Histogram, name, unit: Some(Unit::Count), help }
}

/// The whole catalogue: one slice for each module that is measured.
pub const CATALOGUE: &[&[Metric]] = &[
    admission::METRICS,
    http::METRICS,
    identity::METRICS,
    ingest::METRICS,
    jobs::METRICS,
    net::METRICS,
    presence::METRICS,
    process::METRICS,
    store::METRICS,
];

/// Upper bounds of latency buckets, in seconds: from a cached answer to the longest deadline.
const SECONDS: &[f64] = &[0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];
/// Upper bounds of size buckets (rows, items).
const SIZES: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0];

/// A time as a gauge, in seconds since 1970. Beyond 2^32 seconds no practical certificate ends; the gauge then shows
/// the largest value it can.
pub(crate) fn timestamp(at: time::OffsetDateTime) -> f64 {
    f64::from(u32::try_from(at.unix_timestamp().max(0)).unwrap_or(u32::MAX))
}

/// Installs the process's recorder, describes every metric and starts the series at zero.
///
/// # Errors
/// When a recorder is installed already.
pub fn install() -> Result<PrometheusHandle, metrics_exporter_prometheus::BuildError> {
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_rows".into()), SIZES)?;
    let handle = builder.install_recorder()?;
    describe();
    Ok(handle)
}

fn describe() {
    for metric in CATALOGUE.iter().copied().flatten() {
        let (name, help) = (metric.name, metric.help);
        match (metric.kind, metric.unit) {
            (Kind::Counter, _) => metrics::describe_counter!(name, help),
            (Kind::Gauge, _) => metrics::describe_gauge!(name, help),
            (Kind::Histogram, Some(unit)) => metrics::describe_histogram!(name, unit, help),
            (Kind::Histogram, None) => metrics::describe_histogram!(name, help),
        }
    }
    http::zero();
    identity::zero();
    ingest::zero();
    net::zero();
    presence::zero();
    store::zero();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_conventions_and_occur_once() {
        let mut seen = std::collections::HashSet::new();
        for metric in CATALOGUE.iter().copied().flatten() {
            assert!(seen.insert(metric.name), "{} occurs twice", metric.name);
            assert!(metric.name.starts_with("everbeat_"), "{}", metric.name);
            assert!(metric.help.ends_with('.'), "{}: the help is a sentence", metric.name);
            let ends = |suffixes: &[&str]| suffixes.iter().any(|s| metric.name.ends_with(s));
            match metric.kind {
                Kind::Counter => assert!(ends(&["_total"]), "{}", metric.name),
                Kind::Histogram => assert!(ends(&["_seconds", "_rows"]), "{}", metric.name),
                Kind::Gauge => assert!(!ends(&["_total"]), "{}", metric.name),
            }
        }
    }
}
