//! The same contract over HTTP/2, as ALPN negotiates it.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::KeyPair;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

use crate::app::{Identity, TestApp, csr_of, reading};
use crate::wire::Answer;

/// A connection. Ends when dropped.
struct Http2 {
    send: SendRequest<Full<Bytes>>,
    _driver: AbortOnDropHandle<()>,
}

impl Http2 {
    async fn connect(app: &TestApp, addr: SocketAddr, identity: Option<&Identity>) -> Self {
        let tcp = TcpStream::connect(addr).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let tls = tokio_rustls::TlsConnector::from(app.tls(identity, b"h2")).connect(name, tcp).await.unwrap();
        assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"h2"[..]), "the server chose it");
        let (send, connection) = handshake(TokioExecutor::new(), TokioIo::new(tls)).await.unwrap();
        let driver = everbeat::lifecycle::tasks::spawn(async move {
            let _ = connection.await;
        });
        Self { send, _driver: AbortOnDropHandle::new(driver) }
    }

    async fn call(&self, method: &str, path: &str, token: Option<&str>, body: Option<&Value>) -> Answer {
        let mut request = hyper::Request::builder().method(method).uri(format!("https://localhost{path}"));
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let body = body.map_or_else(Bytes::new, |body| body.to_string().into());
        let mut send = self.send.clone();
        send.ready().await.unwrap();
        let answer = send.send_request(request.body(Full::new(body)).unwrap()).await.unwrap();
        assert_eq!(answer.version(), hyper::Version::HTTP_2);
        let (head, body) = answer.into_parts();
        let text = |value: &hyper::header::HeaderValue| value.to_str().unwrap().to_owned();
        let headers = head.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
        Answer::of(head.status.as_u16(), headers, body.collect().await.unwrap().to_bytes().to_vec())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_lives_its_life_over_http2() {
    let app = TestApp::new().await;
    let addr = app.replica.running.device_addr;
    let key = KeyPair::generate().unwrap();
    let asked = json!({"token": app.token, "name": "pump-1", "csr": csr_of(&key)});
    let nobody = Http2::connect(&app, addr, None).await;
    let enrolled = nobody.call("POST", "/v1/enroll", None, Some(&asked)).await;
    assert_eq!(enrolled.header("cache-control"), Some("no-store"));
    let identity = Identity::of(&enrolled.ok(201), key);
    nobody.call("POST", "/v1/token", None, None).await.refused(401, "certificate-required");

    let device = Http2::connect(&app, addr, Some(&identity)).await;
    let token = device.call("POST", "/v1/token", None, None).await.ok(200);
    let token = token["access_token"].as_str().unwrap();
    let beat = device.call("POST", "/v1/heartbeat", Some(token), None).await.ok(200);
    assert!(beat["next_in_s"].as_f64().is_some_and(|s| s > 0.0), "{beat}");
    let sent = reading();
    let stored = device.call("POST", "/v1/readings", Some(token), Some(&sent)).await.ok(200);
    assert_eq!(stored["stored"], 1);
    let again = device.call("POST", "/v1/readings", Some(token), Some(&sent)).await.ok(200);
    assert_eq!(again["duplicates"], 1);

    device.call("POST", "/v1/readings", Some(token), Some(&json!({"values": {}}))).await.ok(422);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn problems_and_many_requests_at_once_over_http2() {
    let app = TestApp::new().await;
    let device = app.enroll("pump-1").await;
    let wire = Http2::connect(&app, app.replica.running.device_addr, Some(&device.identity)).await;
    wire.call("GET", "/v1/me", None, None).await.refused(401, "token-required");
    wire.call("GET", "/nowhere", None, None).await.refused(404, "not-found");
    let wrong = wire.call("GET", "/v1/readings", Some(&device.token), None).await;
    wrong.refused(405, "method-not-allowed");
    assert_eq!(wrong.header("allow"), Some("POST"));
    assert_eq!(wrong.header("connection"), None, "HTTP/2 has none (RFC 9113, 8.2.2)");
    let unknown = wire.call("GET", "/v1/me?nonsense=1", Some(&device.token), None).await.refused(400, "invalid");
    assert_eq!(unknown["errors"][0]["pointer"], "?nonsense");

    let readings: Vec<Value> = (0..20).map(|_| reading()).collect();
    let calls = readings.iter().map(|sent| wire.call("POST", "/v1/readings", Some(&device.token), Some(sent)));
    for answer in futures_util::future::join_all(calls).await {
        assert_eq!(answer.ok(200)["stored"], 1);
    }
    let sql = format!("select count(*) from readings where device_id = '{}'", device.identity.device);
    assert_eq!(app.count(&sql).await, 20);
    // Operators speak it too.
    let admin = Http2::connect(&app, app.replica.running.admin_addr, None).await;
    assert_eq!(admin.call("GET", "/v1/whoami", Some(&app.admin), None).await.ok(200)["subject"], "root");
    app.still_serves("HTTP/2").await;
}
