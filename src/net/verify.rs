//! Client certificates in two halves: [`Possession`] is what TLS asks (has the caller the key?), [`Judge`] looks at
//! path, use and time after the handshake. In one half, rustls would end the handshake on an expired certificate and
//! the device would learn nothing.
//!
//! The path is checked at a time inside the leaf's own validity, and the leaf's times against the clock afterwards.
//! In the other order webpki reports "expired" before it looks at the issuer, and a stranger's expired certificate
//! would look like one of ours, which some routes let in.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::peer::{Listener, Peer, PeerCert, Rejection, is_for_clients};
use crate::domain::digest::sha256;
use crate::domain::time::Clock;
use crate::observe;
use crate::observe::net::Verdict;

/// Certificates in a chain: leaf, issuing CA, and room for two more. Each costs a signature check.
const CHAIN_LENGTH_MAX: usize = 4;
/// Bytes of a chain. Ours have about 2 KiB; rustls itself would take 64 KiB.
const CHAIN_BYTES_MAX: usize = 16 * 1024;

/// Looks at certificates after the handshake.
#[derive(Clone, Debug)]
pub(super) struct Judge {
    listener: Listener,
    paths: Arc<dyn ClientCertVerifier>,
    clock: Clock,
    /// No path goes through these.
    retired: Arc<[[u8; 32]]>,
}

impl Judge {
    /// Trusts each certificate of `roots` by itself; they must not be empty.
    pub(super) fn new(
        listener: Listener,
        roots: RootCertStore,
        provider: Arc<CryptoProvider>,
        clock: Clock,
    ) -> Result<Self, rustls::server::VerifierBuilderError> {
        let paths = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
        Ok(Self { listener, paths, clock, retired: Arc::default() })
    }

    /// Trusts these CAs no more, also under a root that is trusted.
    pub(super) fn without(self, retired: Vec<[u8; 32]>) -> Self {
        Self { retired: retired.into(), ..self }
    }

    /// The verdict on what the caller showed, leaf first.
    pub(super) fn judge(&self, chain: &[CertificateDer<'_>]) -> Peer {
        let Some((leaf, intermediates)) = chain.split_first() else {
            observe::net::verdict(self.listener.port(), Verdict::None);
            return Peer::None;
        };
        let (found, certificate) = self.examine(leaf, intermediates);
        let (verdict, peer) = match (found, certificate) {
            (Ok(()), Some(certificate)) => (Verdict::Verified, Peer::Verified(certificate)),
            (Ok(()), None) if self.listener == Listener::Admin => (Verdict::Verified, Peer::None),
            (Ok(()), None) => (Verdict::Malformed, Peer::Rejected(Rejection::Malformed, None)),
            (Err(why), certificate) => (why.verdict(), Peer::Rejected(why, certificate)),
        };
        observe::net::verdict(self.listener.port(), verdict);
        peer
    }

    fn examine(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> (Result<(), Rejection>, Option<Arc<PeerCert>>) {
        let bytes = leaf.len() + intermediates.iter().map(|one| one.len()).sum::<usize>();
        if intermediates.len() >= CHAIN_LENGTH_MAX || bytes > CHAIN_BYTES_MAX {
            return (Err(Rejection::Malformed), None);
        }
        match X509Certificate::from_der(leaf) {
            Ok(([], parsed)) => {
                let named = PeerCert::read(leaf, &parsed).map(Arc::new);
                (self.check(leaf, &parsed, intermediates), named)
            }
            _ => (Err(Rejection::Malformed), None),
        }
    }

    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        parsed: &X509Certificate<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Result<(), Rejection> {
        let (from, to) = (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp());
        if from > to {
            return Err(Rejection::Malformed);
        }
        let now = self.clock.unix_us().div_euclid(1_000_000);
        let inside = u64::try_from(now.clamp(from, to)).map_err(|_| Rejection::Malformed)?;
        let inside = UnixTime::since_unix_epoch(Duration::from_secs(inside));
        if !is_for_clients(parsed) {
            return Err(Rejection::WrongUse);
        }
        let trusted: Vec<_> = intermediates.iter().filter(|one| !self.is_retired(one)).cloned().collect();
        self.paths.verify_client_cert(leaf, &trusted, inside).map_err(|error| reason(&error))?;
        match now {
            now if now < from => Err(Rejection::NotYetValid),
            now if now > to => Err(Rejection::Expired),
            _ => Ok(()),
        }
    }
}

impl Judge {
    fn is_retired(&self, certificate: &CertificateDer<'_>) -> bool {
        let key = || X509Certificate::from_der(certificate).ok().map(|(_, parsed)| sha256(parsed.public_key().raw));
        !self.retired.is_empty() && key().is_none_or(|key| self.retired.contains(&key))
    }
}

/// The path was checked inside the leaf's validity, so a complaint about time is about an intermediate.
fn reason(error: &Error) -> Rejection {
    match error {
        Error::InvalidCertificate(error) => match error {
            CertificateError::BadEncoding => Rejection::Malformed,
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => Rejection::WrongUse,
            _ => Rejection::UntrustedIssuer,
        },
        _ => Rejection::UntrustedIssuer,
    }
}

/// The half that TLS asks. With `required` it ends the handshake as usual: the alert names the reason.
#[derive(Debug)]
pub(super) struct Possession {
    pub(super) judge: Judge,
    pub(super) required: bool,
}

impl ClientCertVerifier for Possession {
    /// All CAs of the bundle, so that a device with certificates of two CAs can choose.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.judge.paths.root_hint_subjects()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.required
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if self.required {
            self.judge.examine(leaf, intermediates).0.map_err(|why| {
                observe::net::verdict(self.judge.listener.port(), why.verdict());
                alert(why)
            })?;
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.judge.paths.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.judge.paths.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.judge.paths.supported_verify_schemes()
    }
}

fn alert(why: Rejection) -> CertificateError {
    match why {
        Rejection::Expired => CertificateError::Expired,
        Rejection::NotYetValid => CertificateError::NotValidYet,
        Rejection::UntrustedIssuer => CertificateError::UnknownIssuer,
        Rejection::WrongUse => CertificateError::InvalidPurpose,
        Rejection::Malformed => CertificateError::BadEncoding,
    }
}
