//! The certificate authorities: an offline root, and the issuing CA that replicas hold.
//!
//! ```text
//! root (20 years, pathlen 1) ── issuing CA (5 years, pathlen 0) ─┬─ devices: clientAuth, URI urn:everbeat:device:<id>
//!                                                                └─ replicas: serverAuth, DNS names and addresses
//! ```
//!
//! Invariants: a device's certificate takes nothing from the request but the public key; it never outlives its
//! issuer; its serial is 16 random bytes, positive. Keys of the CAs are ECDSA P-256. Not here: whether the key may be
//! certified (`csr`), who may ask (the database), and what is revoked (`crl`).

use std::net::IpAddr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData,
    SanType, SerialNumber, SubjectPublicKeyInfo,
};
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer;

use super::csr::CheckedCsr;
use crate::domain::digest::{hex, sha256};
use crate::domain::enrollment::Pin;
use crate::domain::ids::{DeviceId, Fingerprint};

const DAY: Duration = Duration::from_hours(24);
/// Pinned by devices that may live long: too short, and a fleet must be told of a new root.
const ROOT_LIFE: Duration = DAY.saturating_mul(20 * 365);
/// Replicas hold this key: too long, and a stolen one is good for long; too short, and leaves are cut short.
const ISSUER_LIFE: Duration = DAY.saturating_mul(5 * 365);
/// The longest that clients of other makers accept (825 days).
const SERVER_LIFE: Duration = DAY.saturating_mul(825);
/// Certificates begin this much in the past, for devices whose clock is behind.
const BACKDATE: Duration = Duration::from_mins(1);

/// Why a certificate was not made or not read. For the people who run the service; shown to no device.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    #[error("the issuing CA's certificate has ended, or ends before the new one would begin")]
    IssuerEnded,
    #[error("the system gave no randomness")]
    Randomness,
    #[error("not one PEM certificate of a CA")]
    BadCertificate,
    #[error("the private key does not belong to the certificate")]
    KeyMismatch,
    #[error("{0:?} is neither a DNS name nor an IP address; a server's certificate needs one or more of them")]
    BadServerName(String),
    #[error("certificate or key could not be encoded: {0}")]
    Encoding(#[from] rcgen::Error),
}

/// A CA: certificate and private key.
struct Authority {
    pem: String,
    der: Vec<u8>,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
    signer: rcgen::Issuer<'static, KeyPair>,
}

impl Authority {
    fn load(certificate_pem: &str, key_pem: &str) -> Result<Self, CaError> {
        let key = KeyPair::from_pkcs8_pem_and_sign_algo(private_key(key_pem), &PKCS_ECDSA_P256_SHA256)?;
        let der = single_certificate(certificate_pem)?;
        let parsed = parse(&der)?;
        if !parsed.is_ca() {
            return Err(CaError::BadCertificate);
        }
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(CaError::KeyMismatch);
        }
        let (not_before, not_after) =
            (parsed.validity().not_before.to_datetime(), parsed.validity().not_after.to_datetime());
        let signer = rcgen::Issuer::from_ca_cert_der(&der.as_slice().into(), key)?;
        Ok(Self { pem: certificate_pem.to_owned(), der, not_before, not_after, signer })
    }

    /// Signs for the public key: DER and PEM.
    fn sign(&self, params: &CertificateParams, key: &impl PublicKeyData) -> Result<(Vec<u8>, String), CaError> {
        let certificate = params.signed_by(key, &self.signer)?;
        Ok((certificate.der().to_vec(), certificate.pem()))
    }

    /// The life of a certificate made now: whole seconds (RFC 5280, 4.1.2.5), a little backdated, inside our own.
    fn life(&self, now: OffsetDateTime, ttl: Duration) -> Result<(OffsetDateTime, OffsetDateTime), CaError> {
        let now = now.replace_nanosecond(0).unwrap_or(now);
        let not_before = (now - BACKDATE).max(self.not_before);
        let wanted = i64::try_from(ttl.as_secs()).ok().and_then(|s| now.checked_add(time::Duration::seconds(s)));
        let not_after = wanted.map_or(self.not_after, |wanted| wanted.min(self.not_after));
        if not_after > now && not_after > not_before { Ok((not_before, not_after)) } else { Err(CaError::IssuerEnded) }
    }
}

/// The root CA. Its key signs issuing CAs, and is needed for nothing else: keep it offline.
pub struct Root(Authority);

impl Root {
    /// A new key with a self-signed certificate.
    pub fn make(now: OffsetDateTime) -> Result<Self, CaError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = ca_params("Everbeat root CA", &key, 1)?;
        params.not_before = now - BACKDATE;
        params.not_after = now + ROOT_LIFE;
        params.use_authority_key_identifier_extension = false;
        let certificate = params.self_signed(&key)?;
        Self::load(&certificate.pem(), &key.serialize_pem())
    }

    pub fn load(certificate_pem: &str, key_pem: &str) -> Result<Self, CaError> {
        Authority::load(certificate_pem, key_pem).map(Self)
    }

    /// A new issuing CA under this root.
    pub fn make_issuer(&self, now: OffsetDateTime) -> Result<Issuer, CaError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = ca_params("Everbeat issuing CA", &key, 0)?;
        (params.not_before, params.not_after) = self.0.life(now, ISSUER_LIFE)?;
        let (_, pem) = self.0.sign(&params, &key)?;
        Issuer::load(&pem, &key.serialize_pem())
    }

    pub fn certificate_pem(&self) -> &str {
        &self.0.pem
    }

    /// PKCS#8, PEM. Secret.
    pub fn key_pem(&self) -> String {
        self.0.signer.key().serialize_pem()
    }
}

/// The issuing CA: signs devices' and replicas' certificates, and no other CA (pathlen 0).
pub struct Issuer(Authority);

/// A new device certificate, as the database and the device want it.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The device's certificate, then the issuing CA's.
    pub pem_chain: String,
    pub pem_leaf: String,
    pub der: Vec<u8>,
    pub fingerprint: Fingerprint,
    pub serial: [u8; 16],
    pub spki_sha256: [u8; 32],
    pub not_before: OffsetDateTime,
    pub not_after: OffsetDateTime,
    pub renew_after: OffsetDateTime,
}

/// A replica's certificate and key, PEM.
pub struct ServerIdentity {
    /// The server's certificate, then the issuing CA's.
    pub chain_pem: String,
    /// PKCS#8. Secret.
    pub key_pem: String,
}

impl Issuer {
    pub fn load(certificate_pem: &str, key_pem: &str) -> Result<Self, CaError> {
        Authority::load(certificate_pem, key_pem).map(Self)
    }

    /// Certifies the key of a checked request for this device, from a minute ago until `ttl` from now, or until the
    /// issuer's own end.
    pub fn issue(
        &self,
        csr: &CheckedCsr,
        device: DeviceId,
        now: OffsetDateTime,
        ttl: Duration,
    ) -> Result<Issued, CaError> {
        let (not_before, not_after) = self.0.life(now, ttl)?;
        let serial = random_serial()?;
        let mut params = leaf_params(ExtendedKeyUsagePurpose::ClientAuth, serial);
        (params.not_before, params.not_after) = (not_before, not_after);
        params.subject_alt_names = vec![SanType::URI(device.urn().try_into()?)];
        params.distinguished_name.push(DnType::CommonName, device.to_string());
        let key = SubjectPublicKeyInfo::from_der(&csr.spki_der)?;
        let (der, pem_leaf) = self.0.sign(&params, &key)?;
        Ok(Issued {
            pem_chain: format!("{pem_leaf}{}", self.0.pem),
            pem_leaf,
            fingerprint: Fingerprint(sha256(&der)),
            der,
            serial,
            spki_sha256: csr.spki_sha256,
            not_before,
            not_after,
            renew_after: renew_after(not_before, not_after),
        })
    }

    /// A new key and certificate for replicas that are called by these DNS names (`*.` may lead) and addresses.
    pub fn make_server(&self, names: &[String], now: OffsetDateTime) -> Result<ServerIdentity, CaError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = leaf_params(ExtendedKeyUsagePurpose::ServerAuth, random_serial()?);
        (params.not_before, params.not_after) = self.0.life(now, SERVER_LIFE)?;
        params.subject_alt_names = names.iter().map(|name| server_name(name)).collect::<Result<_, _>>()?;
        let first = names.first().ok_or_else(|| CaError::BadServerName(String::new()))?;
        params.distinguished_name.push(DnType::CommonName, first.as_str());
        let (_, pem) = self.0.sign(&params, &key)?;
        Ok(ServerIdentity { chain_pem: format!("{pem}{}", self.0.pem), key_pem: key.serialize_pem() })
    }

    /// Does the chain begin with a certificate that we issued, for this key?
    pub fn issued_server(&self, chain_pem: &str, key_pem: &str) -> Result<bool, CaError> {
        let key = KeyPair::from_pem(private_key(key_pem))?;
        let leaf = Pem::iter_from_buffer(chain_pem.as_bytes()).next().and_then(Result::ok);
        let leaf = leaf.ok_or(CaError::BadCertificate)?;
        let leaf = leaf.parse_x509().map_err(|_| CaError::BadCertificate)?;
        if leaf.public_key().raw != key.subject_public_key_info() {
            return Err(CaError::KeyMismatch);
        }
        Ok(signed_by(&leaf, &parse(&self.0.der)?))
    }

    pub fn certificate_pem(&self) -> &str {
        &self.0.pem
    }

    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint(sha256(&self.0.der))
    }

    /// Signs a revocation list: DER and PEM. Its authority key identifier is what our certificate calls our key.
    pub fn sign_list(&self, mut list: CertificateRevocationListParams) -> Result<(Vec<u8>, String), CaError> {
        let own = parse(&self.0.der)?;
        let id = own.extensions().iter().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
            _ => None,
        });
        list.key_identifier_method = id.map_or(KeyIdMethod::Sha256, KeyIdMethod::PreSpecified);
        let signed = list.signed_by(&self.0.signer)?;
        Ok((signed.der().to_vec(), signed.pem()?))
    }

    pub fn not_after(&self) -> OffsetDateTime {
        self.0.not_after
    }

    /// PKCS#8, PEM. Secret.
    pub fn key_pem(&self) -> String {
        self.0.signer.key().serialize_pem()
    }
}

/// When a device should renew: after two thirds of the life, so that a third remains to try again.
pub fn renew_after(not_before: OffsetDateTime, not_after: OffsetDateTime) -> OffsetDateTime {
    not_before + time::Duration::seconds((not_after - not_before).whole_seconds() * 2 / 3)
}

/// The pin of a CA certificate in PEM: of its key.
pub fn pin_of(certificate_pem: &str) -> Result<Pin, CaError> {
    let der = single_certificate(certificate_pem)?;
    Ok(Pin::of_spki(parse(&der)?.public_key().raw))
}

/// SHA-256 of the public key (DER) of a CA certificate in PEM.
pub fn key_sha256(certificate_pem: &str) -> Result<[u8; 32], CaError> {
    let der = single_certificate(certificate_pem)?;
    Ok(sha256(parse(&der)?.public_key().raw))
}

/// When the first certificate of a chain ends.
pub fn chain_end(chain_pem: &str) -> Result<OffsetDateTime, CaError> {
    let first = Pem::iter_from_buffer(chain_pem.as_bytes()).next().and_then(Result::ok);
    Ok(parse(&first.ok_or(CaError::BadCertificate)?.contents)?.validity().not_after.to_datetime())
}

/// The pins of the CA certificates in a bundle. A bundle with anything else in it, or without an end, has none.
pub fn bundle_pins(pem: &str) -> Result<Vec<Pin>, CaError> {
    let pin = |block: Result<Pem, _>| {
        let block = block.map_err(|_| CaError::BadCertificate)?;
        let parsed = parse(&block.contents)?;
        let good = block.label == "CERTIFICATE" && parsed.is_ca();
        if good { Ok(Pin::of_spki(parsed.public_key().raw)) } else { Err(CaError::BadCertificate) }
    };
    Pem::iter_from_buffer(pem.as_bytes()).map(pin).collect()
}

/// Is this certificate signed by the key of that one, and named after it?
pub fn is_issued_by(certificate_pem: &str, issuer_pem: &str) -> Result<bool, CaError> {
    let (child, parent) = (single_certificate(certificate_pem)?, single_certificate(issuer_pem)?);
    Ok(signed_by(&parse(&child)?, &parse(&parent)?))
}

/// A new private key for tokens: P-256, PKCS#8, PEM.
pub fn new_key_pem() -> Result<String, CaError> {
    Ok(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?.serialize_pem())
}

/// The DER of the one certificate in a PEM text.
pub fn single_certificate(pem: &str) -> Result<Vec<u8>, CaError> {
    let mut blocks = Pem::iter_from_buffer(pem.as_bytes());
    match (blocks.next(), blocks.next()) {
        (Some(Ok(block)), None) if block.label == "CERTIFICATE" => Ok(block.contents),
        _ => Err(CaError::BadCertificate),
    }
}

/// The certificates of a text that holds a private key too; at least one.
pub fn certificates_of(pem: &str) -> Result<String, CaError> {
    let blocks = Pem::iter_from_buffer(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    let blocks = blocks.map_err(|_| CaError::BadCertificate)?;
    let texts: String =
        blocks.iter().filter(|b| b.label == "CERTIFICATE").map(|b| certificate_pem(&b.contents)).collect();
    if texts.is_empty() { Err(CaError::BadCertificate) } else { Ok(texts) }
}

/// The DER of each certificate in a PEM text.
pub fn certificate_ders(pem: &str) -> Vec<Vec<u8>> {
    let blocks = Pem::iter_from_buffer(pem.as_bytes()).filter_map(Result::ok);
    blocks.filter(|block| block.label == "CERTIFICATE").map(|block| block.contents).collect()
}

/// A certificate as PEM (RFC 7468, 5).
pub fn certificate_pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, CaError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(CaError::BadCertificate),
    }
}

fn signed_by(child: &X509Certificate<'_>, parent: &X509Certificate<'_>) -> bool {
    child.issuer() == parent.subject() && child.verify_signature(Some(parent.public_key())).is_ok()
}

fn ca_params(name: &str, key: &KeyPair, path_len: u8) -> Result<CertificateParams, CaError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    // Each CA has a name of its own: path building goes by names, and a second CA of the same name confuses it.
    let suffix = hex(&sha256(&key.subject_public_key_info())[..4]);
    params.distinguished_name.push(DnType::CommonName, format!("{name} {suffix}"));
    params.serial_number = Some(SerialNumber::from_slice(&random_serial()?));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_len));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn leaf_params(usage: ExtendedKeyUsagePurpose, serial: [u8; 16]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    params
}

/// 126 random bits; the first two are 01, so that it is positive and always 16 bytes long (RFC 5280, 4.1.2.2).
fn random_serial() -> Result<[u8; 16], CaError> {
    let mut serial = [0; 16];
    aws_lc_rs::rand::fill(&mut serial).map_err(|_| CaError::Randomness)?;
    serial[0] = (serial[0] & 0x3f) | 0x40;
    Ok(serial)
}

/// From the private key on: certificates may stand before it in one file.
fn private_key(pem: &str) -> &str {
    let label = pem.find("PRIVATE KEY-----");
    label.and_then(|label| pem[..label].rfind("-----BEGIN ")).map_or(pem, |begin| &pem[begin..])
}

fn server_name(name: &str) -> Result<SanType, CaError> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let host = name.strip_prefix("*.").unwrap_or(name);
    let valid = rustls_pki_types::DnsName::try_from(host).is_ok();
    if valid { Ok(SanType::DnsName(name.try_into()?)) } else { Err(CaError::BadServerName(name.to_owned())) }
}

#[cfg(test)]
mod tests {
    use x509_parser::extensions::GeneralName;

    use super::*;
    use crate::identity::csr::{self, ExpectedNames};

    const DEVICE: DeviceId = DeviceId(uuid::Uuid::from_u128(7));

    fn now() -> OffsetDateTime {
        time::macros::datetime!(2026-11-23 10:00:00.123456 UTC)
    }

    fn whole(at: OffsetDateTime) -> OffsetDateTime {
        at.replace_nanosecond(0).unwrap()
    }

    fn request(algorithm: &'static rcgen::SignatureAlgorithm) -> CheckedCsr {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let pem = params.serialize_request(&key).unwrap().pem().unwrap();
        csr::check(&pem, &ExpectedNames { name: "pump-1", id: None }).unwrap()
    }

    fn authorities() -> (Root, Issuer) {
        let root = Root::make(now()).unwrap();
        let issuer = root.make_issuer(now()).unwrap();
        (root, issuer)
    }

    #[test]
    fn a_devices_certificate() {
        let (_, ca) = authorities();
        for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
            let csr = request(algorithm);
            let issued = ca.issue(&csr, DEVICE, now(), DAY * 90).unwrap();
            let leaf = parse(&issued.der).unwrap();
            assert!(signed_by(&leaf, &parse(&ca.0.der).unwrap()));
            assert_eq!(leaf.public_key().raw, csr.spki_der, "the key, and in its own words");
            assert_eq!(issued.spki_sha256, sha256(&csr.spki_der));
            assert_eq!(issued.fingerprint, Fingerprint(sha256(&issued.der)));
            assert_eq!(leaf.raw_serial(), issued.serial);
            assert_eq!(leaf.subject().to_string(), format!("CN={DEVICE}"));
            assert_eq!(leaf.validity().not_before.to_datetime(), issued.not_before);
            assert_eq!(leaf.validity().not_after.to_datetime(), issued.not_after);
            assert_eq!(issued.pem_chain, format!("{}{}", issued.pem_leaf, ca.certificate_pem()));
            assert_eq!(single_certificate(&issued.pem_leaf).unwrap(), issued.der);
        }
    }

    #[test]
    fn a_device_may_sign_in_and_nothing_else() {
        let (_, ca) = authorities();
        let issued = ca.issue(&request(&PKCS_ECDSA_P256_SHA256), DEVICE, now(), DAY).unwrap();
        let leaf = parse(&issued.der).unwrap();
        let names = leaf.subject_alternative_name().unwrap().unwrap();
        assert_eq!(names.value.general_names, [GeneralName::URI(&DEVICE.urn())]);
        let constraints = leaf.basic_constraints().unwrap().unwrap();
        assert!(constraints.critical && !constraints.value.ca);
        let usage = leaf.key_usage().unwrap().unwrap();
        assert!(usage.critical && usage.value.flags == 1, "digitalSignature only");
        let extended = leaf.extended_key_usage().unwrap().unwrap().value;
        assert!(extended.client_auth && !extended.server_auth && !extended.any && extended.other.is_empty());
        assert_eq!(authority_key_id(&leaf), subject_key_id(&parse(&ca.0.der).unwrap()));
    }

    fn authority_key_id(of: &X509Certificate<'_>) -> Vec<u8> {
        let found = of.extensions().iter().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|id| id.0.to_vec()),
            _ => None,
        });
        found.unwrap()
    }

    fn subject_key_id(of: &X509Certificate<'_>) -> Vec<u8> {
        let found = of.extensions().iter().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
            _ => None,
        });
        found.unwrap()
    }

    #[test]
    fn serials_are_sixteen_positive_bytes_and_new() {
        let mut seen = std::collections::HashSet::new();
        for _ in 0..1000 {
            let serial = random_serial().unwrap();
            assert!((0x40..0x80).contains(&serial[0]) && seen.insert(serial));
        }
    }

    #[test]
    fn a_certificate_lives_inside_its_issuers_life() {
        let (_, ca) = authorities();
        let csr = request(&PKCS_ECDSA_P256_SHA256);
        let issued = ca.issue(&csr, DEVICE, now() + DAY, DAY * 90).unwrap();
        assert_eq!(issued.not_before, whole(now()) + DAY - BACKDATE);
        assert_eq!(issued.not_after, whole(now()) + DAY * 91);
        assert!(issued.renew_after > now() + DAY * 60 && issued.renew_after < now() + DAY * 62);

        let early = ca.issue(&csr, DEVICE, now(), DAY).unwrap();
        assert_eq!(early.not_before, ca.0.not_before, "not before the issuer");
        let long = ca.issue(&csr, DEVICE, now(), Duration::from_secs(u64::MAX)).unwrap();
        assert_eq!(long.not_after, ca.not_after(), "not after the issuer");
        let ended = ca.issue(&csr, DEVICE, ca.not_after(), DAY);
        assert!(matches!(ended, Err(CaError::IssuerEnded)));
        let soon = ca.issue(&csr, DEVICE, ca.not_after() - DAY, DAY * 90).unwrap();
        assert_eq!(soon.not_after, ca.not_after());
        let nothing = ca.issue(&csr, DEVICE, now(), Duration::ZERO);
        assert!(matches!(nothing, Err(CaError::IssuerEnded)));
    }

    #[test]
    fn the_chain_of_cas() {
        let (root, ca) = authorities();
        let (top, middle) = (parse(&root.0.der).unwrap(), parse(&ca.0.der).unwrap());
        assert!(signed_by(&top, &top) && signed_by(&middle, &top) && !signed_by(&top, &middle));
        let path_len = |of: &X509Certificate<'_>| of.basic_constraints().unwrap().unwrap().value.path_len_constraint;
        assert_eq!((path_len(&top), path_len(&middle)), (Some(1), Some(0)));
        assert!(middle.key_usage().unwrap().unwrap().value.key_cert_sign());
        assert!(middle.validity().not_after.to_datetime() <= top.validity().not_after.to_datetime());
        assert_ne!(top.subject(), middle.subject());
        assert_eq!(authority_key_id(&middle), subject_key_id(&top));
        assert_eq!(pin_of(root.certificate_pem()).unwrap(), Pin::of_spki(top.public_key().raw));

        // A CA that was read from its files signs as it did before.
        let again = Issuer::load(ca.certificate_pem(), &ca.key_pem()).unwrap();
        let issued = again.issue(&request(&PKCS_ECDSA_P256_SHA256), DEVICE, now(), DAY).unwrap();
        assert!(signed_by(&parse(&issued.der).unwrap(), &middle));
        assert!(matches!(Issuer::load(ca.certificate_pem(), &root.key_pem()), Err(CaError::KeyMismatch)));
        assert!(matches!(Issuer::load(&issued.pem_leaf, &ca.key_pem()), Err(CaError::BadCertificate)));
        assert!(matches!(Issuer::load(&issued.pem_chain, &ca.key_pem()), Err(CaError::BadCertificate)));
    }

    #[test]
    fn a_servers_certificate() {
        let (root, ca) = authorities();
        let names = ["localhost", "*.example.org", "127.0.0.1", "::1"].map(str::to_owned);
        let server = ca.make_server(&names, now()).unwrap();
        assert!(ca.issued_server(&server.chain_pem, &server.key_pem).unwrap());
        assert!(ca.issued_server(&server.chain_pem, &root.key_pem()).is_err(), "another key");
        assert!(!authorities().1.issued_server(&server.chain_pem, &server.key_pem).unwrap(), "another CA");
        let pem = Pem::iter_from_buffer(server.chain_pem.as_bytes()).next().unwrap().unwrap();
        let leaf = pem.parse_x509().unwrap();
        let extended = leaf.extended_key_usage().unwrap().unwrap().value;
        assert!(extended.server_auth && !extended.client_auth && !leaf.is_ca());
        let found = &leaf.subject_alternative_name().unwrap().unwrap().value.general_names;
        assert_eq!(found[..2], [GeneralName::DNSName("localhost"), GeneralName::DNSName("*.example.org")]);
        assert_eq!(found.len(), 4);
        for bad in ["", "a b", "https://example.org", "*", "a.*.org", "[::1]", "host:8443"] {
            let made = ca.make_server(&["localhost".to_owned(), bad.to_owned()], now());
            assert!(matches!(made, Err(CaError::BadServerName(_))), "{bad:?}");
        }
        assert!(matches!(ca.make_server(&[], now()), Err(CaError::BadServerName(_))));
    }
}
