//! Renegotiation (TLS 1.2). No client library asks for it any more, so the records are made by hand.

use std::sync::Arc;

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use rustls::crypto::aws_lc_rs::cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256;
use rustls::version::TLS12;
use rustls::{ClientConfig, ConnectionTrafficSecrets};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::app::{HTTP_1, TestApp};
use crate::honest::undisturbed;
use crate::tls::handshake;

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;
const NO_RENEGOTIATION: u8 = 100;

/// One direction's keys (RFC 7905).
struct Half {
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
}

impl Half {
    fn new((sequence, secrets): (u64, ConnectionTrafficSecrets)) -> Self {
        let ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } = secrets else { panic!("another cipher") };
        let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key.as_ref()).unwrap());
        Self { key, iv: iv.as_ref().try_into().unwrap(), sequence }
    }

    fn next(&mut self, kind: u8, length: usize) -> (Nonce, Aad<Vec<u8>>) {
        let mut nonce = self.iv;
        for (byte, other) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= other;
        }
        let mut aad = self.sequence.to_be_bytes().to_vec();
        aad.extend([kind, 3, 3]);
        aad.extend(u16::try_from(length).unwrap().to_be_bytes());
        self.sequence += 1;
        (Nonce::assume_unique_for_key(nonce), Aad::from(aad))
    }

    fn seal(&mut self, kind: u8, text: &[u8]) -> Vec<u8> {
        let (nonce, aad) = self.next(kind, text.len());
        let mut sealed = text.to_vec();
        self.key.seal_in_place_append_tag(nonce, aad, &mut sealed).unwrap();
        let mut record = vec![kind, 3, 3];
        record.extend(u16::try_from(sealed.len()).unwrap().to_be_bytes());
        record.append(&mut sealed);
        record
    }

    fn open(&mut self, kind: u8, mut sealed: Vec<u8>) -> Vec<u8> {
        let (nonce, aad) = self.next(kind, sealed.len() - CHACHA20_POLY1305.tag_len());
        self.key.open_in_place(nonce, aad, &mut sealed).unwrap().to_vec()
    }
}

struct Records {
    tcp: TcpStream,
    out: Half,
    back: Half,
}

impl Records {
    async fn send(&mut self, kind: u8, text: &[u8]) {
        let record = self.out.seal(kind, text);
        self.tcp.write_all(&record).await.unwrap();
    }

    /// The next record: its kind and text. `None` at the end.
    async fn receive(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut head = [0; 5];
        self.tcp.read_exact(&mut head).await.ok()?;
        let mut sealed = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
        self.tcp.read_exact(&mut sealed).await.ok()?;
        Some((head[0], self.back.open(head[0], sealed)))
    }
}

async fn connect(app: &TestApp) -> Records {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.cipher_suites = vec![TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256];
    let builder = ClientConfig::builder_with_provider(Arc::new(provider)).with_protocol_versions(&[&TLS12]).unwrap();
    let mut config = builder.with_root_certificates(app.trust()).with_no_client_auth();
    config.alpn_protocols = vec![HTTP_1.to_vec()];
    config.enable_secret_extraction = true;
    let stream = handshake(app.replica.running.device_addr, Arc::new(config)).await.unwrap();
    let (tcp, connection) = stream.into_inner();
    let secrets = connection.dangerous_extract_secrets().unwrap();
    Records { tcp, out: Half::new(secrets.tx), back: Half::new(secrets.rx) }
}

/// Its body does not matter: the kind of the message is what is refused.
const CLIENT_HELLO: [u8; 47] = {
    let mut hello = [0; 47];
    (hello[0], hello[3]) = (1, 43);
    (hello[4], hello[5]) = (3, 3);
    (hello[40], hello[41], hello[42]) = (2, 0xcc, 0xa9);
    hello[43] = 1;
    hello
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renegotiation_is_refused() {
    let app = TestApp::new().await;
    let attack = async {
        let mut records = connect(&app).await;
        records.send(HANDSHAKE, &CLIENT_HELLO).await;
        assert_eq!(records.receive().await, Some((ALERT, vec![1, NO_RENEGOTIATION])), "RFC 5246, 7.2.2");
        // Nothing has changed for the connection.
        records.send(DATA, b"GET /v1/ca HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let (kind, answer) = records.receive().await.unwrap();
        assert!(kind == DATA && answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
        // Whoever insists is cut off, before it costs anything.
        for _ in 0..10 {
            let record = records.out.seal(HANDSHAKE, &CLIENT_HELLO);
            let _ = records.tcp.write_all(&record).await;
        }
        while let Some((kind, text)) = records.receive().await {
            assert!(kind != HANDSHAKE, "{text:?}");
        }
    };
    undisturbed(&app, attack).await;
}
