//! Requests, by listener and route. Routes are the templates of the table (a closed set) or `unmatched`.

use std::time::Duration;

use super::net::Port;
use super::{Metric, counter, gauge, seconds};

const REQUESTS: &str = "everbeat_http_requests_total";
const SECONDS: &str = "everbeat_http_request_seconds";
const IN_FLIGHT: &str = "everbeat_http_requests_in_flight";
const PANICS: &str = "everbeat_http_panics_total";

pub(super) const METRICS: &[Metric] = &[
    counter(REQUESTS, "Requests that ended, by listener, route, method and status (`gone`: the caller left first)."),
    seconds(SECONDS, "From the end of the header section to the answer's, by listener and route."),
    gauge(IN_FLIGHT, "Requests that have no answer yet, by listener."),
    counter(PANICS, "Requests whose handler panicked, by listener."),
];

/// The route of a request that no route of the table took.
pub const UNMATCHED: &str = "unmatched";

/// What a request is counted under.
#[derive(Clone, Copy, Debug)]
pub struct Series {
    pub port: Port,
    /// The template, as in the table.
    pub route: &'static str,
    pub method: &'static str,
}

/// A request without an answer. Dropped before [`InFlight::answered`]: the caller left.
#[derive(Debug)]
pub struct InFlight {
    series: Series,
    begun: tokio::time::Instant,
    status: &'static str,
}

pub(super) fn zero() {
    for port in Port::ALL {
        metrics::gauge!(IN_FLIGHT, "listener" => port.as_str()).set(0.0);
        metrics::counter!(PANICS, "listener" => port.as_str()).absolute(0);
    }
}

/// Starts the series of a route at zero; called once for each row of the table.
pub fn register(series: Series) {
    count(series, "200", 0);
}

pub fn begin(series: Series) -> InFlight {
    metrics::gauge!(IN_FLIGHT, "listener" => series.port.as_str()).increment(1.0);
    InFlight { series, begun: tokio::time::Instant::now(), status: "gone" }
}

pub fn panicked(port: Port) {
    metrics::counter!(PANICS, "listener" => port.as_str()).increment(1);
}

impl InFlight {
    /// Ends the measurement, and says how long it took.
    pub fn answered(mut self, status: u16) -> Duration {
        self.status = label(status);
        self.begun.elapsed()
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let listener = self.series.port.as_str();
        metrics::gauge!(IN_FLIGHT, "listener" => listener).decrement(1.0);
        metrics::histogram!(SECONDS, "listener" => listener, "route" => self.series.route)
            .record(self.begun.elapsed().as_secs_f64());
        count(self.series, self.status, 1);
    }
}

fn count(series: Series, status: &'static str, n: u64) {
    let Series { port, route, method } = series;
    metrics::counter!(REQUESTS, "listener" => port.as_str(), "route" => route, "method" => method, "status" => status)
        .increment(n);
}

/// The statuses that we answer with; a label is never made of anything else.
fn label(status: u16) -> &'static str {
    const KNOWN: &[(u16, &str)] = &[
        (200, "200"),
        (201, "201"),
        (202, "202"),
        (204, "204"),
        (207, "207"),
        (304, "304"),
        (400, "400"),
        (401, "401"),
        (403, "403"),
        (404, "404"),
        (405, "405"),
        (406, "406"),
        (408, "408"),
        (409, "409"),
        (412, "412"),
        (413, "413"),
        (415, "415"),
        (422, "422"),
        (429, "429"),
        (500, "500"),
        (503, "503"),
    ];
    KNOWN.iter().find(|(code, _)| *code == status).map_or("other", |(_, text)| text)
}
