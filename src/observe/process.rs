//! The process itself: memory, file descriptors, CPU (names of the Prometheus client libraries), and the build.

use super::{Metric, gauge};

pub(super) const METRICS: &[Metric] = &[gauge("everbeat_build_info", "Always 1; the label names the version.")];

/// Refreshes the process's own figures. Called at each scrape.
pub fn collect() {
    metrics::gauge!("everbeat_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    metrics_process::Collector::default().collect();
}
