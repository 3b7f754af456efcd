//! Nothing that a caller leaves undone holds a connection open.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::Instant;
use uuid::Uuid;

use super::pki::Leaf;
use super::rig::{Client, PATIENCE, Rig, handshake, read_to_end, settings};
use crate::net::ListenerSettings;

const SHORT: Duration = Duration::from_millis(300);
/// Where a test must do something before the deadline: a busy machine needs the room.
const ROOMY: Duration = Duration::from_secs(2);

fn connect_settings(change: impl FnOnce(&mut ListenerSettings)) -> ListenerSettings {
    let mut settings = settings();
    change(&mut settings);
    settings
}

#[tokio::test]
async fn a_handshake_that_does_not_come_ends_and_holds_up_nobody() {
    let rig = Rig::device(connect_settings(|s| {
        s.handshake_deadline = ROOMY;
        s.handshakes_max = 1;
    }))
    .await;
    let began = Instant::now();
    let mut silent = TcpStream::connect(rig.address).await.unwrap();
    let mut dripping = TcpStream::connect(rig.address).await.unwrap();
    dripping.write_all(&[22, 3, 1, 2, 0, 1]).await.unwrap();
    assert!(rig.get(None, "/").await.is_ok(), "the silent hold no handshake permit");
    assert!(began.elapsed() < ROOMY, "or this has shown nothing");
    assert_eq!(read_to_end(&mut silent).await, b"");
    assert_eq!(read_to_end(&mut dripping).await, b"");
    assert!(began.elapsed() >= ROOMY);
}

#[tokio::test]
async fn silence_after_the_hello_holds_up_nobody_and_ends_soon() {
    let rig = Rig::device(connect_settings(|s| s.handshakes_max = 1)).await;
    let mut hello = Vec::new();
    let name = rustls::pki_types::ServerName::try_from("127.0.0.1").unwrap();
    let client = rustls::ClientConnection::new(std::sync::Arc::new(rig.config(None, &[])), name);
    client.unwrap().write_tls(&mut hello).unwrap();
    let mut silent = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(rig.address).await.unwrap();
        stream.write_all(&hello).await.unwrap();
        // The server's first flight: its turn is over.
        stream.readable().await.unwrap();
        silent.push(stream);
    }
    let began = Instant::now();
    assert!(rig.get(None, "/").await.is_ok());
    assert!(began.elapsed() < PATIENCE, "one after the other they would have held the turn for longer");
    for stream in &mut silent {
        // The deadline of the whole handshake is minutes away.
        read_to_end(stream).await;
    }
}

#[tokio::test]
async fn a_first_request_that_does_not_come_ends_the_connection() {
    let rig = Rig::device(connect_settings(|s| s.connections.first_request_deadline = SHORT)).await;
    for (alpn, beginning) in [("http/1.1", "GET / HTTP/1.1\r\nHost:"), ("h2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")] {
        for bytes in ["", beginning] {
            let began = Instant::now();
            let mut stream = rig.connect(rig.config(None, &[alpn])).await.unwrap();
            stream.write_all(bytes.as_bytes()).await.unwrap();
            read_to_end(&mut stream).await;
            assert!(began.elapsed() >= SHORT, "{alpn}");
        }
    }
}

#[tokio::test]
async fn idle_time_is_counted_apart_from_the_first_request() {
    let rig = Rig::device(connect_settings(|s| {
        s.connections.first_request_deadline = SHORT;
        s.connections.idle_max = SHORT * 8;
    }))
    .await;
    let mut http1 = Client::http1(rig.connect(rig.config(None, &["http/1.1"])).await.unwrap()).await;
    let mut http2 = Client::http2(rig.connect(rig.config(None, &["h2"])).await.unwrap()).await;
    for client in [&mut http1, &mut http2] {
        client.get("/").await.unwrap();
    }
    tokio::time::sleep(SHORT * 2).await;
    for client in [&mut http1, &mut http2] {
        assert!(client.get("/").await.is_ok(), "still open: the first request had come");
    }
    let quiet = Instant::now();
    http1.closed().await;
    http2.closed().await;
    assert!(quiet.elapsed() >= SHORT * 7);
}

/// A request that takes longer than the idle time is not idle.
#[tokio::test]
async fn a_request_in_flight_is_not_idle() {
    let rig = Rig::device(connect_settings(|s| s.connections.idle_max = SHORT)).await;
    let mut http1 = Client::http1(rig.connect(rig.config(None, &["http/1.1"])).await.unwrap()).await;
    let mut http2 = Client::http2(rig.connect(rig.config(None, &["h2"])).await.unwrap()).await;
    let later = async {
        tokio::time::sleep(SHORT * 3).await;
        rig.go.give(2);
    };
    let (first, second, ()) = tokio::join!(http1.get("/wait"), http2.get("/wait"), later);
    assert!(first.is_ok() && second.is_ok(), "{first:?} {second:?}");
}

#[tokio::test]
async fn an_old_connection_ends_and_what_lingers_is_cut() {
    let rig = Rig::device(connect_settings(|s| {
        s.connections.age_max = SHORT;
        s.connections.linger = SHORT;
    }))
    .await;
    for alpn in ["http/1.1", "h2"] {
        let connect = async || {
            let stream = rig.connect(rig.config(None, &[alpn])).await.unwrap();
            if alpn == "h2" { Client::http2(stream).await } else { Client::http1(stream).await }
        };
        let mut quiet = connect().await;
        quiet.get("/").await.unwrap();
        quiet.closed().await;
        let mut hanging = connect().await;
        let began = Instant::now();
        assert!(hanging.get("/wait").await.is_err(), "{alpn}");
        assert!(began.elapsed() < PATIENCE, "{alpn}");
    }
}

/// Requests that stand in line leave no moment at which the connection does nothing.
#[tokio::test]
async fn an_old_connection_ends_however_busy_it_is() {
    let rig = Rig::device(connect_settings(|s| s.connections.age_max = SHORT)).await;
    let identity = rig.issuing.issue(&Leaf::device(Uuid::nil()));
    let stream = rig.connect(rig.config(Some(&identity), &["http/1.1"])).await.unwrap();
    let (mut read, mut write) = tokio::io::split(stream);
    let requests = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(500);
    let both = async {
        tokio::join!(async { while write.write_all(requests.as_bytes()).await.is_ok() {} }, read_to_end(&mut read)).1
    };
    let answers = tokio::time::timeout(PATIENCE, both).await.unwrap();
    assert!(answers.len() > 50_000, "busy it was not: {}", answers.len());
    let mut http2 = Client::http2(rig.connect(rig.config(Some(&identity), &["h2"])).await.unwrap()).await;
    let until_the_end = async { while http2.get("/").await.is_ok() {} };
    assert!(tokio::time::timeout(PATIENCE, until_the_end).await.is_ok());
}

/// When a deadline comes during a request, the next one is found all the same.
#[tokio::test]
async fn what_was_busy_is_idle_in_its_time() {
    let rig = Rig::device(connect_settings(|s| {
        s.connections.first_request_deadline = SHORT;
        s.connections.idle_max = SHORT * 2;
    }))
    .await;
    let mut http2 = Client::http2(rig.connect(rig.config(None, &["h2"])).await.unwrap()).await;
    let later = async {
        tokio::time::sleep(SHORT * 3).await;
        rig.go.give(1);
    };
    let (answer, ()) = tokio::join!(http2.get("/wait"), later);
    assert!(answer.is_ok(), "{answer:?}");
    // Its age is hours away.
    assert!(tokio::time::timeout(PATIENCE, http2.closed()).await.is_ok());
}

#[tokio::test]
async fn callers_without_a_good_certificate_get_less() {
    let rig = Rig::device(connect_settings(|s| {
        s.unverified.connections_max = 1;
        s.unverified.age_max = ROOMY;
        s.unverified.requests_max = 3;
    }))
    .await;
    let identity = rig.issuing.issue(&Leaf::device(Uuid::nil()));
    for alpn in ["http/1.1", "h2"] {
        let connect = async |identity| {
            let stream = rig.connect(rig.config(identity, &[alpn])).await.unwrap();
            if alpn == "h2" { Client::http2(stream).await } else { Client::http1(stream).await }
        };
        let mut good = connect(Some(&identity)).await;
        let mut stranger = connect(None).await;
        for _ in 0..3 {
            stranger.get("/").await.unwrap();
        }
        stranger.closed().await;
        for _ in 0..10 {
            good.get("/").await.unwrap();
        }
        // The place in the pool is free again; a second one is turned away until the first ages out.
        let mut second = connect(None).await;
        second.get("/").await.unwrap();
        let third = async { connect(None).await.get("/").await };
        assert!(third.await.is_err());
        second.closed().await;
        good.get("/").await.unwrap();
    }
}

fn proxy_header() -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    bytes.extend([192, 0, 2, 7, 127, 0, 0, 1, 0x30, 0x39, 0x20, 0xfb]);
    bytes
}

#[tokio::test]
async fn a_proxy_header_is_required_from_load_balancers() {
    let rig = Rig::device(connect_settings(|s| {
        s.proxy_peers = vec!["127.0.0.0/8".parse().unwrap()];
        s.handshake_deadline = SHORT;
    }))
    .await;
    let mut socket = TcpStream::connect(rig.address).await.unwrap();
    socket.write_all(&proxy_header()).await.unwrap();
    let stream = handshake(socket, rig.config(None, &[])).await.unwrap();
    assert_eq!(Client::http1(stream).await.get("/").await.unwrap(), "HTTP/1.1 device 192.0.2.7 none");

    let mut local = TcpStream::connect(rig.address).await.unwrap();
    local.write_all(b"\r\n\r\n\0\r\nQUIT\n\x20\x00\0\0").await.unwrap();
    let stream = handshake(local, rig.config(None, &[])).await.unwrap();
    assert_eq!(Client::http1(stream).await.get("/").await.unwrap(), "HTTP/1.1 device 127.0.0.1 none");

    assert!(rig.connect(rig.config(None, &[])).await.is_err(), "no header");
    let mut slow = TcpStream::connect(rig.address).await.unwrap();
    let began = Instant::now();
    slow.write_all(&proxy_header()[..20]).await.unwrap();
    read_to_end(&mut slow).await;
    assert!(began.elapsed() >= SHORT);
}

#[tokio::test]
async fn a_proxy_header_is_not_parsed_from_others() {
    let rig = Rig::device(connect_settings(|s| s.proxy_peers = vec!["10.0.0.0/8".parse().unwrap()])).await;
    let mut socket = TcpStream::connect(rig.address).await.unwrap();
    socket.write_all(&proxy_header()).await.unwrap();
    assert!(handshake(socket, rig.config(None, &[])).await.is_err());
    assert_eq!(rig.get(None, "/").await.unwrap(), "HTTP/1.1 device 127.0.0.1 none");
}
