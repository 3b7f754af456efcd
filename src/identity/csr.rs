//! Certificate signing requests (PKCS#10, RFC 2986): what we take of them, and what we refuse.
//!
//! Only the **public key** is taken; subject, names, usages and lifetime are ours ([`super::ca`]). So the request has
//! to prove three things: that its sender holds the private key (its signature), that the key is one we certify, and
//! that it does not ask for what it will not get in a way that shows a mistake: to be a CA, or another device's name.
//! Other requested extensions are ignored.
//!
//! The key is kept in its canonical DER, and a request that spells it in another way is refused: a revoked key is
//! known by the digest of this encoding, and must not come back under a second one.

use rcgen::PublicKeyData;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension, X509Extension};
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_PKCS1_RSAENCRYPTION, OID_PKCS1_SHA1WITHRSA,
    OID_SHA1_WITH_RSA, OID_SIG_ED25519, OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_SUBJECT_ALT_NAME,
};
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::{PublicKey, RSAPublicKey};
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::domain::digest::sha256;
use crate::domain::ids::DeviceId;

/// A request is at most this long, as PEM. RSA-4096 with many extensions needs 3 KiB.
const BYTES_MAX: usize = 16 * 1024;
const LABELS: [&str; 2] = ["CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"];
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;
/// FIPS 186-5, A.1.1: 2^16 < e. The upper bound is what aws-lc verifies with.
const RSA_EXPONENT: std::ops::Range<u64> = 65_537..(1 << 33);

/// The names that the request may carry.
#[derive(Clone, Copy, Debug)]
pub struct ExpectedNames<'a> {
    /// The device's name.
    pub name: &'a str,
    /// Its id, if it has one yet.
    pub id: Option<DeviceId>,
}

impl ExpectedNames<'_> {
    fn common_name(&self, text: &str) -> bool {
        text == self.name || self.id.is_some_and(|id| text == id.to_string()) || self.uri(text)
    }

    fn uri(&self, text: &str) -> bool {
        self.id.is_some_and(|id| text == id.urn())
    }
}

/// The kinds of keys that we certify.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    P256,
    P384,
    Ed25519,
    /// With the length of its modulus.
    Rsa {
        bits: usize,
    },
}

/// A public key whose owner holds the private one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedCsr {
    /// SubjectPublicKeyInfo, DER.
    pub spki_der: Vec<u8>,
    pub spki_sha256: [u8; 32],
    pub key: KeyKind,
}

/// Why a request is refused: a sentence for the caller, without a word of theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    #[error("the certificate request is longer than 16 KiB")]
    TooLong,
    #[error("send one PEM block that begins with -----BEGIN CERTIFICATE REQUEST-----")]
    NotOneBlock,
    #[error("the certificate request is not PKCS#10 in DER (RFC 2986), or bytes follow its end")]
    Malformed,
    #[error("the signature of the certificate request is not that of its key, or uses SHA-1")]
    BadSignature,
    #[error("the key must be P-256, P-384, Ed25519, or RSA of 2048 to 4096 bits with an exponent of at least 65537")]
    UnsupportedKey,
    #[error("the certificate request asks to be a CA; leave basicConstraints out, or set CA:FALSE")]
    AsksForCa,
    #[error(
        "the certificate request carries a foreign name: leave the subject empty or set CN to the device's name, \
             and ask for no subjectAltName other than the URI of this device"
    )]
    ForeignName,
}

/// Checks a request in PEM. Text around the one block is ignored, as OpenSSL's `-text` writes it.
pub fn check(pem: &str, expected: &ExpectedNames<'_>) -> Result<CheckedCsr, CsrError> {
    if pem.len() > BYTES_MAX {
        return Err(CsrError::TooLong);
    }
    let mut blocks = Pem::iter_from_buffer(pem.as_bytes());
    match (blocks.next(), blocks.next()) {
        (Some(Ok(block)), None) if LABELS.contains(&block.label.as_str()) => check_der(&block.contents, expected),
        _ => Err(CsrError::NotOneBlock),
    }
}

/// Checks a request in DER, as EST carries it (RFC 7030, 4.2.1).
pub fn check_der(der: &[u8], expected: &ExpectedNames<'_>) -> Result<CheckedCsr, CsrError> {
    if der.len() > BYTES_MAX {
        return Err(CsrError::TooLong);
    }
    let (rest, request) = X509CertificationRequest::from_der(der).map_err(|_| CsrError::Malformed)?;
    if !rest.is_empty() {
        return Err(CsrError::Malformed);
    }
    let key = key_kind(&request.certification_request_info.subject_pki)?;
    let spki_der = canonical_spki(&request.certification_request_info.subject_pki)?;
    check_signature(&request)?;
    check_subject(&request, expected)?;
    check_extensions(&request, expected)?;
    Ok(CheckedCsr { spki_sha256: sha256(&spki_der), spki_der, key })
}

fn key_kind(spki: &SubjectPublicKeyInfo<'_>) -> Result<KeyKind, CsrError> {
    let algorithm = &spki.algorithm.algorithm;
    if *algorithm == OID_SIG_ED25519 {
        return Ok(KeyKind::Ed25519);
    }
    if *algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
        let curve = spki.algorithm.parameters.as_ref().and_then(|any| any.as_oid().ok());
        return match curve {
            Some(curve) if curve == OID_EC_P256 => Ok(KeyKind::P256),
            Some(curve) if curve == OID_NIST_EC_P384 => Ok(KeyKind::P384),
            _ => Err(CsrError::UnsupportedKey),
        };
    }
    match spki.parsed() {
        Ok(PublicKey::RSA(rsa)) if *algorithm == OID_PKCS1_RSAENCRYPTION => rsa_kind(&rsa),
        _ => Err(CsrError::UnsupportedKey),
    }
}

/// Counts the modulus' bits by itself: x509-parser takes the first byte for a sign byte, whatever it is.
fn rsa_kind(key: &RSAPublicKey<'_>) -> Result<KeyKind, CsrError> {
    let bits = key.modulus.iter().position(|byte| *byte != 0).map_or(0, |zeros| {
        let significant = &key.modulus[zeros..];
        significant.len() * 8 - significant[0].leading_zeros() as usize
    });
    let exponent = key.try_exponent().map_err(|_| CsrError::UnsupportedKey)?;
    let sane = RSA_BITS.contains(&bits) && RSA_EXPONENT.contains(&exponent) && exponent % 2 == 1;
    if sane { Ok(KeyKind::Rsa { bits }) } else { Err(CsrError::UnsupportedKey) }
}

/// Writes the key anew, and compares: compressed points, absent or odd parameters and unused bits fail here.
fn canonical_spki(spki: &SubjectPublicKeyInfo<'_>) -> Result<Vec<u8>, CsrError> {
    let key = rcgen::SubjectPublicKeyInfo::from_der(spki.raw).map_err(|_| CsrError::UnsupportedKey)?;
    let compressed = spki.algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY && key.der_bytes().first() != Some(&4);
    let written = key.subject_public_key_info();
    if compressed || written != spki.raw { Err(CsrError::UnsupportedKey) } else { Ok(written) }
}

fn check_signature(request: &X509CertificationRequest<'_>) -> Result<(), CsrError> {
    let algorithm = &request.signature_algorithm.algorithm;
    if *algorithm == OID_PKCS1_SHA1WITHRSA || *algorithm == OID_SHA1_WITH_RSA {
        return Err(CsrError::BadSignature);
    }
    request.verify_signature().map_err(|_| CsrError::BadSignature)
}

/// Every CN must be the device's. Other attributes of the subject are not certified, and so not judged.
fn check_subject(request: &X509CertificationRequest<'_>, expected: &ExpectedNames<'_>) -> Result<(), CsrError> {
    let ours = |text: Result<&str, _>| text.is_ok_and(|text: &str| expected.common_name(text));
    let mut names = request.certification_request_info.subject.iter_common_name();
    if names.all(|name| ours(name.as_str())) { Ok(()) } else { Err(CsrError::ForeignName) }
}

fn check_extensions(request: &X509CertificationRequest<'_>, expected: &ExpectedNames<'_>) -> Result<(), CsrError> {
    let requested = request.certification_request_info.iter_attributes().filter_map(|attribute| {
        match attribute.parsed_attribute() {
            ParsedCriAttribute::ExtensionRequest(requested) => Some(&requested.extensions),
            ParsedCriAttribute::ChallengePassword(_) | ParsedCriAttribute::UnsupportedAttribute => None,
        }
    });
    requested.flatten().try_for_each(|extension| check_extension(extension, expected))
}

fn check_extension(extension: &X509Extension<'_>, expected: &ExpectedNames<'_>) -> Result<(), CsrError> {
    match extension.parsed_extension() {
        ParsedExtension::BasicConstraints(constraints) if constraints.ca => Err(CsrError::AsksForCa),
        ParsedExtension::BasicConstraints(_) => Ok(()),
        ParsedExtension::SubjectAlternativeName(names) => {
            let ours = |name: &GeneralName<'_>| matches!(name, GeneralName::URI(uri) if expected.uri(uri));
            if names.general_names.iter().all(ours) { Ok(()) } else { Err(CsrError::ForeignName) }
        }
        // One of these two that the parser could not read.
        _ if extension.oid == OID_X509_EXT_BASIC_CONSTRAINTS || extension.oid == OID_X509_EXT_SUBJECT_ALT_NAME => {
            Err(CsrError::Malformed)
        }
        _ => Ok(()),
    }
}
