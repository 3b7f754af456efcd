//! Protocols, the limit of connections, and the end of the process.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Response;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::rig::{Client, LONG, PATIENCE, Rig, read_to_end, settings};
use crate::lifecycle::shutdown::Shutdown;
use crate::lifecycle::tasks::Tasks;
use crate::net::{bind, serve_plain};

#[tokio::test]
async fn alpn_chooses_the_protocol() {
    let rig = Rig::device(settings()).await;
    let cases: [(&[&str], &str); 4] =
        [(&["h2", "http/1.1"], "HTTP/2.0"), (&["h2"], "HTTP/2.0"), (&["http/1.1"], "HTTP/1.1"), (&[], "HTTP/1.1")];
    for (alpn, expected) in cases {
        let stream = rig.connect(rig.config(None, alpn)).await.unwrap();
        let mut client = if expected == "HTTP/2.0" { Client::http2(stream).await } else { Client::http1(stream).await };
        for _ in 0..2 {
            assert_eq!(client.get("/").await.unwrap(), format!("{expected} device 127.0.0.1 none"));
        }
    }
    assert!(rig.connect(rig.config(None, &["spdy/3"])).await.is_err());
}

#[tokio::test]
async fn a_header_section_has_a_limit() {
    let rig = Rig::device(settings()).await;
    let mut stream = rig.connect(rig.config(None, &[])).await.unwrap();
    let header = "x".repeat(20_000);
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: x\r\nX: {header}\r\n\r\n").as_bytes()).await.unwrap();
    let answer = read_to_end(&mut stream).await;
    // The rest of the request is unread, so that the answer may be lost to a reset.
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 431"), "{:?}", String::from_utf8_lossy(&answer));
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_at_once() {
    let mut few = settings();
    few.connections.connections_max = 2;
    let rig = Rig::device(few).await;
    let connect = async || Client::http1(rig.connect(rig.config(None, &[])).await.unwrap()).await;
    let (mut first, mut second) = (connect().await, connect().await);
    first.get("/").await.unwrap();
    second.get("/").await.unwrap();
    let mut third = TcpStream::connect(rig.address).await.unwrap();
    assert_eq!(read_to_end(&mut third).await, b"");
    assert!(first.get("/").await.is_ok());
    drop(second);
    let again = async {
        while rig.get(None, "/").await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, again).await.expect("the permit comes back");
}

#[tokio::test]
async fn who_has_not_shaken_hands_gives_way() {
    let mut few = settings();
    few.connections.connections_max = 3;
    let rig = Rig::device(few).await;
    let mut first = Client::http1(rig.connect(rig.config(None, &[])).await.unwrap()).await;
    first.get("/").await.unwrap();
    // They are accepted in their order, and the handshake has no deadline to speak of.
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(TcpStream::connect(rig.address).await.unwrap());
    }
    for _ in 0..5 {
        assert!(rig.get(None, "/").await.is_ok(), "a caller who does shake hands gets in");
    }
    assert!(first.get("/").await.is_ok(), "who is in stays");
    for stream in &mut silent[..19] {
        assert_eq!(read_to_end(stream).await, b"");
    }
}

#[tokio::test]
async fn a_drain_finishes_what_has_begun_and_nothing_else() {
    let rig = Rig::device(settings()).await;
    let mut busy1 = Client::http1(rig.connect(rig.config(None, &["http/1.1"])).await.unwrap()).await;
    let mut busy2 = Client::http2(rig.connect(rig.config(None, &["h2"])).await.unwrap()).await;
    let mut idle1 = Client::http1(rig.connect(rig.config(None, &["http/1.1"])).await.unwrap()).await;
    let mut idle2 = Client::http2(rig.connect(rig.config(None, &["h2"])).await.unwrap()).await;
    idle1.get("/").await.unwrap();
    idle2.get("/").await.unwrap();
    let mut unused = rig.connect(rig.config(None, &[])).await.unwrap();
    let mut silent = TcpStream::connect(rig.address).await.unwrap();
    let steer = async {
        rig.waiting.take().await;
        rig.waiting.take().await;
        rig.tasks.shutdown().drain();
        idle1.closed().await;
        idle2.closed().await;
        read_to_end(&mut unused).await;
        read_to_end(&mut silent).await;
        let refused = async {
            while TcpStream::connect(rig.address).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, refused).await.expect("the socket is closed");
        rig.go.give(2);
    };
    let (first, second, ()) = tokio::join!(busy1.get("/wait"), busy2.get("/wait"), steer);
    assert!(first.is_ok() && second.is_ok(), "{first:?} {second:?}");
    // Long before its limit: everything ended by itself.
    assert_eq!(timeout(PATIENCE, rig.tasks.finish(LONG)).await, Ok(None));
}

#[tokio::test]
async fn an_abort_ends_what_hangs() {
    let rig = Rig::device(settings()).await;
    for alpn in ["http/1.1", "h2"] {
        let stream = rig.connect(rig.config(None, &[alpn])).await.unwrap();
        let mut client = if alpn == "h2" { Client::http2(stream).await } else { Client::http1(stream).await };
        crate::lifecycle::tasks::spawn(async move { client.get("/wait").await });
        rig.waiting.take().await;
    }
    rig.tasks.shutdown().drain();
    let limit = Duration::from_millis(200);
    timeout(PATIENCE, rig.tasks.finish(limit)).await.unwrap();
    assert!(rig.tasks.shutdown().is_aborting());
    let left = timeout(PATIENCE, rig.tasks.finish(PATIENCE)).await;
    assert!(left.is_ok(), "nothing is left");
}

#[tokio::test]
async fn the_plain_listener_serves_and_drains() {
    let tasks = Tasks::new(Shutdown::new());
    let mut settings = settings().connections;
    settings.first_request_deadline = Duration::from_millis(300);
    let socket = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    let service = tower::service_fn(|_| async { Ok(Response::new(Full::new(Bytes::from_static(b"alive")))) });
    tasks.essential("ops", serve_plain(socket, Arc::new(settings), tasks.clone(), service));
    let mut silent = TcpStream::connect(address).await.unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let answer = read_to_end(&mut stream).await;
    assert!(answer.starts_with(b"HTTP/1.1 200") && answer.ends_with(b"alive"));
    assert_eq!(read_to_end(&mut silent).await, b"");
    tasks.shutdown().drain();
    assert_eq!(tasks.finish(PATIENCE).await, None);
}
