//! Accept loops. Each connection runs in a task of its own from its first byte, so that no caller waits for the
//! handshake of another.

use std::convert::Infallible;
use std::error::Error;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body::Body;
use hyper::body::Incoming;
use hyper::{Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::activity::{Activity, Counted};
use super::clearing::Clearing;
use super::conn::{Door, Established, next_number};
use super::drive::{self, Bounds, Signals, Strangers};
use super::listen;
use super::peer::Listener;
use super::reload::TlsHandle;
use super::settings::{ConnectionSettings, ListenerSettings};
use super::waiting::{Place, Waiting};
use crate::lifecycle::tasks::Tasks;
use crate::observe;
use crate::observe::net::{Ending, Port, Refusal};

/// How long the accept loop waits for a connection that was told to give way. It takes a turn of the scheduler; one that got
/// through its handshake at the same moment stays. Longer: nobody is accepted meanwhile.
const GIVE_WAY_MAX: Duration = Duration::from_millis(100);

/// Short for the bounds on a service; every type that meets them has it. `axum::Router` does.
pub trait HttpService:
    tower::Service<Request<Incoming>, Response = Response<Self::Body>, Error = Infallible, Future: Send>
    + Clone
    + Send
    + 'static
{
    type Body: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + Unpin + 'static;
}

impl<S, B> HttpService for S
where
    S: tower::Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send>,
    S: Clone + Send + 'static,
    B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + Unpin + 'static,
{
    type Body = B;
}

/// Accepts and serves TLS connections until the drain begins, then closes the socket and returns; the connections go
/// on as tracked tasks. Run it as an essential task.
///
/// Each request has an `Arc<ConnInfo>` among its extensions. `clearing` asks connections to leave.
pub async fn serve<S: HttpService>(
    listener: TcpListener,
    settings: Arc<ListenerSettings>,
    tls: TlsHandle,
    clearing: Clearing,
    tasks: Tasks,
    service: S,
) {
    let (port, connections_max) = (tls.listener().port(), settings.connections.connections_max);
    let door = Arc::new(Door::new(settings, tls, clearing));
    let run =
        |stream, socket, place| serve_tls(Arc::clone(&door), (stream, socket), place, tasks.clone(), service.clone());
    accept_loop(listener, port, connections_max, &tasks, run).await;
}

/// The same without TLS and without [`super::ConnInfo`], HTTP/1 only: for the ops listener, on loopback or an
/// internal network.
pub async fn serve_plain<S: HttpService>(
    listener: TcpListener,
    settings: Arc<ConnectionSettings>,
    tasks: Tasks,
    service: S,
) {
    let connections_max = settings.connections_max;
    let clearing = Clearing::never();
    let run = |stream, _, place| {
        let (settings, tasks, service) = (Arc::clone(&settings), tasks.clone(), service.clone());
        let clearing = clearing.clone();
        // There is no handshake that it could wait for.
        drop::<Place>(place);
        async move {
            let bounds = Bounds::new(&settings, next_number());
            let service = Counted { inner: service, activity: Arc::new(Activity::default()), info: None };
            let ending =
                drive::http1(stream, service, &bounds, Signals { tasks: &tasks, clearing, strangers: None }).await;
            observe::net::ended(Port::Ops, ending);
        }
    };
    accept_loop(listener, Port::Ops, connections_max, &tasks, run).await;
}

/// Takes connections and runs each with a permit, until the drain begins. Owns the socket: it closes at the end.
async fn accept_loop<R, F>(listener: TcpListener, port: Port, connections_max: usize, tasks: &Tasks, run: R)
where
    R: Fn(TcpStream, SocketAddr, Place) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let (permits, waiting) = (Arc::new(Semaphore::new(connections_max)), Waiting::default());
    loop {
        let (stream, socket) = tokio::select! {
            biased;
            () = tasks.shutdown().draining() => return,
            accepted = listen::accept(&listener, port) => accepted,
        };
        let Some(permit) = room(&permits, &waiting).await else {
            observe::net::refused(port, Refusal::Permits);
            continue;
        };
        let open = observe::net::connection_open(port);
        let work = run(stream, socket, waiting.join());
        tasks.tracked(async move {
            work.await;
            drop((permit, open));
        });
    }
}

/// A permit: a free one, or that of the connection that has been longest without a handshake. Who was told to go gives it
/// back at its next turn.
async fn room(permits: &Arc<Semaphore>, waiting: &Waiting) -> Option<OwnedSemaphorePermit> {
    if let Ok(permit) = Arc::clone(permits).try_acquire_owned() {
        return Some(permit);
    }
    if !waiting.make_room() {
        return None;
    }
    timeout(GIVE_WAY_MAX, Arc::clone(permits).acquire_owned()).await.ok()?.ok()
}

async fn serve_tls<S: HttpService>(
    door: Arc<Door>,
    (stream, socket): (TcpStream, SocketAddr),
    mut place: Place,
    tasks: Tasks,
    service: S,
) {
    let port = door.listener().port();
    // Boxed: a connection lasts for days, and its handshake for a moment.
    let handshake = Box::pin(door.establish(stream, socket));
    let established = tokio::select! {
        established = handshake => established,
        () = place.gone() => Err(Refusal::Permits),
        // No request is lost: none was read.
        () = tasks.shutdown().draining() => Err(Refusal::Draining),
    };
    drop(place);
    match established {
        Ok(established) => observe::net::ended(port, serve_established(&door, established, &tasks, service).await),
        Err(reason) => observe::net::refused(port, reason),
    }
}

async fn serve_established<S: HttpService>(door: &Door, established: Established, tasks: &Tasks, service: S) -> Ending {
    let is_http2 = established.is_http2();
    let Established { stream, info, unverified } = established;
    let bounds = Bounds::new(&door.settings.connections, info.number);
    let bounds = match unverified {
        Some(_) => bounds.narrowed(&door.settings.unverified, Duration::ZERO, 0),
        None => bounds,
    };
    let strangers = match (&unverified, door.listener()) {
        (None, Listener::Device) => {
            Some(Strangers { places: &door.unverified, settings: &door.settings.unverified, info: Arc::clone(&info) })
        }
        _ => None,
    };
    let signals = Signals { tasks, clearing: door.clearing.of(Arc::clone(&info)), strangers };
    let service = Counted { inner: service, activity: Arc::new(Activity::default()), info: Some(info) };
    // Boxed: the two state machines differ in size, and most connections wait in one of them.
    let ending = if is_http2 {
        Box::pin(drive::http2(stream, service, &bounds, signals)).await
    } else {
        Box::pin(drive::http1(stream, service, &bounds, signals)).await
    };
    drop(unverified);
    ending
}
