//! What the load generator is let loose on: a TLS server that wants a certificate of every caller and can stand still,
//! devices that are enrolled there already, and the files that the command line names.

use std::collections::HashMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use everbeat::client::state::DeviceFile;
use everbeat::client::{Identity, StateDir};
use everbeat::domain::ids::DeviceId;
use everbeat::domain::time::Clock;
use everbeat::identity::ca::{Issuer, Root};
use everbeat::identity::csr::{self, ExpectedNames};
use everbeat::lifecycle::tasks;
use everbeat::wire::device::DeviceRef;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

const DAY: Duration = Duration::from_hours(24);

/// How the server answers.
#[derive(Clone, Copy)]
pub enum Manner {
    AtOnce,
    /// At once, but for the time between these two, counted from the first request: whoever comes then waits for its end.
    Stalls(Duration, Duration),
    /// So many at a time, each after so long.
    Works(usize, Duration),
}

/// What the server has seen.
pub struct Seen {
    manner: Manner,
    begun: OnceLock<Instant>,
    places: Semaphore,
    /// Requests that came during the stall.
    pub stalled: AtomicUsize,
    /// How many of each: path, and readings in it.
    pub calls: Mutex<HashMap<(String, usize), usize>>,
}

impl Seen {
    async fn answer(&self, request: Request<hyper::body::Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        if head.uri.path() == "/v1/token" {
            return says(r#"{"access_token":"t","token_type":"Bearer","expires_in":600}"#);
        }
        let readings = match serde_json::from_slice::<Value>(&body).unwrap() {
            Value::Array(readings) => readings.len(),
            one => usize::from(one.get("values").is_some()),
        };
        *self.calls.lock().unwrap().entry((head.uri.path().to_owned(), readings)).or_default() += 1;
        match self.manner {
            Manner::AtOnce => {}
            Manner::Stalls(from, to) => {
                let begun = *self.begun.get_or_init(Instant::now);
                if (from..to).contains(&begun.elapsed()) {
                    self.stalled.fetch_add(1, Ordering::SeqCst);
                    tokio::time::sleep_until(begun + to).await;
                }
            }
            Manner::Works(_, time) => {
                let _place = self.places.acquire().await.unwrap();
                tokio::time::sleep(time).await;
            }
        }
        says("{}")
    }
}

fn says(body: &'static str) -> Response<Full<Bytes>> {
    Response::builder().header("content-type", "application/json").body(Full::new(body.into())).unwrap()
}

/// Ends, and removes its directory, when dropped.
pub struct Target {
    pub dir: PathBuf,
    pub seen: Arc<Seen>,
    url: String,
    _accepting: AbortOnDropHandle<()>,
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Target {
    pub async fn start(name: &str, devices: usize, manner: Manner) -> Self {
        let dir = std::env::temp_dir().join(format!("everbeat-bench-test-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        let root = Root::make(Clock::System.wall()).unwrap();
        let issuer = root.make_issuer(Clock::System.wall()).unwrap();
        std::fs::write(dir.join("ca.pem"), format!("{}{}", root.certificate_pem(), issuer.certificate_pem())).unwrap();
        std::fs::write(dir.join("admin-token"), "nobody is enrolled").unwrap();
        for index in 0..devices {
            enroll(&dir.join(format!("devices/bench-{index:05}")), &issuer);
        }
        let places = Semaphore::new(if let Manner::Works(places, _) = manner { places } else { 0 });
        let (begun, stalled, calls) = (OnceLock::new(), AtomicUsize::new(0), Mutex::default());
        let seen = Arc::new(Seen { manner, begun, places, stalled, calls });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://127.0.0.1:{}", listener.local_addr().unwrap().port());
        let (acceptor, watching) = (TlsAcceptor::from(server_tls(&root, &issuer)), seen.clone());
        let accepting = tasks::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                drop(tasks::spawn(serve(acceptor.clone(), socket, watching.clone())));
            }
        });
        Self { dir, seen, url, _accepting: AbortOnDropHandle::new(accepting) }
    }

    /// `everbeat bench` against the server; the result is `NAME.json` and `NAME.html` in the directory.
    pub fn command(&self, name: &str, args: &[&str]) -> Command {
        let path = |name: &str| self.dir.join(name);
        let mut command = Command::new(env!("CARGO_BIN_EXE_everbeat"));
        command.arg("bench").args(["--url", &self.url]).arg("--ca").arg(path("ca.pem"));
        command.arg("--token-file").arg(path("admin-token")).arg("--devices-dir").arg(path("devices"));
        command.arg("--out").arg(path(name)).args(args).kill_on_drop(true);
        command
    }

    pub async fn bench(&self, name: &str, args: &[&str]) -> Output {
        self.command(name, args).output().await.unwrap()
    }

    /// The JSON and the page of a run.
    pub fn result(&self, name: &str) -> (Value, String) {
        let read = |ending: &str| std::fs::read_to_string(self.dir.join(name).with_extension(ending)).unwrap();
        (serde_json::from_str(&read("json")).unwrap(), read("html"))
    }
}

/// Until the caller leaves.
async fn serve(acceptor: TlsAcceptor, socket: TcpStream, seen: Arc<Seen>) {
    let _ = socket.set_nodelay(true);
    let Ok(stream) = acceptor.accept(socket).await else { return };
    let service = service_fn(move |request| {
        let seen = seen.clone();
        async move { Ok::<_, Infallible>(seen.answer(request).await) }
    });
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

fn server_tls(root: &Root, issuer: &Issuer) -> Arc<ServerConfig> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(root.certificate_pem().as_bytes()).unwrap()).unwrap();
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap();
    let made = issuer.make_server(&["127.0.0.1".to_owned()], Clock::System.wall()).unwrap();
    let chain = CertificateDer::pem_slice_iter(made.chain_pem.as_bytes()).collect::<Result<_, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(made.key_pem.as_bytes()).unwrap();
    Arc::new(ServerConfig::builder().with_client_cert_verifier(verifier).with_single_cert(chain, key).unwrap())
}

/// A device as an enrollment leaves it.
fn enroll(dir: &Path, issuer: &Issuer) {
    let (key, mut params) = (KeyPair::generate().unwrap(), CertificateParams::default());
    params.distinguished_name = DistinguishedName::new();
    let csr = params.serialize_request(&key).unwrap().pem().unwrap();
    let csr = csr::check(&csr, &ExpectedNames { name: "any", id: None }).unwrap();
    let id = DeviceId(Uuid::now_v7());
    let made = issuer.issue(&csr, id, Clock::System.wall(), DAY).unwrap();
    let device = DeviceRef { id, name: "any".to_owned(), fleet: "bench".to_owned() };
    let record = DeviceFile { device, endpoints: Vec::new(), not_after: made.not_after, renew_after: made.renew_after };
    let identity = Identity {
        record,
        key_pem: key.serialize_pem().into(),
        certificate_pem: made.pem_chain,
        ca_pem: issuer.certificate_pem().to_owned(),
    };
    let state = StateDir::open(dir).unwrap();
    state.commit(&identity, &state.lock().unwrap()).unwrap();
}
