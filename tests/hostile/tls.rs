//! Before any request: handshakes that are old, slow, cut into pieces, or carry too much.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::client::ResolvesClientCert;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, SignatureScheme, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::app::{HTTP_1, TestApp, reading};
use crate::honest::undisturbed;
use crate::wire::{Ask, Wire};

/// Longer than any deadline that a test waits for.
const PATIENCE: Duration = Duration::from_secs(20);
const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const PROTOCOL_VERSION: u8 = 70;
const CA: &[u8] = b"GET /v1/ca HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

/// All that comes until the other side closes or breaks the connection.
pub async fn until_closed(stream: &mut (impl AsyncReadExt + Unpin)) -> Vec<u8> {
    let mut came = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut came)).await.unwrap();
    came
}

/// Sends bytes where TLS should begin; all that comes back until the end.
async fn raw(addr: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let _ = stream.write_all(bytes).await;
    until_closed(&mut stream).await
}

/// A ClientHello of the versions before 1.3, without extensions that name others (RFC 5246, 7.4.1.2).
fn client_hello(minor: u8) -> Vec<u8> {
    let mut body = vec![3, minor];
    body.extend([7; 32]); // random
    body.push(0); // no session
    body.extend([0, 6, 0xc0, 0x2b, 0xc0, 0x2f, 0, 0x2f]);
    body.extend([1, 0]); // no compression
    body.extend([0, 18]);
    body.extend([0, 10, 0, 4, 0, 2, 0, 23]); // P-256
    body.extend([0, 13, 0, 6, 0, 4, 4, 3, 2, 3]); // ECDSA with SHA-256 and SHA-1
    let mut message = vec![1, 0, 0, u8::try_from(body.len()).unwrap()];
    message.append(&mut body);
    let mut record = vec![HANDSHAKE, 3, 1, 0, u8::try_from(message.len()).unwrap()];
    record.append(&mut message);
    record
}

pub async fn handshake(addr: SocketAddr, config: Arc<ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(addr).await?;
    let name = ServerName::try_from("localhost").unwrap();
    tokio::time::timeout(PATIENCE, TlsConnector::from(config).connect(name, tcp)).await.unwrap()
}

pub fn only(app: &TestApp, version: &'static SupportedProtocolVersion) -> ClientConfig {
    let builder = ClientConfig::builder_with_protocol_versions(&[version]);
    let mut config = builder.with_root_certificates(app.trust()).with_no_client_auth();
    config.alpn_protocols = vec![HTTP_1.to_vec()];
    config
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_tls_1_2_and_1_3() {
    let app = TestApp::new().await;
    for addr in [app.replica.running.device_addr, app.replica.running.admin_addr] {
        let attack = async {
            for old in [0, 1, 2] {
                let came = raw(addr, &client_hello(old)).await;
                assert_eq!(came.first(), Some(&ALERT), "3.{old}: {came:?}");
                assert!(came.ends_with(&[2, PROTOCOL_VERSION]), "3.{old}: {came:?}");
            }
            let came = raw(addr, &client_hello(3)).await;
            assert_eq!(came.first(), Some(&HANDSHAKE), "the same with 1.2 gets a ServerHello: {came:?}");
        };
        undisturbed(&app, attack).await;
        for version in [&TLS12, &TLS13] {
            let stream = handshake(addr, Arc::new(only(&app, version))).await.unwrap();
            assert_eq!(stream.get_ref().1.protocol_version(), Some(version.version));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_tls_is_closed() {
    let app = TestApp::new().await;
    let addr = app.replica.running.device_addr;
    let huge_record = [&[HANDSHAKE, 3, 1, 0xff, 0xff], vec![1; 70_000].as_slice()].concat();
    let huge_hello = [&[HANDSHAKE, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff], vec![0; 16_380].as_slice()].concat().repeat(8);
    let cases: [(&str, Vec<u8>); 9] = [
        ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("HTTP/2 in the clear", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()),
        ("SSLv2", vec![0x80, 46, 1, 3, 1, 0, 21, 0, 0, 0, 16, 0, 0, 5, 0, 0, 4]),
        ("zeros", vec![0; 4_096]),
        ("ones", vec![0xff; 4_096]),
        ("data before the handshake", [&[23, 3, 3, 0, 16], [7; 16].as_slice()].concat()),
        ("an alert", vec![ALERT, 3, 3, 0, 2, 2, 40]),
        ("a record of 64 KiB", huge_record),
        ("a ClientHello of 16 MiB", huge_hello),
    ];
    let attack = async {
        for (what, bytes) in cases {
            let came = raw(addr, &bytes).await;
            assert!(came.is_empty() || came[0] == ALERT, "{what}: {came:?}");
        }
    };
    undisturbed(&app, attack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_without_a_server_name_is_served() {
    let app = TestApp::new().await;
    let mut config = only(&app, &TLS13);
    config.enable_sni = false;
    let mut wire = Wire::tls(app.replica.running.device_addr, Arc::new(config)).await;
    assert_eq!(wire.call(&Ask::get("/v1/ca")).await.status, 200);
}

/// Each plaintext record as many records of one byte each (RFC 8446, 5.1: a message may be cut anywhere).
fn shredded(flight: &[u8]) -> Vec<u8> {
    let (mut shreds, mut rest, mut is_plain) = (Vec::new(), flight, true);
    while let [kind, major, minor, high, low, tail @ ..] = rest {
        let (body, after) = tail.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        is_plain &= *kind != CHANGE_CIPHER_SPEC;
        if *kind == HANDSHAKE && is_plain {
            shreds.extend(body.iter().flat_map(|byte| [*kind, *major, *minor, 0, 1, *byte]));
        } else {
            shreds.extend([*kind, *major, *minor, *high, *low]);
            shreds.extend(body);
        }
        rest = after;
    }
    shreds
}

/// Talks to the server in the smallest pieces that there are; what came back.
fn in_shreds(addr: SocketAddr, mut config: ClientConfig) -> std::io::Result<Vec<u8>> {
    config.max_fragment_size = Some(32);
    let mut connection = ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap();
    let mut tcp = std::net::TcpStream::connect(addr)?;
    tcp.set_nodelay(true)?;
    tcp.set_read_timeout(Some(PATIENCE))?;
    let (mut came, mut is_asked) = (Vec::new(), false);
    loop {
        let mut flight = Vec::new();
        while connection.wants_write() {
            connection.write_tls(&mut flight)?;
        }
        for piece in (if is_asked { flight } else { shredded(&flight) }).chunks(100) {
            tcp.write_all(piece)?;
        }
        if !connection.is_handshaking() && !is_asked {
            is_asked = true;
            connection.writer().write_all(CA)?;
            continue;
        }
        let read = connection.read_tls(&mut tcp)?;
        let state = connection.process_new_packets().map_err(std::io::Error::other)?;
        let mut plain = vec![0; state.plaintext_bytes_to_read()];
        connection.reader().read_exact(&mut plain)?;
        came.append(&mut plain);
        if read == 0 || state.peer_has_closed() {
            return Ok(came);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_of_one_byte() {
    let app = TestApp::new().await;
    let addr = app.replica.running.device_addr;
    for version in [&TLS12, &TLS13] {
        let config = only(&app, version);
        let attack = tokio::task::spawn_blocking(move || in_shreds(addr, config));
        let came = undisturbed(&app, attack).await.unwrap().unwrap();
        assert!(came.starts_with(b"HTTP/1.1 200"), "{version:?}: {}", String::from_utf8_lossy(&came));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_handshakes_end_at_their_deadline() {
    let app = TestApp::with("[devices]\nhandshake_deadline_ms = 3000\nhandshakes_max = 2\n").await;
    let addr = app.replica.running.device_addr;
    let silent = async || until_closed(&mut TcpStream::connect(addr).await.unwrap()).await;
    let dripping = async || {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        for byte in client_hello(3) {
            if stream.write_all(&[byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        until_closed(&mut stream).await
    };
    // Past the hello, where a permit is held.
    let mute = async || {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(&client_hello(3)).await.unwrap();
        until_closed(&mut stream).await
    };
    let attack = async {
        tokio::join!(
            join_all((0..100).map(|_| silent())),
            join_all((0..50).map(|_| dripping())),
            join_all((0..50).map(|_| mute())),
        )
    };
    let (silent, dripping, _) = undisturbed(&app, attack).await;
    assert!(silent.iter().chain(&dripping).all(|came| came.is_empty() || came[0] == ALERT));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_without_its_end_is_not_stored_when_the_connection_is_cut() {
    let app = TestApp::new().await;
    let device = app.enroll("pump-1").await;
    let attack = async {
        for framing in [("Content-Length", "99999"), ("Transfer-Encoding", "chunked")] {
            let ask =
                device.post("/v1/readings").header("Content-Type", "application/x-ndjson").header(framing.0, framing.1);
            let line = format!("{}\n", reading());
            let body = if framing.0 == "Content-Length" { line } else { format!("{:x}\r\n{line}\r\n", line.len()) };
            let config = app.tls(Some(&device.identity), HTTP_1);
            let mut stream = handshake(app.replica.running.device_addr, config).await.unwrap();
            stream.write_all(&ask.head_only()).await.unwrap();
            stream.write_all(body.as_bytes()).await.unwrap();
            // The end of TCP alone, which anybody on the way can make: no close_notify.
            let (mut tcp, _) = stream.into_inner();
            tcp.shutdown().await.unwrap();
            until_closed(&mut tcp).await;
        }
    };
    undisturbed(&app, attack).await;
    let sql = format!("select count(*) from readings where device_id = '{}'", device.identity.device);
    assert_eq!(app.count(&sql).await, 0);
}

/// Shows what no library would let a caller show.
#[derive(Debug)]
struct Shows(Arc<CertifiedKey>);

impl ResolvesClientCert for Shows {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// A client's side with a chain of the test's own.
fn showing(app: &TestApp, chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> Arc<ClientConfig> {
    let key = any_supported_type(&PrivateKeyDer::try_from(key.serialize_der()).unwrap()).unwrap();
    let mut config = only(app, &TLS13);
    config.client_auth_cert_resolver = Arc::new(Shows(Arc::new(CertifiedKey::new(chain, key))));
    Arc::new(config)
}

/// A certificate of about so many bytes.
fn fat(bytes: usize) -> (CertificateDer<'static>, KeyPair) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.custom_extensions.push(CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 7], vec![4; bytes]));
    (params.self_signed(&key).unwrap().der().clone(), key)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_that_are_too_large_or_too_many() {
    let app = TestApp::new().await;
    let addr = app.replica.running.device_addr;
    let device = app.enroll("pump-1").await;
    let (large, large_key) = fat(30_000);
    let leaf: Vec<CertificateDer> = rustls::pki_types::pem::PemObject::pem_slice_iter(device.identity.chain.as_bytes())
        .map(Result::unwrap)
        .collect();
    let long: Vec<CertificateDer> = leaf.iter().cloned().chain((0..20).map(|_| leaf[1].clone())).collect();
    let attack = async {
        // What TLS takes is judged afterwards, and the caller learns of it.
        for (chain, key) in [(vec![large], &large_key), (long, &device.identity.key)] {
            let mut wire = Wire::tls(addr, showing(&app, chain, key)).await;
            wire.call(&Ask::post("/v1/token")).await.refused(401, "certificate-untrusted");
        }
        // What it does not take ends the handshake.
        let (huge, huge_key) = fat(100_000);
        let mut stream = handshake(addr, showing(&app, vec![huge], &huge_key)).await.unwrap();
        let _ = stream.write_all(CA).await;
        assert_eq!(until_closed(&mut stream).await, b"");
    };
    undisturbed(&app, attack).await;
}
