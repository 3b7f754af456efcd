//! How a route speaks of errors. The table of routes says which it is; whoever makes the error, the guard, the body's
//! limits, admission or the handler, it comes out alike.

use super::error::PROBLEM_JSON;
use crate::wire::problem::Problem;

/// Media type of an error where EST is spoken (RFC 7030, 4.2.3: text for people, if any).
pub const PLAIN_TEXT: &str = "text/plain; charset=utf-8";
/// Below it RFC 7030 has its paths (3.2.2), with a CA's label or without.
const EST_PATH: &str = "/.well-known/est/";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// RFC 9457.
    Problems,
    /// The same with a code of RFC 6749.
    OAuth,
    /// Plain text, and challenges of HTTP Basic (RFC 7030, 3.2.3).
    Est,
}

impl Dialect {
    /// Of a path that no route takes.
    pub fn of(path: &str) -> Self {
        if path.starts_with(EST_PATH) { Self::Est } else { Self::Problems }
    }

    /// The media type of an error.
    pub fn media(self) -> &'static str {
        match self {
            Self::Problems | Self::OAuth => PROBLEM_JSON,
            Self::Est => PLAIN_TEXT,
        }
    }

    /// The body of an error.
    pub fn write(self, problem: &Problem) -> String {
        match self {
            Self::Problems | Self::OAuth => serde_json::to_string(problem).unwrap_or_default(),
            Self::Est => in_words(problem),
        }
    }
}

/// What is wrong, and what to do. A pointer may be a word of the caller's, and there is no JSON to point into.
fn in_words(problem: &Problem) -> String {
    let mut details: Vec<&str> = problem.errors.iter().map(|error| error.detail.as_str()).collect();
    if details.is_empty() {
        details.extend(problem.detail.as_deref());
    }
    details.iter().fold(format!("{}.\n", problem.title), |text, detail| format!("{text}{detail}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::table;

    #[test]
    fn what_is_below_ests_path_speaks_est_and_nothing_else_does() {
        for info in table() {
            assert_eq!(info.dialect == Dialect::Est, Dialect::of(info.path) == Dialect::Est, "{}", info.path);
        }
        for path in ["/.well-known/est/label/simpleenroll", "/.well-known/est/fullcmc", "/.well-known/est/"] {
            assert_eq!(Dialect::of(path), Dialect::Est);
        }
        for path in ["/.well-known/est", "/.well-known/estonia", "/v1/.well-known/est/cacerts"] {
            assert_eq!(Dialect::of(path), Dialect::Problems);
        }
    }
}
