//! A socket becomes a connection whose caller is known: PROXY header, TLS, verdict. All under one deadline.

use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use rustls::server::Acceptor;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::clearing::Clearing;
use super::peer::{Away, ConnInfo, Listener, Memo, Outcast, Pace, Peer};
use super::proxy;
use super::reload::TlsHandle;
use super::settings::ListenerSettings;
use crate::observe;
use crate::observe::net::Refusal;

/// From our own flight to the end of the handshake, and never beyond the deadline of all of it. Shorter: links with a round
/// trip of a second never get through.
const SHAKE_DEADLINE: Duration = Duration::from_secs(2);

/// Numbers the connections of the process.
static NUMBER: AtomicU64 = AtomicU64::new(1);

pub(super) fn next_number() -> u64 {
    NUMBER.fetch_add(1, Ordering::Relaxed)
}

/// What the handshakes of one listener share.
pub(super) struct Door {
    pub(super) settings: Arc<ListenerSettings>,
    tls: TlsHandle,
    pub(super) clearing: Clearing,
    handshakes: Semaphore,
    pub(super) unverified: Arc<Semaphore>,
}

/// A connection that may be served.
pub(super) struct Established {
    /// Boxed: the state machines that it passes through would each keep room for it, as long as the connection lasts.
    pub(super) stream: Box<TlsStream<TcpStream>>,
    pub(super) info: Arc<ConnInfo>,
    /// Held while a connection without a good certificate is open.
    pub(super) unverified: Option<OwnedSemaphorePermit>,
}

impl Established {
    pub(super) fn is_http2(&self) -> bool {
        self.stream.get_ref().1.alpn_protocol() == Some(b"h2")
    }
}

impl Door {
    pub(super) fn new(settings: Arc<ListenerSettings>, tls: TlsHandle, clearing: Clearing) -> Self {
        let handshakes = Semaphore::new(settings.handshakes_max);
        let unverified = Arc::new(Semaphore::new(settings.unverified.connections_max));
        Self { settings, tls, clearing, handshakes, unverified }
    }

    pub(super) fn listener(&self) -> Listener {
        self.tls.listener()
    }

    pub(super) async fn establish(&self, stream: TcpStream, socket: SocketAddr) -> Result<Established, Refusal> {
        let work = self.shake(stream, socket);
        let (stream, remote, peer) = match timeout(self.settings.handshake_deadline, work).await {
            Ok(outcome) => outcome?,
            Err(_) => return Err(Refusal::HandshakeTimeout),
        };
        let listener = self.listener();
        let unverified = match peer {
            Peer::None | Peer::Rejected(..) if listener == Listener::Device => {
                let permit = Arc::clone(&self.unverified).try_acquire_owned();
                Some(permit.map_err(|_| Refusal::UnverifiedPermits)?)
            }
            _ => None,
        };
        let info = Arc::new(ConnInfo {
            number: next_number(),
            remote,
            listener,
            peer,
            memo: Memo::default(),
            away: Away::default(),
            pace: Pace::default(),
            outcast: Outcast::default(),
        });
        Ok(Established { stream, info, unverified })
    }

    async fn shake(
        &self,
        mut stream: TcpStream,
        socket: SocketAddr,
    ) -> Result<(Box<TlsStream<TcpStream>>, SocketAddr, Peer), Refusal> {
        let mut remote = socket;
        if self.settings.proxy_peers.iter().any(|network| network.contains(socket.ip())) {
            let named = proxy::read(&mut stream).await.map_err(|error| proxy_refusal(&error, socket))?;
            remote = named.unwrap_or(socket);
        }
        let hello = LazyConfigAcceptor::new(Acceptor::default(), stream).await;
        let hello = hello.map_err(|error| tls_refusal(&error, remote))?;
        let began = Instant::now();
        let port = self.listener().port();
        // The semaphore is never closed.
        let turn = self.handshakes.acquire().await.map_err(|_| Refusal::Draining)?;
        let _held = observe::net::handshake_in_progress(port);
        let live = self.tls.live();
        let mut shaking = pin!(hello.into_stream(Arc::clone(&live.server)));
        // Makes our flight, which is nearly all of the work. Who falls silent then must not keep the turn: a few dozen such
        // callers a second would take all of them, and whoever waits behind them would be too late.
        let first = poll_fn(|cx| Poll::Ready(shaking.as_mut().poll(cx))).await;
        drop(turn);
        let shaken = match first {
            Poll::Ready(shaken) => shaken,
            Poll::Pending => timeout(SHAKE_DEADLINE, shaking).await.map_err(|_| Refusal::HandshakeTimeout)?,
        };
        let stream = Box::new(shaken.map_err(|error| tls_refusal(&error, remote))?);
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let peer = live.judge.as_ref().map_or(Peer::None, |judge| judge.judge(chain));
        observe::net::handshake(port, began.elapsed());
        Ok((stream, remote, peer))
    }
}

fn proxy_refusal(error: &proxy::ProxyError, socket: SocketAddr) -> Refusal {
    if matches!(error, proxy::ProxyError::Io(_)) {
        return Refusal::PeerLeft;
    }
    tracing::warn!(peer = %socket, %error, "a load balancer's connection was refused");
    Refusal::ProxyError
}

fn tls_refusal(error: &io::Error, remote: SocketAddr) -> Refusal {
    use ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    match error.kind() {
        UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe => Refusal::PeerLeft,
        _ => {
            tracing::debug!(peer = %remote, %error, "a TLS handshake failed");
            Refusal::TlsError
        }
    }
}
