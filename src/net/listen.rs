//! Listening sockets and the sockets they give.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};

use crate::observe;
use crate::observe::net::Port;

/// Connections the kernel holds for us; it takes the lower of this and net.core.somaxconn. A fleet that comes back
/// after an outage fills a short one, and its SYNs are dropped and repeated after a second.
const BACKLOG: i32 = 4096;
/// A peer that is gone without a FIN is found after 60 + 3 × 10 s of silence.
const KEEPALIVE_TIME: Duration = Duration::from_mins(1);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_RETRIES: u32 = 3;
/// Data that the peer's kernel does not acknowledge for this long ends the connection (RFC 5482).
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(30);
/// After an accept error that is about us: file descriptors or memory. Too short would spin.
const PAUSE_FIRST: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Opens a listening socket. Must be called inside a tokio runtime.
///
/// # Errors
/// One sentence for the person who starts the process.
pub fn bind(address: SocketAddr) -> Result<TcpListener, String> {
    open(address).map_err(|error| {
        let (host, port) = (address.ip(), address.port());
        match error.kind() {
            ErrorKind::AddrInUse => format!("port {port} on {host} is in use by another process"),
            ErrorKind::PermissionDenied => format!("no permission to listen on port {port} of {host}"),
            ErrorKind::AddrNotAvailable => format!("{host} is not an address of this machine"),
            _ => format!("cannot listen on port {port} of {host}: {error}"),
        }
    })
}

fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // So that a restart can bind while connections of the last process are in TIME_WAIT.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // `[::]` takes IPv4 too, whatever the machine's default is.
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Waits for a connection; pauses and goes on after errors.
pub(super) async fn accept(listener: &TcpListener, port: Port) -> (TcpStream, SocketAddr) {
    let mut pause = PAUSE_FIRST;
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                observe::net::accepted(port);
                if let Err(error) = tune(&stream) {
                    tracing::debug!(%error, "a new connection could not be tuned");
                }
                return (stream, SocketAddr::new(address.ip().to_canonical(), address.port()));
            }
            // The connection was gone before we took it: nothing about us.
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                observe::net::accept_error(port);
                tracing::warn!(listener = port.as_str(), %error, "cannot accept connections; pausing");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_TIME).with_interval(KEEPALIVE_INTERVAL);
    socket.set_tcp_keepalive(&keepalive.with_retries(KEEPALIVE_RETRIES))?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_one_clear_sentence() {
        let first = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = first.local_addr().unwrap();
        let error = bind(address).unwrap_err();
        assert_eq!(error, format!("port {} on 127.0.0.1 is in use by another process", address.port()));
        drop(first);
        assert!(bind(address).is_ok(), "free again at once");
    }

    #[tokio::test]
    async fn an_address_of_another_machine_is_one_clear_sentence() {
        let error = bind("192.0.2.1:8443".parse().unwrap()).unwrap_err();
        assert_eq!(error, "192.0.2.1 is not an address of this machine");
    }
}
