//! Whom we trust: the CAs of one bundle, and nobody else. The system's trust store is never asked.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use super::error::ClientError;
use crate::domain::enrollment::Pin;

/// A set of trust anchors that is not empty.
#[derive(Clone, Debug)]
pub struct Trust(Arc<RootCertStore>);

impl Trust {
    /// Every certificate of a PEM bundle.
    pub fn from_pem(bundle: &str) -> Result<Self, ClientError> {
        Self::of(certificates(bundle)?)
    }

    /// The certificates of a bundle whose key has the pin; `None` if there is none. The others are not trusted:
    /// whoever stood in between may have added theirs.
    pub fn pinned(bundle: &str, pin: Pin) -> Result<Option<Self>, ClientError> {
        let has_pin = |der: &CertificateDer<'_>| {
            let parsed = x509_parser::parse_x509_certificate(der);
            parsed.is_ok_and(|(_, certificate)| Pin::of_spki(certificate.public_key().raw) == pin)
        };
        let pinned: Vec<_> = certificates(bundle)?.into_iter().filter(has_pin).collect();
        if pinned.is_empty() { Ok(None) } else { Self::of(pinned).map(Some) }
    }

    fn of(certificates: Vec<CertificateDer<'static>>) -> Result<Self, ClientError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates {
            roots.add(certificate).map_err(|error| ClientError::Input(format!("the CA bundle: {error}")))?;
        }
        Ok(Self(Arc::new(roots)))
    }

    /// TLS for a caller without a certificate.
    pub fn anonymous(&self) -> Result<ClientConfig, ClientError> {
        let builder = builder()?.with_root_certificates(self.0.clone());
        Ok(finish(builder.with_no_client_auth()))
    }

    /// TLS for a device: its certificate chain and key, both PEM.
    pub fn as_device(&self, chain_pem: &str, key_pem: &str) -> Result<ClientConfig, ClientError> {
        let crypto = |error: &dyn std::fmt::Display| ClientError::Crypto(format!("the device's identity: {error}"));
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|error| crypto(&error))?;
        let builder = builder()?.with_root_certificates(self.0.clone());
        let config = builder.with_client_auth_cert(certificates(chain_pem)?, key).map_err(|error| crypto(&error))?;
        Ok(finish(config))
    }
}

/// TLS that trusts any server. Only for fetching the CA bundle that a pin then judges.
pub fn unverified() -> Result<ClientConfig, ClientError> {
    let verifier = Arc::new(AnyServer(provider()));
    let builder = builder()?.dangerous().with_custom_certificate_verifier(verifier);
    Ok(finish(builder.with_no_client_auth()))
}

/// The certificates of a PEM text; at least one.
pub fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, ClientError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match read {
        Ok(list) if !list.is_empty() => Ok(list),
        Ok(_) => Err(ClientError::Input("there is no PEM certificate in it".to_owned())),
        Err(error) => Err(ClientError::Input(format!("not PEM certificates: {error}"))),
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn builder() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, ClientError> {
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    builder.map_err(|error| ClientError::Crypto(error.to_string()))
}

/// No resumption: the service has it off, and a connection should prove its key itself.
fn finish(mut config: ClientConfig) -> ClientConfig {
    config.resumption = Resumption::disabled();
    config
}

/// Accepts any certificate, but still checks that the server has its key.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
