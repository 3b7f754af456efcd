//! Behind a TCP load balancer that says whom it speaks for (PROXY v2).

use std::net::SocketAddr;

use everbeat::lifecycle::tasks;
use rcgen::KeyPair;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

use crate::app::{Identity, TestApp, csr_of, reading};
use crate::wire::Ask;

/// Passes bytes on behind a header of its own, and knows nothing of what they mean.
struct Balancer {
    addr: SocketAddr,
    _accepting: AbortOnDropHandle<()>,
}

impl Balancer {
    async fn to(server: SocketAddr, header: fn(SocketAddr, SocketAddr) -> Vec<u8>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let accepting = tasks::spawn(async move {
            while let Ok((mut caller, source)) = listener.accept().await {
                drop(tasks::spawn(async move {
                    let mut behind = TcpStream::connect(server).await.unwrap();
                    behind.write_all(&header(source, addr)).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut caller, &mut behind).await;
                }));
            }
        });
        Self { addr, _accepting: AbortOnDropHandle::new(accepting) }
    }
}

/// Version 2, command PROXY, TCP over IPv4 (proxy-protocol.txt, 2.2), with a TLV that nobody knows.
fn proxy_v2(source: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let (SocketAddr::V4(source), SocketAddr::V4(to)) = (source, to) else { panic!("IPv4 only") };
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    header.extend_from_slice(&source.ip().octets());
    header.extend_from_slice(&to.ip().octets());
    header.extend_from_slice(&source.port().to_be_bytes());
    header.extend_from_slice(&to.port().to_be_bytes());
    header[15] += 4;
    header.extend_from_slice(&[0xE0, 0, 1, b'x']);
    header
}

/// Does a TLS handshake get through?
async fn is_served(app: &TestApp, addr: SocketAddr) -> bool {
    let tcp = TcpStream::connect(addr).await.unwrap();
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    tokio_rustls::TlsConnector::from(app.tls(None, b"http/1.1")).connect(name, tcp).await.is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn devices_are_served_through_a_load_balancer() {
    let app = TestApp::with("[devices]\nproxy_peers = [\"127.0.0.0/8\"]\n").await;
    let server = app.replica.running.device_addr;
    let balancer = Balancer::to(server, proxy_v2).await;
    let key = KeyPair::generate().unwrap();
    let asked = json!({"token": app.token, "name": "pump-1", "csr": csr_of(&key)});
    let mut wire = app.connect_to(balancer.addr, None).await;
    let enrolled = wire.call(&Ask::post("/v1/enroll").json(&asked)).await.ok(201);
    // Mutual TLS ends at the replica, not in between.
    let mut device = app.caller_at(balancer.addr, Identity::of(&enrolled, key)).await;
    for _ in 0..3 {
        assert_eq!(device.store(&reading()).await.ok(200)["stored"], 1);
    }
    device.call(&device.post("/v1/heartbeat")).await.ok(200);

    // A peer that must name its callers and does not, or does so wrongly, gets nowhere.
    assert!(!is_served(&app, server).await, "no header");
    let old = Balancer::to(server, |_, _| b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n".to_vec()).await;
    assert!(!is_served(&app, old.addr).await, "version 1");
    let twice = Balancer::to(server, |source, to| [proxy_v2(source, to), proxy_v2(source, to)].concat()).await;
    assert!(!is_served(&app, twice.addr).await, "two headers");
    assert!(is_served(&app, balancer.addr).await);
    device.store(&reading()).await.ok(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_else_may_name_a_caller() {
    let app = TestApp::new().await;
    let balancer = Balancer::to(app.replica.running.device_addr, proxy_v2).await;
    assert!(!is_served(&app, balancer.addr).await, "a header from a peer that is no load balancer");
    app.still_serves("a header that nobody asked for").await;
}
