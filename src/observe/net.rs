//! Listeners, handshakes, connections and the certificates they use.

use std::time::Duration;

use time::OffsetDateTime;

use super::{Metric, counter, gauge, seconds, timestamp};

const OPEN: &str = "everbeat_net_connections_open";
const ACCEPTED: &str = "everbeat_net_connections_accepted_total";
const REFUSED: &str = "everbeat_net_connections_refused_total";
const ENDED: &str = "everbeat_net_connections_ended_total";
const ACCEPT_ERRORS: &str = "everbeat_net_accept_errors_total";
const HANDSHAKES: &str = "everbeat_net_handshakes_in_progress";
const HANDSHAKE: &str = "everbeat_net_handshake_seconds";
const VERDICTS: &str = "everbeat_net_certificate_verdicts_total";
const RELOADS: &str = "everbeat_net_reloads_total";
pub const EXPIRY: &str = "everbeat_net_server_certificate_expiry_timestamp_seconds";

pub(super) const METRICS: &[Metric] = &[
    gauge(OPEN, "Connections that hold a permit, those in the handshake included, by listener."),
    counter(ACCEPTED, "Connections taken from the kernel, by listener."),
    counter(REFUSED, "Connections closed before a request could be served, by listener and reason."),
    counter(ENDED, "Connections that were served and have ended, by listener and cause."),
    counter(ACCEPT_ERRORS, "Failures of accept(2) that needed a pause (file descriptors, memory), by listener."),
    gauge(HANDSHAKES, "TLS handshakes that hold a permit, by listener."),
    seconds(HANDSHAKE, "From the ClientHello to the end of a successful handshake, by listener."),
    counter(VERDICTS, "Client certificates judged after the handshake, by listener and verdict."),
    counter(RELOADS, "Loads of certificates, keys and CA bundles after the start, by listener and outcome."),
    gauge(EXPIRY, "When the server certificate in use ends, in seconds since 1970, by listener."),
];

macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_doc])* $variant),* }

        impl $name {
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }
        }
    };
}

label!(
    /// The listener, as a label.
    Port { Device = "device", Admin = "admin", Ops = "ops", }
);
label!(
    /// Why a connection was closed before it could be served.
    Refusal {
        /// As many connections are open as are allowed.
        Permits = "permits",
        /// As many connections without a good certificate are open as are allowed.
        UnverifiedPermits = "unverified_permits",
        HandshakeTimeout = "handshake_timeout",
        TlsError = "tls_error",
        ProxyError = "proxy_error",
        /// The caller left in the handshake; a load balancer's TCP check looks like this.
        PeerLeft = "peer_left",
        Draining = "draining",
    }
);
label!(
    /// Why a served connection ended.
    Ending {
        /// The caller closed it, or asked for that.
        Peer = "peer",
        /// A violation of HTTP, or the connection broke.
        Error = "error",
        FirstRequestTimeout = "first_request_timeout",
        Idle = "idle",
        Age = "age",
        /// It served as many requests as it may.
        Requests = "requests",
        /// Its certificate is no good any more, and there are too many of those.
        Outcast = "outcast",
        /// It did not end in time after it was asked to.
        Linger = "linger",
        /// This replica is cut off from the database: another may be well.
        Blind = "blind",
        Drain = "drain",
        Abort = "abort",
    }
);
label!(
    /// What was found of a client certificate.
    Verdict {
        None = "none",
        Verified = "verified",
        Expired = "expired",
        NotYetValid = "not_yet_valid",
        UntrustedIssuer = "untrusted_issuer",
        WrongUse = "wrong_use",
        Malformed = "malformed",
    }
);
label!(
    /// How a reload of TLS files ended.
    Reload { Swapped = "swapped", Unchanged = "unchanged", Failed = "failed", }
);

pub(super) fn zero() {
    for port in Port::ALL {
        let listener = port.as_str();
        metrics::gauge!(OPEN, "listener" => listener).set(0.0);
        metrics::counter!(ACCEPTED, "listener" => listener).absolute(0);
        metrics::counter!(ACCEPT_ERRORS, "listener" => listener).absolute(0);
        for reason in Refusal::ALL {
            metrics::counter!(REFUSED, "listener" => listener, "reason" => reason.as_str()).absolute(0);
        }
        for cause in Ending::ALL {
            metrics::counter!(ENDED, "listener" => listener, "cause" => cause.as_str()).absolute(0);
        }
    }
    for listener in [Port::Device.as_str(), Port::Admin.as_str()] {
        metrics::gauge!(HANDSHAKES, "listener" => listener).set(0.0);
        for verdict in Verdict::ALL {
            metrics::counter!(VERDICTS, "listener" => listener, "verdict" => verdict.as_str()).absolute(0);
        }
        for outcome in Reload::ALL {
            metrics::counter!(RELOADS, "listener" => listener, "outcome" => outcome.as_str()).absolute(0);
        }
    }
}

/// Counts one up while it lives.
#[derive(Debug)]
pub struct Held {
    name: &'static str,
    listener: &'static str,
}

impl Held {
    fn new(name: &'static str, port: Port) -> Self {
        metrics::gauge!(name, "listener" => port.as_str()).increment(1.0);
        Self { name, listener: port.as_str() }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        metrics::gauge!(self.name, "listener" => self.listener).decrement(1.0);
    }
}

/// A connection is open while the result lives.
pub fn connection_open(port: Port) -> Held {
    Held::new(OPEN, port)
}

/// A handshake goes on while the result lives.
pub fn handshake_in_progress(port: Port) -> Held {
    Held::new(HANDSHAKES, port)
}

pub fn accepted(port: Port) {
    metrics::counter!(ACCEPTED, "listener" => port.as_str()).increment(1);
}

pub fn accept_error(port: Port) {
    metrics::counter!(ACCEPT_ERRORS, "listener" => port.as_str()).increment(1);
}

pub fn refused(port: Port, reason: Refusal) {
    metrics::counter!(REFUSED, "listener" => port.as_str(), "reason" => reason.as_str()).increment(1);
}

pub fn ended(port: Port, cause: Ending) {
    metrics::counter!(ENDED, "listener" => port.as_str(), "cause" => cause.as_str()).increment(1);
}

pub fn handshake(port: Port, took: Duration) {
    metrics::histogram!(HANDSHAKE, "listener" => port.as_str()).record(took.as_secs_f64());
}

pub fn verdict(port: Port, verdict: Verdict) {
    metrics::counter!(VERDICTS, "listener" => port.as_str(), "verdict" => verdict.as_str()).increment(1);
}

pub fn reload(port: Port, outcome: Reload) {
    metrics::counter!(RELOADS, "listener" => port.as_str(), "outcome" => outcome.as_str()).increment(1);
}

pub fn certificate_expiry(port: Port, at: OffsetDateTime) {
    metrics::gauge!(EXPIRY, "listener" => port.as_str()).set(timestamp(at));
}
