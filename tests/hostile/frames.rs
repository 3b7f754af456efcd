//! HTTP/2 by hand (RFC 9113): frames that no library would send.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::app::{Identity, TestApp};
use crate::tls::handshake;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// Error codes (RFC 9113, 7).
pub const PROTOCOL_ERROR: u32 = 1;
pub const FLOW_CONTROL_ERROR: u32 = 3;
pub const FRAME_SIZE_ERROR: u32 = 6;
pub const ENHANCE_YOUR_CALM: u32 = 11;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Longer than any deadline that a test waits for.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// Does the header block hold this `:status`? Only those that the tests ask for are known.
    pub fn has_status(&self, status: u16) -> bool {
        // From the static table (RFC 7541, A), or its text in the Huffman code (B).
        let code: &[u8] = match status {
            400 => &[0x8c],
            404 => &[0x8d],
            431 => &[0x83, 0x69, 0x90, 0xff],
            other => panic!("{other}"),
        };
        self.payload.windows(code.len()).any(|part| part == code)
    }

    /// A number at this place of the payload.
    pub fn number(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// One setting (RFC 9113, 6.5.1).
pub fn setting(id: u16, value: u32) -> Vec<u8> {
    [id.to_be_bytes().as_slice(), &value.to_be_bytes()].concat()
}

/// An HPACK integer with this many bits in its first byte (RFC 7541, 5.1).
fn integer(prefix: u8, bits: u32, mut value: usize) -> Vec<u8> {
    let most = (1_usize << bits) - 1;
    if value < most {
        return vec![prefix | u8::try_from(value).unwrap()];
    }
    let mut bytes = vec![prefix | u8::try_from(most).unwrap()];
    value -= most;
    while value >= 128 {
        bytes.push(u8::try_from(value % 128).unwrap() | 128);
        value /= 128;
    }
    bytes.push(u8::try_from(value).unwrap());
    bytes
}

fn text(text: &str) -> Vec<u8> {
    [integer(0, 7, text.len()), text.as_bytes().to_vec()].concat()
}

/// A field that is not remembered (RFC 7541, 6.2.2).
pub fn field(name: &str, value: &str) -> Vec<u8> {
    [vec![0], text(name), text(value)].concat()
}

/// A field that goes into the table of both sides (RFC 7541, 6.2.1).
pub fn remembered(name: &str, value: &str) -> Vec<u8> {
    [vec![0x40], text(name), text(value)].concat()
}

/// The newest field of that table (RFC 7541, 6.1).
pub const NEWEST: u8 = 0x80 | 0x3e;

pub fn request(method: &str, path: &str) -> Vec<u8> {
    let fields = [(":method", method), (":scheme", "https"), (":authority", "localhost"), (":path", path)];
    fields.map(|(name, value)| field(name, value)).concat()
}

/// One connection: sending and receiving are apart, so that a test may do the one without the other.
pub struct Http2 {
    pub from: ReadHalf<TlsStream<TcpStream>>,
    to: WriteHalf<TlsStream<TcpStream>>,
}

impl Http2 {
    /// Past TLS, and nothing said yet.
    pub async fn silent(app: &TestApp, identity: Option<&Identity>) -> Self {
        let stream = handshake(app.replica.running.device_addr, app.tls(identity, b"h2")).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (from, to) = tokio::io::split(stream);
        Self { from, to }
    }

    /// Preface and settings are sent.
    pub async fn open(app: &TestApp, identity: Option<&Identity>, settings: &[u8]) -> Self {
        let mut this = Self::silent(app, identity).await;
        this.send(&[PREFACE, &frame(SETTINGS, 0, 0, settings)].concat()).await;
        this
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        assert!(self.try_send(bytes).await, "it was closed");
    }

    /// False: the other side has closed it, or takes no more.
    pub async fn try_send(&mut self, bytes: &[u8]) -> bool {
        let sent = async {
            self.to.write_all(bytes).await?;
            self.to.flush().await
        };
        matches!(tokio::time::timeout(Duration::from_secs(1), sent).await, Ok(Ok(())))
    }

    /// The next frame, which comes in time. `None` at the end.
    pub async fn next(&mut self) -> Option<Frame> {
        tokio::time::timeout(PATIENCE, self.read()).await.unwrap()
    }

    async fn read(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.from.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        self.from.read_exact(&mut payload).await.ok()?;
        let stream = u32::from_be_bytes(head[5..].try_into().unwrap());
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// The next frame of this kind and stream, whatever comes before it.
    pub async fn wait_for(&mut self, kind: u8, stream: u32) -> Frame {
        loop {
            let frame = self.next().await.unwrap_or_else(|| panic!("it ended before frame {kind} of stream {stream}"));
            if (frame.kind, frame.stream) == (kind, stream) {
                return frame;
            }
            assert_ne!(frame.kind, GOAWAY, "{frame:?}");
        }
    }

    /// With what the other side ends the connection: the code of its last GOAWAY, if one came.
    pub async fn ended_with(&mut self) -> Option<u32> {
        let mut code = None;
        while let Some(frame) = self.next().await {
            if frame.kind == GOAWAY {
                code = Some(frame.number(4));
            }
        }
        code
    }
}
