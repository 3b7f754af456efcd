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
use x509_parser::asn1_rs::Any;
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

use super::est;
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
    #[error("send the certificate request in DER as base64 alone, without lines of BEGIN and END (RFC 8951)")]
    NotBase64,
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

/// Checks a request as EST carries it: DER in base64 (RFC 7030, 4.2.1; RFC 8951).
pub fn check_base64(body: &[u8], expected: &ExpectedNames<'_>) -> Result<CheckedCsr, CsrError> {
    check_der(&est::decode(body)?, expected)
}

/// Checks a request in DER.
pub fn check_der(der: &[u8], expected: &ExpectedNames<'_>) -> Result<CheckedCsr, CsrError> {
    if der.len() > BYTES_MAX {
        return Err(CsrError::TooLong);
    }
    let (rest, request) = X509CertificationRequest::from_der(der).map_err(|_| CsrError::Malformed)?;
    if !rest.is_empty() || !is_tight(der) {
        return Err(CsrError::Malformed);
    }
    let key = key_kind(&request.certification_request_info.subject_pki)?;
    let spki_der = canonical_spki(&request.certification_request_info.subject_pki)?;
    check_signature(&request)?;
    check_subject(&request, expected)?;
    check_extensions(&request, expected)?;
    Ok(CheckedCsr { spki_sha256: sha256(&spki_der), spki_der, key })
}

/// x509-parser passes over bytes that follow the members of a SEQUENCE inside it: there must be none.
fn is_tight(der: &[u8]) -> bool {
    let outer = members(der).unwrap_or_default();
    // CertificationRequestInfo: version, subject, key, and attributes, which some leave out.
    let inner = outer.first().and_then(|info| members(info)).unwrap_or_default();
    outer.len() == 3 && (3..=4).contains(&inner.len())
}

/// The values that a constructed value consists of, whole.
fn members(der: &[u8]) -> Option<Vec<&[u8]>> {
    let (_, outer) = Any::from_der(der).ok()?;
    let (mut content, mut found) = (outer.data, Vec::new());
    while !content.is_empty() {
        let (rest, _) = Any::from_der(content).ok()?;
        found.push(&content[..content.len() - rest.len()]);
        content = rest;
    }
    Some(found)
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

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, IsCa, KeyPair,
        PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SanType, SignatureAlgorithm,
    };

    use super::*;

    const NAME: &str = "pump-1";
    const DEVICE: DeviceId = DeviceId(uuid::Uuid::from_u128(0x0192_f6d0_7b7a_7c3e_9d5e_0123_4567_89ab));

    /// Made with OpenSSL 3 (`openssl req -new -key … -subj …`): keys and encodings that rcgen does not make.
    macro_rules! fixture {
        ($name:literal) => {
            include_str!(concat!("../../tests/fixtures/csr/", $name, ".pem"))
        };
    }

    fn params() -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
    }

    fn request(params: &CertificateParams, key: &KeyPair) -> String {
        params.serialize_request(key).unwrap().pem().unwrap()
    }

    fn p256() -> KeyPair {
        KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
    }

    fn renewing(pem: &str) -> Result<CheckedCsr, CsrError> {
        check(pem, &ExpectedNames { name: NAME, id: Some(DEVICE) })
    }

    fn enrolling(pem: &str) -> Result<CheckedCsr, CsrError> {
        check(pem, &ExpectedNames { name: NAME, id: None })
    }

    fn der_of(pem: &str) -> Vec<u8> {
        Pem::iter_from_buffer(pem.as_bytes()).next().unwrap().unwrap().contents
    }

    fn at_renewal(der: &[u8]) -> Result<CheckedCsr, CsrError> {
        check_der(der, &ExpectedNames { name: NAME, id: Some(DEVICE) })
    }

    #[test]
    fn the_key_is_taken_as_it_is() {
        let kinds: [(&'static SignatureAlgorithm, KeyKind); 3] = [
            (&PKCS_ECDSA_P256_SHA256, KeyKind::P256),
            (&PKCS_ECDSA_P384_SHA384, KeyKind::P384),
            (&PKCS_ED25519, KeyKind::Ed25519),
        ];
        for (algorithm, kind) in kinds {
            let key = KeyPair::generate_for(algorithm).unwrap();
            let checked = enrolling(&request(&params(), &key)).unwrap();
            assert_eq!(checked.key, kind);
            assert_eq!(checked.spki_der, key.subject_public_key_info());
            assert_eq!(checked.spki_sha256, sha256(&key.subject_public_key_info()));
        }
    }

    #[test]
    fn what_openssl_makes() {
        let cases = [
            ("RSA", fixture!("rsa-2048"), Ok(KeyKind::Rsa { bits: 2048 })),
            ("RSA, signed with PSS", fixture!("rsa-2048-pss"), Ok(KeyKind::Rsa { bits: 2048 })),
            ("the older label", fixture!("p256-newhdr"), Ok(KeyKind::P256)),
            ("text before, a password and usages", fixture!("p256-text-attributes"), Ok(KeyKind::P256)),
            ("too short", fixture!("rsa-1024"), Err(CsrError::UnsupportedKey)),
            ("too long", fixture!("rsa-8192"), Err(CsrError::UnsupportedKey)),
            ("exponent 3", fixture!("rsa-2048-e3"), Err(CsrError::UnsupportedKey)),
            ("SHA-1", fixture!("rsa-2048-sha1"), Err(CsrError::BadSignature)),
            ("P-521", fixture!("p521"), Err(CsrError::UnsupportedKey)),
            ("secp256k1", fixture!("secp256k1"), Err(CsrError::UnsupportedKey)),
            ("Ed448", fixture!("ed448"), Err(CsrError::UnsupportedKey)),
            ("a second spelling of a key", fixture!("p256-compressed"), Err(CsrError::UnsupportedKey)),
            ("the curve spelled out", fixture!("p256-explicit"), Err(CsrError::UnsupportedKey)),
        ];
        for (what, pem, expected) in cases {
            assert_eq!(enrolling(pem).map(|checked| checked.key), expected, "{what}");
        }
    }

    #[test]
    fn names_must_be_the_devices_own() {
        let id = DEVICE.to_string();
        let urn = DEVICE.urn();
        let other = DeviceId(uuid::Uuid::from_u128(1));
        // CN, then: with the id known, and with it not known yet.
        let cases = [
            (NAME, true, true),
            (id.as_str(), true, false),
            (urn.as_str(), true, false),
            ("pump-2", false, false),
            ("", false, false),
            (&other.to_string(), false, false),
            (&other.urn(), false, false),
        ];
        for (name, known, unknown) in cases {
            let mut named = params();
            named.distinguished_name.push(DnType::CommonName, name);
            named.distinguished_name.push(DnType::OrganizationName, "anything");
            let pem = request(&named, &p256());
            assert_eq!(renewing(&pem).is_ok(), known, "{name:?} at renewal");
            assert_eq!(enrolling(&pem).is_ok(), unknown, "{name:?} at enrollment");
            assert!(known || renewing(&pem) == Err(CsrError::ForeignName), "{name:?}");
        }
    }

    #[test]
    fn the_only_alternative_name_is_the_devices_uri() {
        let other = DeviceId(uuid::Uuid::from_u128(1));
        let uri = |text: String| SanType::URI(text.try_into().unwrap());
        let own = || uri(DEVICE.urn());
        let cases = [
            (vec![own()], Ok(())),
            (vec![uri(other.urn())], Err(CsrError::ForeignName)),
            (vec![own(), uri(other.urn())], Err(CsrError::ForeignName)),
            (vec![SanType::DnsName(NAME.try_into().unwrap())], Err(CsrError::ForeignName)),
            (vec![own(), SanType::IpAddress([10, 0, 0, 1].into())], Err(CsrError::ForeignName)),
            (vec![SanType::Rfc822Name("a@b".try_into().unwrap())], Err(CsrError::ForeignName)),
        ];
        for (names, expected) in cases {
            let mut named = params();
            named.subject_alt_names.clone_from(&names);
            let pem = request(&named, &p256());
            assert_eq!(renewing(&pem).map(drop), expected, "{names:?}");
            assert_eq!(enrolling(&pem).map(drop), Err(CsrError::ForeignName), "{names:?}, before it has an id");
        }
    }

    #[test]
    fn nobody_becomes_a_ca() {
        let with = |is_ca| {
            let mut params = params();
            params.is_ca = is_ca;
            params
        };
        for ca in [BasicConstraints::Unconstrained, BasicConstraints::Constrained(0)] {
            assert_eq!(enrolling(&request(&with(IsCa::Ca(ca)), &p256())), Err(CsrError::AsksForCa));
        }
        assert!(enrolling(&request(&with(IsCa::ExplicitNoCa), &p256())).is_ok());
        for unreadable in [&[2, 5, 29, 19], &[2, 5, 29, 17]] {
            let mut broken = params();
            broken.custom_extensions = vec![CustomExtension::from_oid_content(unreadable, vec![0x04, 0x01, 0x00])];
            assert_eq!(enrolling(&request(&broken, &p256())), Err(CsrError::Malformed), "{unreadable:?}");
        }
        let mut other = params();
        other.custom_extensions = vec![CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![0x05, 0x00])];
        assert!(enrolling(&request(&other, &p256())).is_ok(), "other extensions are ignored");
    }

    #[test]
    fn a_second_list_of_extensions_is_read_too() {
        // extensionRequest { basicConstraints CA:TRUE }, after one that is harmless.
        let mut harmless = params();
        harmless.is_ca = IsCa::ExplicitNoCa;
        let asks = set_of_ca_true();
        let attribute = rcgen::Attribute { oid: &[1, 2, 840, 113_549, 1, 9, 14], values: asks };
        let request = harmless.serialize_request_with_attributes(&p256(), vec![attribute]).unwrap();
        assert_eq!(at_renewal(request.der()), Err(CsrError::AsksForCa));
    }

    /// SET { SEQUENCE { SEQUENCE { OID 2.5.29.19, OCTET STRING { SEQUENCE { BOOLEAN TRUE } } } } }
    fn set_of_ca_true() -> Vec<u8> {
        let extension = [0x30, 0x0c, 0x06, 0x03, 0x55, 0x1d, 0x13, 0x04, 0x05, 0x30, 0x03, 0x01, 0x01, 0xff];
        [&[0x31, 0x10, 0x30, 0x0e][..], &extension].concat()
    }

    #[test]
    fn the_signature_must_be_the_keys() {
        let key = p256();
        let good = params().serialize_request(&key).unwrap().der().to_vec();
        assert!(at_renewal(&good).is_ok());
        let mut bent = good.clone();
        *bent.last_mut().unwrap() ^= 1;
        assert!(matches!(at_renewal(&bent), Err(CsrError::BadSignature | CsrError::Malformed)));

        // Somebody else's key in a request that is signed by ours.
        let foreign = p256().subject_public_key_info();
        let own = key.subject_public_key_info();
        let at = good.windows(own.len()).position(|window| window == own).unwrap();
        let mut swapped = good.clone();
        swapped[at..at + own.len()].copy_from_slice(&foreign);
        assert_eq!(at_renewal(&swapped), Err(CsrError::BadSignature));
    }

    #[test]
    fn nothing_follows_or_is_cut_off() {
        let good = params().serialize_request(&p256()).unwrap().der().to_vec();
        assert_eq!(at_renewal(&[&good[..], &[0]].concat()), Err(CsrError::Malformed), "a byte after the end");
        assert_eq!(at_renewal(&[]), Err(CsrError::Malformed));
        for length in 0..good.len() {
            assert!(at_renewal(&good[..length]).is_err(), "cut at {length}");
        }
        let nothing = |_: &mut Vec<u8>| ();
        assert_eq!(written_anew(nothing, nothing), Ok(KeyKind::P256), "the way it is written here is right");
        let null = |value: &mut Vec<u8>| value.extend([0x05, 0x00]);
        assert_eq!(written_anew(nothing, null), Err(CsrError::Malformed), "a NULL after the signature");
        assert_eq!(written_anew(null, nothing), Err(CsrError::Malformed), "a signed NULL after the attributes");
    }

    /// A request that is put together by hand, with a chance to change the signed part and the whole.
    fn written_anew(in_info: impl Fn(&mut Vec<u8>), in_request: impl Fn(&mut Vec<u8>)) -> Result<KeyKind, CsrError> {
        let key = p256();
        let good = params().serialize_request(&key).unwrap().der().to_vec();
        let parts = members(&good).unwrap();
        let mut info = members(parts[0]).unwrap().concat();
        in_info(&mut info);
        let info = wrap(0x30, &info);
        let signature = rcgen::SigningKey::sign(&key, &info).unwrap();
        let mut request = [&info[..], parts[1], &wrap(0x03, &[&[0][..], &signature].concat())].concat();
        in_request(&mut request);
        at_renewal(&wrap(0x30, &request)).map(|checked| checked.key)
    }

    /// Tag, length and value, in DER, up to 255 bytes.
    fn wrap(tag: u8, value: &[u8]) -> Vec<u8> {
        let length = u8::try_from(value.len()).unwrap();
        let header = if length < 128 { vec![tag, length] } else { vec![tag, 0x81, length] };
        [&header[..], value].concat()
    }

    #[test]
    fn one_block_of_the_right_kind() {
        let key = p256();
        let pem = request(&params(), &key);
        let certificate = params().self_signed(&key).unwrap().pem();
        let crlf = pem.replace('\n', "\r\n");
        for good in [pem.clone(), crlf, format!("a comment\n{pem}\nand more\n")] {
            assert!(enrolling(&good).is_ok());
        }
        let bad = [
            String::new(),
            "junk".to_owned(),
            format!("{pem}{pem}"),
            format!("{pem}{certificate}"),
            format!("{certificate}{pem}"),
            certificate,
            key.serialize_pem(),
            pem.replace("-----END", "-----"),
            pem.replace("CERTIFICATE REQUEST", "CERTIFICATE"),
            pem.replacen('M', "!", 3),
            format!("{pem}-----BEGIN CERTIFICATE REQUEST-----\n"),
        ];
        for text in bad {
            assert_eq!(enrolling(&text), Err(CsrError::NotOneBlock), "{text}");
        }
        assert_eq!(enrolling(&(pem + &" ".repeat(BYTES_MAX))), Err(CsrError::TooLong));
        assert_eq!(at_renewal(&vec![0x30; BYTES_MAX + 1]), Err(CsrError::TooLong));
    }

    proptest::proptest! {
        #[test]
        fn junk_is_refused_and_nothing_panics(bytes: Vec<u8>, at in 0_usize..200, bit in 0_u8..8) {
            proptest::prop_assert!(at_renewal(&bytes).is_err());
            // One bit of a good request: whatever is still accepted has the same key.
            let good = der_of(fixture!("p256-newhdr"));
            let mut bent = good.clone();
            bent[at % good.len()] ^= 1 << bit;
            if let Ok(checked) = at_renewal(&bent) {
                proptest::prop_assert_eq!(checked, at_renewal(&good).unwrap());
            }
        }
    }
}
