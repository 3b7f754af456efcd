//! HTTP/1.1 by hand: what is sent is exactly what a test says, well-formed or not, and every byte that comes back is
//! accounted for.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longer than any deadline of the service that a test waits for.
const LIMIT: Duration = Duration::from_secs(20);

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A request to be.
#[derive(Clone, Debug)]
pub struct Ask {
    head: String,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    has_length: bool,
}

impl Ask {
    pub fn get(path: &str) -> Self {
        Self::of("GET", path)
    }

    pub fn post(path: &str) -> Self {
        Self::of("POST", path)
    }

    pub fn of(method: &str, path: &str) -> Self {
        let head = format!("{method} {path} HTTP/1.1\r\n");
        Self { head, headers: Vec::new(), body: Vec::new(), has_length: method != "GET" }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn bearer(self, token: &str) -> Self {
        self.header("Authorization", &format!("Bearer {token}"))
    }

    pub fn bytes(mut self, media: &str, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self.header("Content-Type", media)
    }

    pub fn text(self, body: &str) -> Self {
        self.bytes("application/json", body.as_bytes())
    }

    pub fn json(self, body: &Value) -> Self {
        self.text(&body.to_string())
    }

    /// The header section alone, with headers of the test's own about the body.
    pub fn head_only(mut self) -> Vec<u8> {
        self.has_length = false;
        self.encode()
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut text = format!("{}Host: localhost\r\n", self.head);
        for (name, value) in &self.headers {
            let _ = write!(text, "{name}: {value}\r\n");
        }
        if self.has_length || !self.body.is_empty() {
            let _ = write!(text, "Content-Length: {}\r\n", self.body.len());
        }
        text.push_str("\r\n");
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// An answer, read to its end.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    /// One that came over another protocol.
    pub fn of(status: u16, headers: Vec<(String, String)>, body: Vec<u8>) -> Self {
        Self { status, headers, body }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {} {}", self.status, self.text()))
    }

    /// The body of a success.
    pub fn ok(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        assert!(self.header("x-request-id").is_some(), "every answer has its request's id");
        if self.body.is_empty() { Value::Null } else { self.json() }
    }

    /// A problem as API.md promises it: checks all that every problem has, and returns it.
    pub fn refused(&self, status: u16, slug: &str) -> Value {
        assert_eq!(self.status, status, "expected {slug}: {}", self.text());
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{}", self.text());
        let problem = self.json();
        assert_eq!(problem["type"], format!("urn:everbeat:problem:{slug}"), "{problem}");
        assert_eq!(problem["status"], status, "{problem}");
        assert_eq!(problem["request_id"].as_str(), self.header("x-request-id"), "{problem}");
        assert!(problem["title"].as_str().is_some_and(|title| title.len() > 5), "{problem}");
        let helps = |value: &Value| value["detail"].as_str().is_some_and(|detail| detail.len() > 5);
        let fields = problem["errors"].as_array().cloned().unwrap_or_default();
        assert!(helps(&problem) || (!fields.is_empty() && fields.iter().all(helps)), "no help in {problem}");
        assert_eq!(status == 401, self.header("www-authenticate").is_some(), "{:?}", self.headers);
        let pause = self.header("retry-after").map(|seconds| seconds.parse::<u64>().unwrap());
        assert_eq!(matches!(status, 429 | 503), pause.is_some(), "{:?}", self.headers);
        assert_eq!(problem["retry_after_ms"].is_u64(), pause.is_some(), "{problem}");
        problem
    }
}

/// One connection.
pub struct Wire {
    stream: Box<dyn Stream>,
    came: Vec<u8>,
}

impl Wire {
    pub async fn tls(addr: SocketAddr, config: Arc<rustls::ClientConfig>) -> Self {
        let tcp = TcpStream::connect(addr).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = tokio_rustls::TlsConnector::from(config).connect(name, tcp).await.unwrap();
        Self { stream: Box::new(stream), came: Vec::new() }
    }

    /// From behind a load balancer, which says this first.
    pub async fn behind(addr: SocketAddr, header: &[u8], config: Arc<rustls::ClientConfig>) -> Self {
        let mut tcp = TcpStream::connect(addr).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        tcp.write_all(header).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = tokio_rustls::TlsConnector::from(config).connect(name, tcp).await.unwrap();
        Self { stream: Box::new(stream), came: Vec::new() }
    }

    pub async fn plain(addr: SocketAddr) -> Self {
        Self { stream: Box::new(TcpStream::connect(addr).await.unwrap()), came: Vec::new() }
    }

    pub async fn call(&mut self, ask: &Ask) -> Answer {
        self.send(&ask.encode()).await;
        self.answer().await
    }

    /// `None` if the other side closed the connection instead of an answer.
    pub async fn try_call(&mut self, ask: &Ask) -> Option<Answer> {
        self.try_send(&ask.encode()).await.ok()?;
        self.try_answer().await
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).await.unwrap();
    }

    /// The other side may have stopped to listen.
    pub async fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    pub async fn answer(&mut self) -> Answer {
        self.try_answer().await.unwrap()
    }

    /// `None` if the connection ended before the answer did.
    pub async fn try_answer(&mut self) -> Option<Answer> {
        tokio::time::timeout(LIMIT, self.read_answer()).await.unwrap()
    }

    /// Has an answer begun to arrive within `limit`?
    pub async fn answers_within(&mut self, limit: Duration) -> bool {
        !self.came.is_empty() || tokio::time::timeout(limit, self.more()).await.is_ok_and(|more| more.is_some())
    }

    /// Has the other side closed it? Looks for a moment.
    pub async fn has_ended(&mut self) -> bool {
        tokio::time::timeout(Duration::from_millis(20), self.more()).await.is_ok_and(|more| more.is_none())
    }

    /// The answer to a HEAD, which has no body whatever its headers say.
    pub async fn head(&mut self, ask: &Ask) -> Answer {
        self.send(&ask.encode()).await;
        let answer = tokio::time::timeout(LIMIT, self.read_head()).await.unwrap().unwrap();
        assert!(!self.answers_within(Duration::from_millis(20)).await, "a HEAD was answered with a body");
        answer
    }

    async fn read_head(&mut self) -> Option<Answer> {
        let end = loop {
            if let Some(end) = find(&self.came, b"\r\n\r\n") {
                break end;
            }
            self.more().await?;
        };
        let head = String::from_utf8(self.came.drain(..end + 4).collect()).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let status: u16 = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines.map(|line| line.split_once(": ").unwrap_or((line.trim_end_matches(':'), "")));
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Some(Answer { status, headers, body: Vec::new() })
    }

    async fn read_answer(&mut self) -> Option<Answer> {
        let mut answer = self.read_head().await?;
        let status = answer.status;
        let length = answer.header("content-length").map(|length| length.parse::<usize>().unwrap());
        match (length, answer.header("transfer-encoding")) {
            (Some(length), None) => {
                while self.came.len() < length {
                    self.more().await?;
                }
                answer.body = self.came.drain(..length).collect();
            }
            (None, Some(_)) => answer.body = self.chunks().await?,
            (None, None) => {
                assert!(matches!(status, 204 | 304) || status < 200, "an answer without an end: {answer:?}");
            }
            (Some(_), Some(_)) => panic!("two lengths: {answer:?}"),
        }
        Some(answer)
    }

    async fn chunks(&mut self) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let end = loop {
                if let Some(end) = find(&self.came, b"\r\n") {
                    break end;
                }
                self.more().await?;
            };
            let size = usize::from_str_radix(std::str::from_utf8(&self.came[..end]).unwrap(), 16).unwrap();
            while self.came.len() < end + 2 + size + 2 {
                self.more().await?;
            }
            body.extend_from_slice(&self.came[end + 2..end + 2 + size]);
            self.came.drain(..end + 2 + size + 2);
            if size == 0 {
                return Some(body);
            }
        }
    }

    async fn more(&mut self) -> Option<()> {
        let read = self.stream.read_buf(&mut self.came).await.unwrap_or(0);
        (read > 0).then_some(())
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}
