//! From a socket to a connection whose peer is judged, and HTTP on it.
//!
//! ```text
//! accept -> connection permit -> PROXY v2 (trusted peers only) -> ClientHello -> handshake permit -> TLS
//!        -> verdict on the client certificate (`Peer`) -> HTTP/1 or HTTP/2 by ALPN -> the service
//! ```
//!
//! Invariants
//! - Nothing that a caller does or leaves undone holds a connection open without a deadline: the handshake (PROXY
//!   header included), the first request, idle time, age, and the end itself are each bounded.
//! - TLS proves that the caller has the key of the certificate it shows, and never ends for a certificate's path;
//!   the verdict is a value ([`Peer`]) that the routes judge. The exception is an admin listener that *requires*
//!   client certificates.
//! - A PROXY header is required from configured peers and never parsed from others.
//! - The TLS configuration in use is always one that was loaded and checked as a whole.
//! - Connections are asked to leave one by one while the replica cannot do its work ([`Clearing`]), never all at once.
//! - Sessions are never resumed: each connection shows its certificate again.
//!
//! Deliberately absent: `axum::serve` (its handshakes run one after the other behind a listener of our own),
//! hyper-util's `auto` builder (no deadline while it sniffs), CRLs (the database decides what is revoked), SNI (one
//! certificate for each listener), deadlines for request bodies (they belong to the route).

mod activity;
mod clearing;
mod conn;
mod drive;
mod listen;
mod peer;
mod proxy;
mod reload;
mod serve;
mod settings;
mod tls;
mod verify;
mod waiting;

#[cfg(test)]
mod tests;

pub use clearing::Clearing;
pub use listen::bind;
pub use peer::{Away, ConnInfo, Listener, Memo, Outcast, Pace, Peer, PeerCert, Rejection};
#[doc(hidden)]
pub use proxy::read as read_proxy_header;
pub use reload::{Reloaded, TlsHandle};
pub use serve::{HttpService, serve, serve_plain};
pub use settings::{
    ClientAuth, ConnectionSettings, ListenerSettings, Network, NotANetwork, TlsSettings, UnverifiedSettings,
};
pub use tls::{ClientCas, TlsError};

/// Names the process's cryptography: aws-lc-rs. A second call changes nothing.
pub fn install_provider() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
