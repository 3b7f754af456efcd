//! For tests: small HTTPS servers on loopback, with a CA of their own, and clients of them.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PublicKeyData};
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::settings::{ClientSettings, Context};
use crate::domain::enrollment::{EnrollmentToken, Pin};
use crate::domain::random::Random;
use crate::domain::time::{Clock, rfc3339};
use crate::lifecycle::tasks::spawn;

pub(crate) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
    pub pin: Pin,
}

impl Ca {
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let pem = params.self_signed(&key).unwrap().pem();
        let pin = Pin::of_spki(&key.subject_public_key_info());
        Self { issuer: Issuer::new(params, key), pem, pin }
    }

    pub fn token(&self) -> EnrollmentToken {
        EnrollmentToken::new("testtoken", [7; 32], self.pin).unwrap()
    }

    /// Certifies the key of a request as it is.
    pub fn sign(&self, csr_pem: &str) -> String {
        let csr = rcgen::CertificateSigningRequestParams::from_pem(csr_pem).unwrap();
        csr.signed_by(&self.issuer).unwrap().pem()
    }

    fn server(&self) -> ServerConfig {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(super::trust::certificates(&self.pem).unwrap().remove(0)).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let verifier = verifier.allow_unauthenticated().build().unwrap();
        ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
            .unwrap()
    }
}

/// What a server got.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub path: String,
    pub headers: HashMap<String, String>,
    pub body: Bytes,
    /// Number of the connection, from 0.
    pub connection: u64,
}

impl Seen {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// What a server says; `None`: it hangs up without an answer.
pub(crate) type Said = Option<Response<Full<Bytes>>>;

#[expect(clippy::unnecessary_wraps, reason = "the type of all that a server may say")]
pub(crate) fn says(status: u16, body: &Value) -> Said {
    let media = if status < 300 { "application/json" } else { "application/problem+json" };
    let response = Response::builder().status(status).header("content-type", media);
    Some(response.body(Full::new(body.to_string().into())).unwrap())
}

pub(crate) fn problem(status: u16, slug: &str) -> Said {
    says(status, &json!({"type": format!("urn:everbeat:problem:{slug}"), "title": slug, "status": status}))
}

pub(crate) struct Server {
    pub url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    pub async fn start(ca: &Ca, answer: impl Fn(&Seen) -> Said + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let url = format!("https://127.0.0.1:{}", listener.local_addr().unwrap().port());
        let acceptor = TlsAcceptor::from(Arc::new(ca.server()));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (answer, log, connections) = (Arc::new(answer), seen.clone(), AtomicU64::new(0));
        spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let connection = connections.fetch_add(1, Ordering::SeqCst);
                let (acceptor, answer, log) = (acceptor.clone(), answer.clone(), log.clone());
                spawn(async move {
                    let Ok(stream) = acceptor.accept(socket).await else { return };
                    let service = service_fn(move |request| {
                        let (answer, log) = (answer.clone(), log.clone());
                        async move { handle(request, connection, &*answer, &log).await }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self { url, seen }
    }

    /// The requests to this path so far.
    pub fn seen(&self, path: &str) -> Vec<Seen> {
        self.seen.lock().unwrap().iter().filter(|seen| seen.path == path).cloned().collect()
    }
}

async fn handle(
    request: Request<hyper::body::Incoming>,
    connection: u64,
    answer: &(impl Fn(&Seen) -> Said + Send + Sync),
    log: &Mutex<Vec<Seen>>,
) -> Result<Response<Full<Bytes>>, HangUp> {
    let (head, body) = request.into_parts();
    let header = |(name, value): (&hyper::header::HeaderName, &hyper::header::HeaderValue)| {
        (name.to_string(), value.to_str().unwrap().to_owned())
    };
    let headers = head.headers.iter().map(header).collect();
    let body = body.collect().await.map_err(|_| HangUp)?.to_bytes();
    let seen = Seen { path: head.uri.path().to_owned(), headers, body, connection };
    log.lock().unwrap().push(seen.clone());
    answer(&seen).ok_or(HangUp)
}

#[derive(Debug, thiserror::Error)]
#[error("hangs up")]
struct HangUp;

impl From<Infallible> for HangUp {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

/// Short waits; the first attempt and five retries.
pub(crate) fn context() -> Context {
    let mut settings = ClientSettings::device();
    settings.connect_timeout = Duration::from_secs(2);
    settings.request_timeout = Duration::from_secs(2);
    settings.retry.backoff_base = Duration::from_millis(5);
    settings.retry.backoff_max = Duration::from_millis(20);
    settings.retry.budget_max = 100.0;
    Context { settings, clock: Clock::System, random: Random::seeded(11) }
}

/// A service that does what the contract says, certificates that last `life` included.
pub(crate) fn service(ca: &Arc<Ca>, life: Duration) -> impl Fn(&Seen) -> Said + Send + Sync + use<> {
    let (ca, tokens) = (ca.clone(), AtomicU64::new(0));
    move |seen| match seen.path.as_str() {
        "/v1/ca" => Some(Response::new(Full::new(ca.pem.clone().into()))),
        "/v1/enroll" | "/v1/renew" => {
            let now = Clock::System.wall();
            let name = seen.json().get("name").and_then(Value::as_str).unwrap_or("pump-1").to_owned();
            let status = if seen.path == "/v1/enroll" { 201 } else { 200 };
            says(
                status,
                &json!({
                    "device": {"id": "0192f6d0-7b7a-7c3e-9d5e-0123456789ab", "name": name, "fleet": "plant"},
                    "certificate": ca.sign(seen.json()["csr"].as_str().unwrap()),
                    "ca": ca.pem,
                    "not_after": rfc3339(now + life),
                    "renew_after": rfc3339(now + life * 2 / 3),
                    "endpoints": ["http://nonsense"],
                }),
            )
        }
        "/v1/token" => {
            let token = format!("token-{}", tokens.fetch_add(1, Ordering::SeqCst));
            says(200, &json!({"access_token": token, "token_type": "Bearer", "expires_in": 600}))
        }
        "/v1/heartbeat" => {
            says(200, &json!({"next_in_s": 30.0, "server_time": "2026-11-23T10:00:00.000000Z", "messages": 0}))
        }
        _ => problem(404, "not-found"),
    }
}

/// A directory that ends with the test.
pub(crate) struct Temp(pub std::path::PathBuf);

impl Temp {
    pub fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("everbeat-client-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        Self(dir)
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
