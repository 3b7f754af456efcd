//! The encodings of EST (RFC 7030, as RFC 8951 has them): requests and certificates in DER, in bare base64.
//!
//! Certificates travel as "certs-only" (RFC 5272, 4.1): a SignedData (RFC 5652, 5.1) that nobody has signed.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use x509_parser::pem::Pem;
use yasna::models::ObjectIdentifier;
use yasna::{DERWriter, Tag, construct_der};

use super::ca::CaError;
use super::csr::CsrError;

/// id-signedData and id-data (RFC 5652, 5.1 and 4).
const SIGNED_DATA: [u64; 7] = [1, 2, 840, 113_549, 1, 7, 2];
const DATA: [u64; 7] = [1, 2, 840, 113_549, 1, 7, 1];
/// Nobody needs lines (RFC 8951, 3.1), but `openssl base64 -d` takes no long ones.
const LINE: usize = 64;

/// The DER in a body. White space anywhere is no fault (RFC 8951, 3.1).
pub(super) fn decode(body: &[u8]) -> Result<Vec<u8>, CsrError> {
    let letters: Vec<u8> = body.iter().copied().filter(|byte| !b" \t\r\n".contains(byte)).collect();
    STANDARD.decode(letters).map_err(|_| CsrError::NotBase64)
}

/// Every certificate of a bundle, in no particular order (RFC 7030, 4.1.3).
pub fn all(bundle_pem: &str) -> Result<String, CaError> {
    let certificates: Result<Vec<Pem>, _> = Pem::iter_from_buffer(bundle_pem.as_bytes()).collect();
    Ok(certs_only(&certificates.map_err(|_| CaError::BadCertificate)?))
}

/// The first certificate of a chain: the one that was issued, and no other (RFC 7030, 4.2.3).
pub fn first(chain_pem: &str) -> Result<String, CaError> {
    let first = Pem::iter_from_buffer(chain_pem.as_bytes()).next().and_then(Result::ok);
    Ok(certs_only(&[first.ok_or(CaError::BadCertificate)?]))
}

fn certs_only(certificates: &[Pem]) -> String {
    let text = STANDARD.encode(construct_der(|writer| {
        writer.write_sequence(|info| {
            info.next().write_oid(&ObjectIdentifier::from_slice(&SIGNED_DATA));
            info.next().write_tagged(Tag::context(0), |content| signed_data(content, certificates));
        });
    }));
    let lines = text.as_bytes().chunks(LINE).map(String::from_utf8_lossy);
    lines.fold(String::with_capacity(text.len() + text.len() / LINE + 1), |all, line| all + &line + "\n")
}

fn signed_data(writer: DERWriter<'_>, certificates: &[Pem]) {
    writer.write_sequence(|data| {
        data.next().write_u8(1);
        // No digest algorithms, for there are no signatures; no content.
        data.next().write_set(|_| {});
        data.next().write_sequence(|content| content.next().write_oid(&ObjectIdentifier::from_slice(&DATA)));
        data.next().write_tagged_implicit(Tag::context(0), |set| {
            set.write_set_of(|set| certificates.iter().for_each(|one| set.next().write_der(&one.contents)));
        });
        // No signers.
        data.next().write_set(|_| {});
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::digest::hex;

    #[test]
    fn white_space_is_no_fault_and_anything_else_is() {
        for body in ["AQIDBA==", "AQ ID\tBA\r\n==", "\nAQIDBA==\n\n", "A\nQ\nI\nD\nB\nA\n=\n="] {
            assert_eq!(decode(body.as_bytes()), Ok(vec![1, 2, 3, 4]), "{body:?}");
        }
        assert_eq!(decode(b""), Ok(vec![]));
        for body in ["AQIDBA", "AQIDBA=", "AQID-_==", "AQIDBB==", "-----BEGIN", "AQ\u{b}IDBA==", "AQ\0IDBA==", "é"] {
            assert_eq!(decode(body.as_bytes()), Err(CsrError::NotBase64), "{body:?}");
        }
    }

    #[test]
    fn no_certificates_are_certs_only_too() {
        // RFC 5652, by hand. Tests of the API have OpenSSL read those with certificates.
        let outer = "302506092a864886f70d010702a018";
        let inner = "30160201013100300b06092a864886f70d010701a0003100";
        let made = STANDARD.decode(certs_only(&[]).replace('\n', "")).unwrap();
        assert_eq!(hex(&made), format!("{outer}{inner}"));
        assert!(all("-----BEGIN CERTIFICATE-----\nAQ").is_err() && first("").is_err());
    }
}
