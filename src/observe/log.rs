//! Structured logs on standard error: for people, or one JSON object a line.

use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    Human,
    Json,
}

/// The target of what a replica says about the leases that it believes to hold.
pub const BELIEF: &str = "belief";

/// Installs the process's subscriber. `filter`: the directives of tracing-subscriber's EnvFilter
/// (`info,everbeat=debug`). `drill`: what has the target [`BELIEF`] also goes to standard output, one JSON object a
/// line, whatever format and filter say. A second call changes nothing.
///
/// # Errors
/// When the filter cannot be parsed; the message says where.
pub fn install(format: Format, filter: &str, drill: bool) -> Result<(), String> {
    let filter = parse(filter)?;
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        Format::Human => lines.with_target(false).boxed(),
        Format::Json => lines.json().flatten_event(true).with_current_span(true).with_span_list(false).boxed(),
    };
    let beliefs = drill.then(|| {
        let plain = fmt::layer().json().flatten_event(true).with_current_span(false).with_span_list(false);
        plain.with_writer(std::io::stdout).with_filter(Targets::new().with_target(BELIEF, Level::INFO))
    });
    let _ = tracing_subscriber::registry().with(lines.with_filter(filter)).with(beliefs).try_init();
    Ok(())
}

/// Could the filter be installed?
///
/// # Errors
/// As for [`install`].
pub fn check(filter: &str) -> Result<(), String> {
    parse(filter).map(drop)
}

/// Libraries that write a line for whatever a caller sends: a PING that nobody asked for has 17 bytes, and its line ten
/// times as many. A directive of the filter's own for one of them counts instead.
const QUIET: &str = "h2=error,rustls=error";

fn parse(filter: &str) -> Result<EnvFilter, String> {
    // By itself first: joined, a mistake would be reported of a text that nobody wrote.
    EnvFilter::try_new(filter).map_err(|error| format!("log filter {filter:?}: {error}"))?;
    // As EnvFilter takes an empty one.
    let filter = if filter.trim().is_empty() { "error" } else { filter };
    EnvFilter::try_new(format!("{QUIET},{filter}")).map_err(|error| format!("log filter {filter:?}: {error}"))
}

#[cfg(test)]
mod tests {
    use tracing::enabled;

    use super::*;

    /// Is a warning of h2 written, and one of ours?
    fn warns(filter: &str) -> (bool, bool) {
        let subscriber = tracing_subscriber::registry().with(parse(filter).unwrap());
        tracing::subscriber::with_default(subscriber, || {
            (enabled!(target: "h2::proto::ping_pong", Level::WARN), enabled!(target: "everbeat::net", Level::WARN))
        })
    }

    #[test]
    fn callers_do_not_write_the_log_through_libraries() {
        assert_eq!(warns("info"), (false, true));
        assert_eq!(warns(""), (false, false));
        assert_eq!(warns("warn,everbeat=debug"), (false, true));
        assert_eq!(warns("info,h2=debug"), (true, true), "who asks for it gets it");
        assert!(check("info,everbeat=loud").is_err());
    }
}
