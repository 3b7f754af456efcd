//! A listener with a service that tells what it saw, and clients.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::pki::{Ca, Issued, NOW};
use crate::domain::time::{Clock, unix_us};
use crate::lifecycle::shutdown::Shutdown;
use crate::lifecycle::tasks::{self, Tasks};
use crate::net::{
    Clearing, ClientAuth, ConnInfo, ConnectionSettings, Listener, ListenerSettings, Peer, TlsHandle, TlsSettings,
    UnverifiedSettings, bind, serve,
};

/// No test waits longer than this for anything.
pub const PATIENCE: Duration = Duration::from_secs(10);
pub const LONG: Duration = Duration::from_mins(5);

pub fn settings() -> ListenerSettings {
    ListenerSettings {
        connections: ConnectionSettings {
            connections_max: 100,
            first_request_deadline: LONG,
            idle_max: LONG,
            age_max: LONG,
            linger: LONG,
        },
        handshakes_max: 8,
        handshake_deadline: LONG,
        unverified: UnverifiedSettings { connections_max: 100, age_max: LONG, requests_max: 100 },
        proxy_peers: Vec::new(),
    }
}

pub struct Rig {
    pub address: SocketAddr,
    pub tasks: Tasks,
    pub tls: TlsHandle,
    pub files: tempfile::TempDir,
    pub server_ca: Ca,
    /// Root and issuing CA of the devices; both are in the bundle.
    pub root: Ca,
    pub issuing: Ca,
    /// Lets one request for `/wait` go on.
    pub go: Turns,
    /// Told when a request for `/wait` has begun.
    pub waiting: Turns,
}

/// Counted, so that none is lost whoever is scheduled first.
#[derive(Clone)]
pub struct Turns(Arc<Semaphore>);

impl Turns {
    fn none() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    pub fn give(&self, turns: usize) {
        self.0.add_permits(turns);
    }

    pub async fn take(&self) {
        self.0.acquire().await.unwrap().forget();
    }
}

pub fn write(directory: &Path, name: &str, text: &str) {
    let path = directory.join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

pub fn tls_settings(directory: &Path, client_auth: ClientAuth) -> TlsSettings {
    TlsSettings {
        certificate_file: directory.join("server.pem"),
        key_file: directory.join("server.key"),
        client_ca_file: Some(directory.join("ca.pem")),
        client_auth,
        dev: false,
    }
}

impl Rig {
    pub async fn device(settings: ListenerSettings) -> Self {
        Self::start(Listener::Device, ClientAuth::Optional, settings).await
    }

    pub async fn start(listener: Listener, client_auth: ClientAuth, settings: ListenerSettings) -> Self {
        let files = tempfile::tempdir().unwrap();
        let (server_ca, root) = (Ca::new("servers"), Ca::new("devices, root"));
        let issuing = root.sub("devices, issuing");
        let server = server_ca.server(None);
        write(files.path(), "server.pem", &server.pem);
        write(files.path(), "server.key", &server.key_pem);
        write(files.path(), "ca.pem", &(issuing.pem() + &root.pem()));
        let clock = Clock::manual(unix_us(NOW));
        let tls = TlsHandle::load(listener, tls_settings(files.path(), client_auth), clock).await.unwrap();
        let socket = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = socket.local_addr().unwrap();
        let tasks = Tasks::new(Shutdown::new());
        let (go, waiting) = (Turns::none(), Turns::none());
        let service = echo(go.clone(), waiting.clone());
        tasks.essential(
            "listener",
            serve(socket, Arc::new(settings), tls.clone(), Clearing::never(), tasks.clone(), service),
        );
        Self { address, tasks, tls, files, server_ca, root, issuing, go, waiting }
    }

    /// The client's side of TLS: trusts the server, shows `identity`, offers `alpn`.
    pub fn config(&self, identity: Option<&Issued>, alpn: &[&str]) -> ClientConfig {
        self.config_for(identity, alpn, &[&rustls::version::TLS13, &rustls::version::TLS12])
    }

    pub fn config_for(
        &self,
        identity: Option<&Issued>,
        alpn: &[&str],
        versions: &[&'static SupportedProtocolVersion],
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.server_ca.der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
        let builder = builder.with_root_certificates(roots);
        let mut config = match identity {
            Some(issued) => builder.with_client_auth_cert(issued.chain.clone(), issued.key()).unwrap(),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        config.resumption = Resumption::in_memory_sessions(32);
        config
    }

    pub async fn connect(&self, config: ClientConfig) -> std::io::Result<TlsStream<TcpStream>> {
        let socket = TcpStream::connect(self.address).await?;
        handshake(socket, config).await
    }

    /// Connects with `identity` and asks for `path` over HTTP/1.
    pub async fn get(&self, identity: Option<&Issued>, path: &str) -> Result<String, String> {
        let stream = self.connect(self.config(identity, &["http/1.1"])).await.map_err(|error| error.to_string())?;
        Client::http1(stream).await.get(path).await
    }
}

pub async fn handshake(socket: TcpStream, config: ClientConfig) -> std::io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from("127.0.0.1").unwrap();
    timeout(PATIENCE, TlsConnector::from(Arc::new(config)).connect(name, socket)).await.unwrap()
}

/// One line about the connection; `/wait` first waits to be told.
fn echo(
    go: Turns,
    waiting: Turns,
) -> impl tower::Service<
    Request<Incoming>,
    Response = Response<Full<Bytes>>,
    Error = Infallible,
    Future = impl Future<Output = Result<Response<Full<Bytes>>, Infallible>> + Send,
> + Clone
+ Send
+ 'static {
    tower::service_fn(move |request: Request<Incoming>| {
        let (go, waiting) = (go.clone(), waiting.clone());
        async move {
            if request.uri().path() == "/wait" {
                waiting.give(1);
                go.take().await;
            }
            let info = request.extensions().get::<Arc<ConnInfo>>();
            let text = info.map_or_else(|| "no info".to_owned(), |info| line(&request, info));
            Ok(Response::new(Full::new(Bytes::from(text))))
        }
    })
}

fn line(request: &Request<Incoming>, info: &ConnInfo) -> String {
    let peer = match &info.peer {
        Peer::None => "none".to_owned(),
        Peer::Verified(certificate) => format!("verified {}", certificate.device),
        Peer::Rejected(why, certificate) => {
            format!("{} {}", why.as_str(), certificate.as_ref().map_or("?".to_owned(), |c| c.device.to_string()))
        }
    };
    let ip = info.remote.ip();
    format!("{:?} {} {ip} {peer}", request.version(), info.listener.as_str())
}

pub enum Client {
    Http1(hyper::client::conn::http1::SendRequest<Empty<Bytes>>),
    Http2(hyper::client::conn::http2::SendRequest<Empty<Bytes>>),
}

impl Client {
    pub async fn http1(stream: TlsStream<TcpStream>) -> Self {
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tasks::spawn(connection);
        Self::Http1(sender)
    }

    pub async fn http2(stream: TlsStream<TcpStream>) -> Self {
        let executor = TokioExecutor::new();
        let (sender, connection) = hyper::client::conn::http2::handshake(executor, TokioIo::new(stream)).await.unwrap();
        tasks::spawn(connection);
        Self::Http2(sender)
    }

    pub async fn get(&mut self, path: &str) -> Result<String, String> {
        timeout(PATIENCE, self.exchange(path)).await.map_err(|_| "no answer".to_owned())?
    }

    async fn exchange(&mut self, path: &str) -> Result<String, String> {
        let uri = format!("https://127.0.0.1{path}");
        let request = |uri: &str| Request::get(uri).header("host", "127.0.0.1").body(Empty::new()).unwrap();
        let response = match self {
            Self::Http1(sender) => {
                sender.ready().await.map_err(|error| error.to_string())?;
                sender.send_request(request(path)).await
            }
            Self::Http2(sender) => {
                sender.ready().await.map_err(|error| error.to_string())?;
                sender.send_request(request(&uri)).await
            }
        };
        let response = response.map_err(|error| error.to_string())?;
        let body = response.into_body().collect().await.map_err(|error| error.to_string())?;
        Ok(String::from_utf8(body.to_bytes().to_vec()).unwrap())
    }

    /// Waits for the server to close the connection.
    pub async fn closed(&mut self) {
        let closed = async {
            loop {
                let is_closed = match self {
                    Self::Http1(sender) => sender.is_closed(),
                    Self::Http2(sender) => sender.is_closed(),
                };
                if is_closed {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, closed).await.expect("the server closes the connection");
    }
}

/// Reads until the other side closes or breaks the connection; what came.
pub async fn read_to_end<R: tokio::io::AsyncRead + Unpin>(stream: &mut R) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("the server closes the connection");
    bytes
}
