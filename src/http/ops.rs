//! `/livez`, `/readyz`, `/metrics`. For machines inside: no host, address or setting is named.

use std::fmt::Write;
use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;

use super::api::OpsApi;
use super::error::AsItIs;
use super::routes::{EXPOSITION, TEXT};
use crate::lifecycle::readiness::{Check, Readiness};
use crate::observe::process;

/// The process turns. What else is wrong, a restart would not mend.
pub async fn livez() -> impl IntoResponse {
    ([(CONTENT_TYPE, TEXT)], "ok\n")
}

/// It should get traffic.
pub async fn readyz(State(api): State<Arc<OpsApi>>, RawQuery(query): RawQuery) -> impl IntoResponse {
    let ready = api.readiness.is_ready();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let verbose =
        query.is_some_and(|query| query.split('&').any(|part| part == "verbose" || part.starts_with("verbose=")));
    let text = match (verbose, ready) {
        (true, _) => lines(&api.readiness),
        (false, true) => "ready\n".to_owned(),
        (false, false) => "not ready\n".to_owned(),
    };
    AsItIs::mark((status, [(CONTENT_TYPE, TEXT)], text))
}

pub async fn metrics(State(api): State<Arc<OpsApi>>) -> impl IntoResponse {
    process::collect();
    ([(CONTENT_TYPE, EXPOSITION)], api.metrics.render())
}

fn lines(readiness: &Readiness) -> String {
    let mut text = String::new();
    for check in Check::ALL {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{} {}", if readiness.get(check) { "ok" } else { "failed" }, check.as_str());
    }
    let _ = writeln!(text, "{} durability", if readiness.is_degraded() { "degraded" } else { "ok" });
    text
}
