//! Requests, by listener and route. Routes are the templates of the table (a closed set) or `unmatched`.

use std::sync::{Arc, OnceLock};
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

/// What the requests of one route are counted under.
#[derive(Clone, Copy, Debug)]
pub struct Series {
    pub port: Port,
    /// The template, as in the table.
    pub route: &'static str,
    pub method: &'static str,
}

/// The metrics of one route, looked up once.
pub struct RouteMetrics {
    pub series: Series,
    in_flight: metrics::Gauge,
    seconds: metrics::Histogram,
    /// As [`STATUSES`].
    requests: [OnceLock<metrics::Counter>; STATUSES.len()],
}

/// A request without an answer. Dropped before [`InFlight::answered`]: the caller left.
pub struct InFlight {
    route: Arc<RouteMetrics>,
    begun: tokio::time::Instant,
    /// Once there is an answer.
    took: Option<Duration>,
    /// Place in [`STATUSES`].
    status: usize,
}

pub(super) fn zero() {
    for port in Port::ALL {
        metrics::gauge!(IN_FLIGHT, "listener" => port.as_str()).set(0.0);
        metrics::counter!(PANICS, "listener" => port.as_str()).absolute(0);
    }
}

pub fn panicked(port: Port) {
    metrics::counter!(PANICS, "listener" => port.as_str()).increment(1);
}

impl RouteMetrics {
    /// Counts with the recorder that is installed now, from zero.
    pub fn new(series: Series) -> Arc<Self> {
        let Series { port, route, .. } = series;
        let this = Self {
            series,
            in_flight: metrics::gauge!(IN_FLIGHT, "listener" => port.as_str()),
            seconds: metrics::histogram!(SECONDS, "listener" => port.as_str(), "route" => route),
            requests: [const { OnceLock::new() }; STATUSES.len()],
        };
        this.count(place(200), 0);
        Arc::new(this)
    }

    pub fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.increment(1.0);
        InFlight { route: self.clone(), begun: tokio::time::Instant::now(), took: None, status: GONE }
    }

    /// A status has a series from its first answer on.
    fn count(&self, status: usize, n: u64) {
        let Series { port, route, method } = self.series;
        let counter = self.requests[status].get_or_init(|| {
            let (listener, status) = (port.as_str(), STATUSES[status].1);
            metrics::counter!(REQUESTS, "listener" => listener, "route" => route, "method" => method, "status" => status)
        });
        counter.increment(n);
    }
}

impl InFlight {
    /// Ends the measurement, and says how long it took.
    pub fn answered(mut self, status: u16) -> Duration {
        self.status = place(status);
        *self.took.insert(self.begun.elapsed())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.route.in_flight.decrement(1.0);
        let took = self.took.unwrap_or_else(|| self.begun.elapsed());
        self.route.seconds.record(took.as_secs_f64());
        self.route.count(self.status, 1);
    }
}

/// The statuses that we answer with; a label is never made of anything else.
const STATUSES: [(u16, &str); 23] = [
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
    (0, "other"),
    (0, "gone"),
];
const OTHER: usize = STATUSES.len() - 2;
const GONE: usize = STATUSES.len() - 1;

/// Of a status in [`STATUSES`].
fn place(status: u16) -> usize {
    STATUSES.iter().position(|(code, _)| *code == status).filter(|place| *place < OTHER).unwrap_or(OTHER)
}
