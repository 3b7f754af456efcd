//! The PROXY header: only load balancers may send it, and they must.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

use crate::app::{HTTP_1, TestApp};
use crate::honest::undisturbed;
use crate::tls::until_closed;

/// The load balancer's address. Devices come from 127.0.0.1.
const BALANCER: &str = "127.0.0.2:0";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Version and command, family and protocol, and what follows the length.
fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[command, family], &length, rest].concat()
}

async fn from(source: &str, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(source.parse().unwrap()).unwrap();
    socket.connect(to).await.unwrap()
}

/// Sends a header, and then shakes hands as if it had been a good one.
async fn is_served(app: &TestApp, source: &str, header: &[u8]) -> bool {
    let mut tcp = from(source, app.replica.running.device_addr).await;
    let _ = tcp.write_all(header).await;
    let name = ServerName::try_from("localhost").unwrap();
    let shaken = TlsConnector::from(app.tls(None, HTTP_1)).connect(name, tcp);
    tokio::time::timeout(Duration::from_secs(20), shaken).await.unwrap().is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxy_headers() {
    let app = TestApp::with("[devices]\nproxy_peers = [\"127.0.0.2\"]\nhandshake_deadline_ms = 3000\n").await;
    let tcp4 = [192, 0, 2, 7, 127, 0, 0, 1, 0x30, 0x39, 0x20, 0xfb];
    let good = header(0x21, 0x11, &tcp4);
    assert!(is_served(&app, BALANCER, &good).await);
    assert!(is_served(&app, BALANCER, &header(0x20, 0, &[])).await, "its own health check");
    let cases: [(&str, Vec<u8>); 10] = [
        ("none", Vec::new()),
        ("two", good.repeat(2)),
        ("version 1", b"PROXY TCP4 192.0.2.7 127.0.0.1 1 2\r\n".to_vec()),
        ("too long", header(0x21, 0x11, &[&tcp4, [0; 1_100].as_slice()].concat())),
        ("the longest", header(0x21, 0x11, &vec![1; 65_535])),
        ("too short for its address", header(0x21, 0x11, &tcp4[..8])),
        ("UDP", header(0x21, 0x12, &tcp4)),
        ("a Unix socket", header(0x21, 0x31, &[b'/'; 216])),
        ("a version that is not there yet", header(0x31, 0x11, &tcp4)),
        ("half a signature", SIGNATURE[..6].to_vec()),
    ];
    let attack = async {
        for (what, bytes) in &cases {
            assert!(!is_served(&app, BALANCER, bytes).await, "{what}");
        }
        // A stranger's word is not taken for the caller's address: it is no TLS.
        assert!(!is_served(&app, "127.0.0.3:0", &good).await);
        // A header that does not come to its end, within the deadline of the handshake.
        let slow = async |bytes: usize| {
            let mut tcp = from(BALANCER, app.replica.running.device_addr).await;
            tcp.write_all(&good[..bytes]).await.unwrap();
            until_closed(&mut tcp).await
        };
        assert!(join_all((0..good.len()).map(slow)).await.iter().all(Vec::is_empty));
    };
    undisturbed(&app, attack).await;
}
