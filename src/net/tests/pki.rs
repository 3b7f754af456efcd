//! Certificates.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

/// The time of the manual clock in these tests.
pub const NOW: OffsetDateTime = time::macros::datetime!(2026-06-01 12:00 UTC);

pub struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    pub fn new(name: &str) -> Self {
        Self(CertifiedIssuer::self_signed(Self::params(name), KeyPair::generate().unwrap()).unwrap())
    }

    /// A CA under this one.
    pub fn sub(&self, name: &str) -> Self {
        Self(CertifiedIssuer::signed_by(Self::params(name), KeyPair::generate().unwrap(), &self.0).unwrap())
    }

    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    pub fn der(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    pub fn issue(&self, leaf: &Leaf) -> Issued {
        let key = KeyPair::generate().unwrap();
        let certificate = leaf.0.signed_by(&key, &self.0).unwrap();
        Issued {
            pem: certificate.pem(),
            chain: vec![certificate.der().clone()],
            key: key.serialize_der(),
            key_pem: key.serialize_pem(),
        }
    }

    /// For 127.0.0.1. Without an end of its own it is valid for centuries: the clients here use the real clock.
    pub fn server(&self, not_after: Option<OffsetDateTime>) -> Issued {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.not_after = not_after.unwrap_or(params.not_after);
        self.issue(&Leaf(params))
    }
}

pub struct Issued {
    pub pem: String,
    pub key_pem: String,
    pub chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
}

impl Issued {
    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::try_from(self.key.clone()).unwrap()
    }

    #[must_use]
    pub fn with(mut self, intermediate: &Ca) -> Self {
        self.chain.push(intermediate.der());
        self
    }
}

/// A device's certificate as our CA makes it, and what can be wrong with one.
pub struct Leaf(pub CertificateParams);

impl Leaf {
    pub fn device(id: Uuid) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::ExplicitNoCa;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.not_before = NOW - Duration::days(1);
        params.not_after = NOW + Duration::days(1);
        Self(params).named(&format!("urn:everbeat:device:{id}"))
    }

    #[must_use]
    pub fn named(mut self, uri: &str) -> Self {
        self.0.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
        self
    }

    #[must_use]
    pub fn nameless(mut self) -> Self {
        self.0.subject_alt_names.clear();
        self
    }

    /// Days from now.
    #[must_use]
    pub fn valid(mut self, from: i64, to: i64) -> Self {
        (self.0.not_before, self.0.not_after) = (NOW + Duration::days(from), NOW + Duration::days(to));
        self
    }

    #[must_use]
    pub fn usage(mut self, usage: Vec<ExtendedKeyUsagePurpose>) -> Self {
        self.0.extended_key_usages = usage;
        self
    }

    #[must_use]
    pub fn ca(mut self) -> Self {
        self.0.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        self
    }
}
