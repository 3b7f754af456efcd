//! The PROXY protocol, version 2 (haproxy.org, proxy-protocol.txt): a load balancer's word on the caller's address.
//!
//! The header is read to its last byte and not further, so that TLS starts where it ends. TLVs are skipped, their
//! checksum too: the header is believed for the address it comes from.

use std::io;
use std::net::{IpAddr, SocketAddr};

use ppp::v2::{Addresses, Header, PROTOCOL_PREFIX, Protocol};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Signature, version and command, family, length.
const FIXED: usize = 16;
/// The whole header. HAProxy's has 28 to 52 bytes without TLVs.
const HEADER_MAX: usize = 1024;
/// Version 2, command LOCAL: the load balancer speaks for itself (a health check).
const LOCAL: u8 = 0x20;

#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    #[error("the connection ended in the PROXY header: {0}")]
    Io(#[from] io::Error),
    #[error("no PROXY v2 header from a peer that must send one")]
    Missing,
    #[error("a PROXY header of {0} bytes")]
    TooLong(usize),
    #[error("the PROXY header is not valid")]
    Malformed,
    #[error("the PROXY header is not about a TCP connection")]
    NotTcp,
}

/// Reads the header. The caller's address, or `None` if the header names none: the socket's counts then.
pub async fn read<R: AsyncRead + Unpin>(stream: &mut R) -> Result<Option<SocketAddr>, ProxyError> {
    let mut header = vec![0; FIXED];
    stream.read_exact(&mut header).await?;
    if !header.starts_with(PROTOCOL_PREFIX) {
        return Err(ProxyError::Missing);
    }
    let total = FIXED + usize::from(u16::from_be_bytes([header[14], header[15]]));
    if total > HEADER_MAX {
        return Err(ProxyError::TooLong(total));
    }
    header.resize(total, 0);
    stream.read_exact(&mut header[FIXED..]).await?;
    if header[12] == LOCAL {
        return Ok(None);
    }
    source(&Header::try_from(header.as_slice()).map_err(|_| ProxyError::Malformed)?)
}

fn source(header: &Header<'_>) -> Result<Option<SocketAddr>, ProxyError> {
    let address = match header.addresses {
        Addresses::Unspecified => return Ok(None),
        _ if header.protocol != Protocol::Stream => return Err(ProxyError::NotTcp),
        Addresses::Unix(_) => return Err(ProxyError::NotTcp),
        Addresses::IPv4(v4) => SocketAddr::new(IpAddr::V4(v4.source_address), v4.source_port),
        Addresses::IPv6(v6) => SocketAddr::new(IpAddr::V6(v6.source_address), v6.source_port),
    };
    Ok(Some(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = PROTOCOL_PREFIX.to_vec();
        bytes.extend([command, family]);
        bytes.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    async fn parse(mut bytes: &[u8]) -> (Result<Option<SocketAddr>, ProxyError>, usize) {
        let outcome = read(&mut bytes).await;
        (outcome, bytes.len())
    }

    #[tokio::test]
    async fn addresses_are_read_and_what_follows_is_left() {
        let v4 = [192, 0, 2, 7, 192, 0, 2, 1, 0x30, 0x39, 0x20, 0xfb];
        let mut v6 = [0; 36];
        (v6[0], v6[15], v6[33]) = (0x20, 9, 80);
        // A NOOP TLV of one byte behind the addresses.
        let tlv = [v4.as_slice(), &[4, 0, 1, 42]].concat();
        let cases = [
            (header(0x21, 0x11, &v4), Some("192.0.2.7:12345")),
            (header(0x21, 0x11, &tlv), Some("192.0.2.7:12345")),
            (header(0x21, 0x21, &v6), Some("[2000::9]:80")),
            (header(0x21, 0x00, &[]), None),
            (header(0x20, 0x00, &[]), None),
            (header(0x20, 0x11, &v4), None),
            (header(0x20, 0xff, &[1, 2, 3]), None),
        ];
        for (mut bytes, expected) in cases {
            bytes.extend(b"hello");
            let (outcome, left) = parse(&bytes).await;
            assert_eq!(outcome.unwrap(), expected.map(|text| text.parse().unwrap()), "{bytes:?}");
            assert_eq!(left, 5);
        }
    }

    #[tokio::test]
    async fn anything_else_is_an_error() {
        let v4 = [192, 0, 2, 7, 192, 0, 2, 1, 0x30, 0x39, 0x20, 0xfb];
        let cases = [
            (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), "no PROXY v2"),
            (b"PROXY TCP4 192.0.2.7 192.0.2.1 1 2\r\n".to_vec(), "no PROXY v2"),
            (header(0x11, 0x11, &v4), "not valid"),
            (header(0x22, 0x11, &v4), "not valid"),
            (header(0x21, 0x11, &v4[..8]), "not valid"),
            (header(0x21, 0x12, &v4), "not about a TCP"),
            (header(0x21, 0x31, &[0; 216]), "not about a TCP"),
            (header(0x21, 0x11, &[0; HEADER_MAX - FIXED + 1]), "of 1025 bytes"),
            (header(0x21, 0x11, &v4)[..20].to_vec(), "ended in"),
            (Vec::new(), "ended in"),
        ];
        for (bytes, expected) in cases {
            let error = parse(&bytes).await.0.unwrap_err().to_string();
            assert!(error.contains(expected), "{error} for {bytes:?}");
        }
    }
}
