//! Every decoder of what callers send, as a function of bytes that must not panic: for `fuzz/`, and for the test that
//! runs its corpora. Each also asserts what its caller relies on, and says whether it took the bytes. No part of the
//! service.
//!
//! # Panics
//! All of them, when a promise is broken: that is what they are for.

use std::collections::HashSet;
use std::str::FromStr;
use std::sync::LazyLock;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use futures_util::FutureExt as _;
use serde::de::IgnoredAny;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::domain::enrollment::EnrollmentToken;
use crate::domain::ids::DeviceId;
use crate::http::page::Paging;
use crate::identity::csr::{self, ExpectedNames};
use crate::identity::jwt::{Audience, TokenPublicKey, Verifier};
use crate::ingest::{Encoding, Format, Limits, Sender, decode, decompress};
use crate::net::read_proxy_header;

/// 2026-11-23T10:00:00Z: the corpora's times are around it.
const NOW_US: i64 = 1_795_428_000_000_000;
const BODY_MAX: usize = 64 * 1024;
const DEVICE: DeviceId = DeviceId(Uuid::from_u128(0x0192_f6d0_7b7a_7c3e_9d5e_0123_4567_89ab));

/// A target: its name, which is that of its folder under `fuzz/corpus`, and its function.
pub type Target = (&'static str, fn(&[u8]) -> bool);

pub const TARGETS: &[Target] = &[
    ("readings_json", readings_json),
    ("readings_ndjson", readings_ndjson),
    ("senml_json", senml_json),
    ("senml_cbor", senml_cbor),
    ("decompression", decompression),
    ("certificate_request", certificate_request),
    ("proxy_header", proxy_header),
    ("cursor", cursor),
    ("token", token),
    ("est_body", est_body),
];

pub fn readings_json(data: &[u8]) -> bool {
    readings(Format::Json, data)
}

pub fn readings_ndjson(data: &[u8]) -> bool {
    readings(Format::Ndjson, data)
}

pub fn senml_json(data: &[u8]) -> bool {
    readings(Format::SenmlJson, data)
}

pub fn senml_cbor(data: &[u8]) -> bool {
    readings(Format::SenmlCbor, data)
}

/// What is taken is JSON of times that are allowed, and each item has one fate.
fn readings(format: Format, data: &[u8]) -> bool {
    let limits = Limits {
        body_max_bytes: BODY_MAX,
        items_max: 100,
        retention: Duration::from_hours(24),
        future_max: Duration::from_hours(1),
    };
    let Ok(batch) = decode(format, data, Sender { id: DEVICE, name: "pump-1" }, &limits, NOW_US) else { return false };
    let mut indexes: HashSet<u64> = batch.rejected().iter().map(|item| item.index).collect();
    assert_eq!(indexes.len(), batch.rejected().len(), "an item is rejected once");
    let some = !batch.is_empty();
    for item in batch.into_items() {
        assert!(indexes.insert(item.index as u64), "an item is rejected or stored");
        assert!((item.reading.ts_us - NOW_US).abs() < 86_400_000_000, "within the window");
        assert!(serde_json::from_str::<IgnoredAny>(&item.reading.values).is_ok(), "the values are JSON");
        assert!(!item.reading.values.contains('\0'), "PostgreSQL takes no NUL");
    }
    assert!(indexes.iter().all(|index| *index < 100), "no more items than are allowed");
    some
}

pub fn decompression(data: &[u8]) -> bool {
    let decoded = [Encoding::Gzip, Encoding::Zstd]
        .map(|encoding| decompress(encoding, Bytes::copy_from_slice(data), BODY_MAX).ok());
    let within = |body: &Option<Bytes>| body.as_ref().is_none_or(|body| body.len() <= BODY_MAX);
    assert!(decoded.iter().all(within), "the limit counts what comes out");
    decoded.iter().any(Option::is_some)
}

/// As DER, and as PEM.
pub fn certificate_request(data: &[u8]) -> bool {
    let expected = ExpectedNames { name: "pump-1", id: Some(DEVICE) };
    let pem = std::str::from_utf8(data).is_ok_and(|text| csr::check(text, &expected).is_ok());
    match csr::check_der(data, &expected) {
        Ok(checked) => {
            assert!(!checked.spki_der.is_empty(), "what is certified is a key");
            true
        }
        Err(_) => pem,
    }
}

/// A header is read to its end and not further.
pub fn proxy_header(data: &[u8]) -> bool {
    let mut stream = data;
    let Some(Ok(_)) = read_proxy_header(&mut stream).now_or_never() else { return false };
    let length = 16 + usize::from(data[14]) * 256 + usize::from(data[15]);
    assert_eq!(data.len() - stream.len(), length, "TLS begins where the header ends");
    true
}

/// As a whole cursor, and as the key within one that has the right seal.
pub fn cursor(data: &[u8]) -> bool {
    if std::str::from_utf8(data).is_ok_and(open) {
        return true;
    }
    let first = Paging::<i64>::new(ROUTE, &FILTERS, None, None).ok().and_then(|paging| paging.cursor(&0));
    let Some(mut bytes) = first.and_then(|cursor| URL_SAFE_NO_PAD.decode(cursor).ok()) else { return false };
    bytes.truncate(8);
    bytes.extend(data);
    open(&URL_SAFE_NO_PAD.encode(bytes))
}

const ROUTE: &str = "/v1/things";
const FILTERS: &str = "a";

/// With the kinds of keys that the lists have.
fn open(cursor: &str) -> bool {
    if let Ok(Some(key)) = Paging::<String>::new(ROUTE, &FILTERS, None, Some(cursor)).map(|paging| paging.after) {
        assert!(!key.contains('\0'), "PostgreSQL takes no NUL");
        return true;
    }
    Paging::<(i64, String)>::new(ROUTE, &FILTERS, None, Some(cursor)).is_ok()
        || Paging::<(i64, i64)>::new(ROUTE, &FILTERS, None, Some(cursor)).is_ok()
        || Paging::<Uuid>::new(ROUTE, &FILTERS, None, Some(cursor)).is_ok()
}

/// As an enrollment token, and as an access token.
pub fn token(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    if let Ok(token) = EnrollmentToken::from_str(text) {
        assert_eq!(token.to_string(), text, "a token has one text");
        return true;
    }
    let now = OffsetDateTime::UNIX_EPOCH + Duration::from_micros(NOW_US.unsigned_abs());
    assert!(VERIFIER.verify_operator(text, now).is_err(), "the key is for devices");
    match VERIFIER.verify_device(text, now) {
        Ok(claims) => {
            assert!(claims.expires_at + Duration::from_secs(30) > now, "it has not expired");
            true
        }
        Err(_) => false,
    }
}

/// Knows one public key, whose private half signed the corpus's token and was thrown away.
static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| {
    let verifier = Verifier::new();
    let key = TokenPublicKey { kid: KID.to_owned(), audience: Audience::Device, public_key_pem: KEY.to_owned() };
    assert!(verifier.replace(&[key]).is_ok(), "the key is one");
    verifier
});

const KID: &str = "bzpYEfPqKIum0__FG9V2Nlyq86RT8yg7iw-Kw5hIybo";
const KEY: &str = "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEJnjgMgJKYlXnZY5goIYH8Pcie50J\n9QIkAzJ0Dk1xGWwDm4p7E0mJRWON0rhThO6kK9JE7l5sFWDXIgnlXXkAgQ==\n-----END PUBLIC KEY-----\n";

/// A request as EST carries it (RFC 8951): base64 of DER, with line breaks anywhere.
pub fn est_body(data: &[u8]) -> bool {
    let expected = ExpectedNames { name: "pump-1", id: Some(DEVICE) };
    let checked = csr::check_base64(data, &expected);
    checked.is_ok_and(|checked| {
        assert!(!checked.spki_der.is_empty(), "what is certified is a key");
        true
    })
}
