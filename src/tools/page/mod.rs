//! Reports as one page of HTML that needs nothing else: styles and pictures are inside it, nothing is fetched, nothing
//! runs.

pub mod chart;
pub mod markup;

use markup::{Markup, tag, text};

const STYLE: &str = include_str!("style.css");

/// The whole page.
pub fn document(title: &str, parts: Vec<Markup>) -> String {
    let head = tag(
        "head",
        &[],
        [
            tag("meta", &[("charset", "utf-8")], []),
            tag("meta", &[("name", "viewport"), ("content", "width=device-width, initial-scale=1")], []),
            tag("meta", &[("name", "color-scheme"), ("content", "light dark")], []),
            tag("title", &[], [text(title)]),
            Markup::style(STYLE),
        ],
    );
    let body = tag("body", &[], [tag("main", &[], parts)]);
    format!("<!doctype html>\n{}\n", tag("html", &[("lang", "en")], [head, body]).into_html())
}
