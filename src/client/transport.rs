//! One request on one connection: HTTP/1.1 over TLS, kept alive, with a deadline for each step and a limit on what
//! may come back. A transport is bound to one TLS configuration: a renewed certificate gets a new one, and the
//! connections of the old one end with it.

use std::error::Error as StdError;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::header::{
    ACCEPT, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT,
};
use hyper::{Method, Request, Response, Uri};
use hyper_rustls::{DefaultServerNameResolver, HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;

use super::error::ClientError;
use super::settings::ClientSettings;

/// Who we say we are.
const AGENT: &str = concat!("everbeat/", env!("CARGO_PKG_VERSION"));
const KEEPALIVE: Duration = Duration::from_secs(30);

/// A request, as often as it may be sent.
#[derive(Clone)]
pub struct Call {
    pub method: Method,
    /// Path and query, beginning with `/`.
    pub path: String,
    pub body: Bytes,
    pub content_type: Option<&'static str>,
    pub content_encoding: Option<&'static str>,
    pub bearer: Option<HeaderValue>,
    pub idempotency_key: Option<HeaderValue>,
    /// A status beside 2xx that is an answer and not a refusal, when it comes with `application/json`.
    pub also: Option<u16>,
}

impl Call {
    pub fn get(path: impl Into<String>) -> Self {
        Self {
            method: Method::GET,
            path: path.into(),
            body: Bytes::new(),
            content_type: None,
            content_encoding: None,
            bearer: None,
            idempotency_key: None,
            also: None,
        }
    }

    /// A POST with a JSON body.
    pub fn post_json(path: impl Into<String>, body: &impl serde::Serialize) -> Result<Self, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| ClientError::Input(format!("not JSON: {error}")))?;
        Ok(Self { content_type: Some("application/json"), ..Self::post(path, body.into()) })
    }

    pub fn post(path: impl Into<String>, body: Bytes) -> Self {
        Self { method: Method::POST, body, ..Self::get(path) }
    }

    /// `Authorization: Bearer …`, kept out of debug output.
    pub fn bearer(mut self, token: &str) -> Result<Self, ClientError> {
        let value = HeaderValue::try_from(format!("Bearer {token}"));
        let mut value = value.map_err(|_| ClientError::Input("the token cannot stand in a header".to_owned()))?;
        value.set_sensitive(true);
        self.bearer = Some(value);
        Ok(self)
    }
}

/// Any answer, whatever its status.
#[derive(Debug)]
pub struct Answer {
    pub endpoint: String,
    pub status: u16,
    pub is_json: bool,
    pub retry_after: Option<String>,
    pub body: Bytes,
    headers: HeaderMap,
}

impl Answer {
    /// A header's first value, if it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The body as `T`.
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, ClientError> {
        serde_json::from_slice(&self.body).map_err(|error| self.unexpected(format!("{} with {error}", self.status)))
    }

    pub fn unexpected(&self, detail: impl Into<String>) -> ClientError {
        ClientError::Answer { endpoint: self.endpoint.clone(), detail: detail.into() }
    }
}

#[cfg(test)]
impl Answer {
    /// A 200 with JSON.
    pub fn example(headers: HeaderMap, body: &'static str) -> Self {
        let (endpoint, body) = (String::new(), Bytes::from_static(body.as_bytes()));
        Self { endpoint, status: 200, is_json: true, retry_after: None, body, headers }
    }
}

/// A pool of connections with one TLS configuration. Clones share it.
#[derive(Clone)]
pub struct Transport {
    client: Client<Connector, Full<Bytes>>,
    connector: Connector,
    idle_timeout: Duration,
    request_timeout: Duration,
    answer_bytes_max: usize,
}

impl Transport {
    pub fn new(mut tls: rustls::ClientConfig, settings: &ClientSettings) -> Self {
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(KEEPALIVE));
        let https = HttpsConnector::new(tcp, tls, true, Arc::new(DefaultServerNameResolver::default()));
        let connector = Connector { https, limit: settings.connect_timeout, begun: Arc::default() };
        Self {
            client: pool(connector.clone(), settings.idle_timeout),
            connector,
            idle_timeout: settings.idle_timeout,
            request_timeout: settings.request_timeout,
            answer_bytes_max: settings.answer_bytes_max,
        }
    }

    /// The same, with no connections yet.
    #[must_use]
    pub fn reconnected(&self) -> Self {
        let connector = Connector { begun: Arc::default(), ..self.connector.clone() };
        Self { client: pool(connector.clone(), self.idle_timeout), connector, ..self.clone() }
    }

    /// How many connections were begun so far. A call during which it did not grow went over an old one.
    pub fn connections(&self) -> u64 {
        self.connector.begun.load(Ordering::Relaxed)
    }

    /// Sends the call once and reads the whole answer.
    pub async fn exchange(&self, endpoint: &str, call: &Call) -> Result<Answer, ClientError> {
        let request = request(endpoint, call)?;
        let limit = self.request_timeout;
        let work = async {
            let response = self.client.request(request).await.map_err(|error| classify(endpoint, &error))?;
            self.read(endpoint, response).await
        };
        let timeout = |_| ClientError::Timeout { endpoint: endpoint.to_owned(), limit };
        tokio::time::timeout(limit, work).await.map_err(timeout)?
    }

    async fn read(&self, endpoint: &str, response: Response<hyper::body::Incoming>) -> Result<Answer, ClientError> {
        let (head, body) = response.into_parts();
        let body = Limited::new(body, self.answer_bytes_max).collect().await.map_err(|error| {
            let endpoint = endpoint.to_owned();
            if error.is::<LengthLimitError>() {
                let detail = format!("a body of more than {} bytes", self.answer_bytes_max);
                return ClientError::Answer { endpoint, detail };
            }
            ClientError::Broken { endpoint, cause: error.to_string() }
        })?;
        let text = |name: HeaderName| head.headers.get(name).and_then(|value| value.to_str().ok());
        let is_json = text(CONTENT_TYPE).is_some_and(is_json);
        let retry_after = text(RETRY_AFTER).map(str::to_owned);
        Ok(Answer {
            endpoint: endpoint.to_owned(),
            status: head.status.as_u16(),
            is_json,
            retry_after,
            body: body.to_bytes(),
            headers: head.headers,
        })
    }
}

fn pool(connector: Connector, idle_timeout: Duration) -> Client<Connector, Full<Bytes>> {
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(idle_timeout)
        .pool_max_idle_per_host(8)
        .build(connector)
}

/// Is this media type `application/json`, with or without parameters?
fn is_json(content_type: &str) -> bool {
    let media_type = content_type.split(';').next().unwrap_or_default();
    media_type.trim().eq_ignore_ascii_case("application/json")
}

fn request(endpoint: &str, call: &Call) -> Result<Request<Full<Bytes>>, ClientError> {
    let mut request = Request::builder()
        .method(call.method.clone())
        .uri(format!("{endpoint}{}", call.path))
        .header(USER_AGENT, AGENT)
        .header(ACCEPT, "application/json, application/problem+json;q=0.9, */*;q=0.1");
    let texts = [(CONTENT_TYPE, call.content_type), (CONTENT_ENCODING, call.content_encoding)];
    for (name, value) in texts.into_iter().filter_map(|(name, value)| Some((name, value?))) {
        request = request.header(name, value);
    }
    let values = [(AUTHORIZATION, &call.bearer), (HeaderName::from_static("idempotency-key"), &call.idempotency_key)];
    for (name, value) in values.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))) {
        request = request.header(name, value);
    }
    request
        .body(Full::new(call.body.clone()))
        .map_err(|error| ClientError::Input(format!("{} is not a path: {error}", call.path)))
}

/// TCP, then TLS, both within one deadline.
#[derive(Clone)]
struct Connector {
    https: HttpsConnector<HttpConnector>,
    limit: Duration,
    /// Connections so far.
    begun: Arc<AtomicU64>,
}

type BoxError = Box<dyn StdError + Send + Sync>;
type Stream = MaybeHttpsStream<TokioIo<TcpStream>>;

impl tower::Service<Uri> for Connector {
    type Response = Stream;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut TaskContext<'_>) -> Poll<Result<(), BoxError>> {
        self.https.poll_ready(context)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        self.begun.fetch_add(1, Ordering::Relaxed);
        let (work, limit) = (self.https.call(uri), self.limit);
        Box::pin(async move {
            tokio::time::timeout(limit, work)
                .await
                .unwrap_or_else(|_| Err(format!("no connection within {limit:?}").into()))
        })
    }
}

/// Which kind of failure it was. A connection that never came to be is told from one that broke.
fn classify(endpoint: &str, error: &hyper_util::client::legacy::Error) -> ClientError {
    let endpoint = endpoint.to_owned();
    let cause = innermost(error);
    match tls_error(error) {
        Some(rustls::Error::InvalidCertificate(reason)) => {
            ClientError::Untrusted { endpoint, cause: format!("its certificate: {reason}") }
        }
        _ if error.is_connect() => ClientError::Connect { endpoint, cause },
        _ => ClientError::Broken { endpoint, cause },
    }
}

fn innermost(error: &(dyn StdError + 'static)) -> String {
    chain(error).last().map_or_else(|| error.to_string(), ToString::to_string)
}

fn tls_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    chain(error).find_map(|error| error.downcast_ref::<rustls::Error>())
}

/// The errors from the outermost inwards. An `io::Error` hides the error it wraps from `source`, so look inside.
fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error| {
        let error: &'a (dyn StdError + 'static) = *error;
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        wrapped.map(|inner| -> &(dyn StdError + 'static) { inner }).or_else(|| error.source())
    })
}
