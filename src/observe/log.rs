//! Structured logs on standard error: for people, or one JSON object a line.

use tracing_subscriber::EnvFilter;

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    Human,
    Json,
}

/// Installs the process's subscriber. `filter`: the directives of tracing-subscriber's EnvFilter
/// (`info,everbeat=debug`). A second call changes nothing.
///
/// # Errors
/// When the filter cannot be parsed; the message says where.
pub fn install(format: Format, filter: &str) -> Result<(), String> {
    let filter = parse(filter)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let _ = match format {
        Format::Human => builder.with_target(false).try_init(),
        Format::Json => builder.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init(),
    };
    Ok(())
}

/// Could the filter be installed?
///
/// # Errors
/// As for [`install`].
pub fn check(filter: &str) -> Result<(), String> {
    parse(filter).map(drop)
}

fn parse(filter: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(filter).map_err(|error| format!("log filter {filter:?}: {error}"))
}
