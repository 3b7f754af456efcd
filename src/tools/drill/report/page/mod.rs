//! One page that needs nothing else: styles and pictures are inside it, nothing is fetched, nothing runs.

mod chart;
mod markup;
mod scenario;
mod summary;
mod timeline;

use self::markup::{Markup, tag, text};
use super::RunReport;

const STYLE: &str = include_str!("style.css");

/// The report as HTML.
pub fn page(report: &RunReport) -> String {
    let title = format!("Everbeat drill: {}", if report.passed() { "pass" } else { "FAIL" });
    let head = tag(
        "head",
        &[],
        [
            tag("meta", &[("charset", "utf-8")], []),
            tag("meta", &[("name", "viewport"), ("content", "width=device-width, initial-scale=1")], []),
            tag("meta", &[("name", "color-scheme"), ("content", "light dark")], []),
            tag("title", &[], [text(&title)]),
            Markup::style(STYLE),
        ],
    );
    let mut parts = vec![summary::banner(report), summary::failures(report), summary::table(report)];
    parts.extend(report.scenarios.iter().map(|of| scenario::section(report, of)));
    let body = tag("body", &[], [tag("main", &[], parts)]);
    format!("<!doctype html>\n{}\n", tag("html", &[("lang", "en")], [head, body]).into_html())
}
