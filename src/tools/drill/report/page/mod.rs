//! One page that needs nothing else: styles and pictures are inside it, nothing is fetched, nothing runs.

mod scenario;
mod summary;
mod timeline;

use super::RunReport;
use crate::tools::page;

/// The report as HTML.
pub fn page(report: &RunReport) -> String {
    let title = format!("Everbeat drill: {}", if report.passed() { "pass" } else { "FAIL" });
    let mut parts = vec![summary::banner(report), summary::failures(report), summary::table(report)];
    parts.extend(report.scenarios.iter().map(|of| scenario::section(report, of)));
    page::document(&title, parts)
}
