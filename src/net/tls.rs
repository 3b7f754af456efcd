//! Files to a TLS configuration: read, check, build. What comes out is whole or an error.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, ServerConfig};
use rustls::{RootCertStore, version};
use secrecy::{ExposeSecret, SecretSlice};
use time::OffsetDateTime;
use tokio::io::AsyncReadExt;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::peer::{Listener, is_ca};
use super::settings::{ClientAuth, TlsSettings};
use super::verify::{Judge, Possession};
use crate::domain::time::Clock;

/// A bundle of a hundred CAs has about 200 KiB. Bounds what a wrong path (a device, a log) can cost.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Permission bits of group and others.
const EXPOSED: u32 = 0o077;
/// How a private key begins in PEM, whatever its kind.
const PRIVATE: &[u8] = b"-----BEGIN PRIVATE KEY";
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Why a TLS configuration cannot be used. Shown to the people who run Everbeat; holds no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {}: {error}", path.display())]
    Read { path: PathBuf, error: String },
    #[error("{} has more than {FILE_BYTES_MAX} bytes", .0.display())]
    TooLarge(PathBuf),
    #[error("the private key {} can be read by others (mode {mode:o}); it must be 0600 or stricter", path.display())]
    KeyExposed { path: PathBuf, mode: u32 },
    #[error("{} holds no usable certificate: {detail}", path.display())]
    Certificate { path: PathBuf, detail: String },
    #[error("{} holds no usable private key", .0.display())]
    Key(PathBuf),
    #[error("{} holds a certificate that is not a CA's", .0.display())]
    NotACa(PathBuf),
    /// Most often the two files were replaced one after the other.
    #[error("the certificate {} and its key do not go together: {detail}", path.display())]
    Mismatch { path: PathBuf, detail: String },
    #[error("the certificate {} ended at {at}", path.display())]
    Expired { path: PathBuf, at: OffsetDateTime },
    #[error("the {0} listener judges client certificates and needs a file of CA certificates")]
    NoClientCa(&'static str),
    #[error("the device listener must ask for client certificates and must not require them")]
    DeviceClientAuth,
}

/// The CAs whose client certificates are trusted, where they come from somebody else than the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCas {
    pub pem: Arc<str>,
    /// SHA-256 of the public keys of CAs that were ours. No path goes through one, also not from a root that is trusted, and
    /// not by another certificate of the same key: that of an ECDSA signature has a second form, which anybody can write.
    pub retired: Vec<[u8; 32]>,
}

/// The contents of the files.
#[derive(Clone)]
pub(super) struct Files {
    certificate: Arc<[u8]>,
    key: Arc<SecretSlice<u8>>,
    client_ca: Option<Vec<u8>>,
    retired: Vec<[u8; 32]>,
}

impl Files {
    /// `cas`: instead of the file of CAs.
    pub(super) async fn read(settings: &TlsSettings, cas: Option<&ClientCas>) -> Result<Self, TlsError> {
        let client_ca = match (&settings.client_ca_file, cas) {
            (Some(_), _) if settings.client_auth == ClientAuth::None => None,
            (Some(_), Some(cas)) => Some(cas.pem.as_bytes().to_vec()),
            (Some(path), None) => Some(read(path, false).await?),
            (None, _) => None,
        };
        let retired = cas.map(|cas| cas.retired.clone()).unwrap_or_default();
        let key = read(&settings.key_file, !settings.dev).await?;
        // A file that holds the chain too changes both at one moment.
        let certificate = match CertificateDer::pem_slice_iter(&key).next() {
            Some(Ok(_)) => public_part(&key),
            _ => read(&settings.certificate_file, false).await?,
        };
        Ok(Self { certificate: certificate.into(), key: Arc::new(key.into()), client_ca, retired })
    }

    /// The same chain and key with other CAs, where client certificates are judged.
    pub(super) fn with(&self, cas: &ClientCas) -> Self {
        let client_ca = self.client_ca.as_ref().map(|_| cas.pem.as_bytes().to_vec());
        Self { client_ca, retired: cas.retired.clone(), ..self.clone() }
    }

    /// Names these contents.
    pub(super) fn digest(&self) -> [u8; 32] {
        let mut context = Context::new(&SHA256);
        for part in [&*self.certificate, self.key.expose_secret(), self.client_ca.as_deref().unwrap_or_default()] {
            context.update(&part.len().to_be_bytes());
            context.update(part);
        }
        for retired in &self.retired {
            context.update(retired);
        }
        let mut sum = [0; 32];
        sum.copy_from_slice(context.finish().as_ref());
        sum
    }
}

/// What stands before the private key: our own files have the chain first.
fn public_part(bytes: &[u8]) -> Vec<u8> {
    let key = bytes.windows(PRIVATE.len()).position(|window| window == PRIVATE);
    bytes[..key.unwrap_or(bytes.len())].to_vec()
}

/// The mode is that of the opened file, so that it cannot be exchanged in between.
async fn read(path: &Path, private: bool) -> Result<Vec<u8>, TlsError> {
    use std::os::unix::fs::PermissionsExt;
    let wrong = |error: io::Error| TlsError::Read { path: path.to_owned(), error: error.to_string() };
    let file = tokio::fs::File::open(path).await.map_err(wrong)?;
    let mode = file.metadata().await.map_err(wrong)?.permissions().mode() & 0o777;
    if private && mode & EXPOSED != 0 {
        return Err(TlsError::KeyExposed { path: path.to_owned(), mode });
    }
    let mut bytes = Vec::new();
    let read = file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).await.map_err(wrong)?;
    if read as u64 > FILE_BYTES_MAX { Err(TlsError::TooLarge(path.to_owned())) } else { Ok(bytes) }
}

/// A configuration that is in use, or could be.
pub(super) struct Live {
    pub(super) server: Arc<ServerConfig>,
    /// Absent when no client certificate is asked for.
    pub(super) judge: Option<Judge>,
    pub(super) expires: OffsetDateTime,
    pub(super) digest: [u8; 32],
    /// What it was built from.
    pub(super) files: Files,
}

impl Live {
    pub(super) fn build(
        listener: Listener,
        settings: &TlsSettings,
        files: Files,
        clock: &Clock,
    ) -> Result<Self, TlsError> {
        if listener == Listener::Device && settings.client_auth != ClientAuth::Optional {
            return Err(TlsError::DeviceClientAuth);
        }
        // With the feature prefer-post-quantum, X25519MLKEM768 is its first key exchange.
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let judge = judge(listener, settings, &files, clock, &provider)?;
        let chain = certificates(&settings.certificate_file, &files.certificate)?;
        let expires = not_after(&settings.certificate_file, chain.first())?;
        let server = server_config(settings, &files, chain, provider, judge.clone())?;
        Ok(Self { server: Arc::new(server), judge, expires, digest: files.digest(), files })
    }
}

fn server_config(
    settings: &TlsSettings,
    files: &Files,
    chain: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
    judge: Option<Judge>,
) -> Result<ServerConfig, TlsError> {
    let path = settings.certificate_file.clone();
    let key = PrivateKeyDer::from_pem_slice(files.key.expose_secret())
        .map_err(|_| TlsError::Key(settings.key_file.clone()))?;
    let mismatch = |error: rustls::Error| TlsError::Mismatch { path: path.clone(), detail: error.to_string() };
    let builder = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])
        .map_err(mismatch)?;
    let builder = match judge {
        Some(judge) => {
            let required = settings.client_auth == ClientAuth::Required;
            builder.with_client_cert_verifier(Arc::new(Possession { judge, required }))
        }
        None => builder.with_no_client_auth(),
    };
    // Checks that key and certificate go together.
    let mut config = builder.with_single_cert(chain, key).map_err(mismatch)?;
    config.alpn_protocols = ALPN.iter().map(|name| name.to_vec()).collect();
    // A resumed session would keep a verdict of the past; rustls resumes by default.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn judge(
    listener: Listener,
    settings: &TlsSettings,
    files: &Files,
    clock: &Clock,
    provider: &Arc<CryptoProvider>,
) -> Result<Option<Judge>, TlsError> {
    if settings.client_auth == ClientAuth::None {
        return Ok(None);
    }
    let (Some(path), Some(pem)) = (&settings.client_ca_file, &files.client_ca) else {
        return Err(TlsError::NoClientCa(listener.as_str()));
    };
    let wrong = |detail: String| TlsError::Certificate { path: path.clone(), detail };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, pem)? {
        // As a trust anchor, a leaf could sign for others: webpki does not look at an anchor's constraints.
        let (_, parsed) = X509Certificate::from_der(&certificate).map_err(|error| wrong(error.to_string()))?;
        if !is_ca(&parsed) {
            return Err(TlsError::NotACa(path.clone()));
        }
        roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
    }
    let judge = Judge::new(listener, roots, Arc::clone(provider), clock.clone());
    judge.map(|judge| Some(judge.without(files.retired.clone()))).map_err(|error| wrong(error.to_string()))
}

/// At least one.
fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |detail: String| TlsError::Certificate { path: path.to_owned(), detail };
    let found = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|error| wrong(error.to_string()))?;
    if found.is_empty() { Err(wrong("no certificate in it".to_owned())) } else { Ok(found) }
}

fn not_after(path: &Path, leaf: Option<&CertificateDer<'_>>) -> Result<OffsetDateTime, TlsError> {
    let wrong = || TlsError::Certificate { path: path.to_owned(), detail: "it cannot be parsed".to_owned() };
    let (_, parsed) = X509Certificate::from_der(leaf.ok_or_else(wrong)?).map_err(|_| wrong())?;
    Ok(parsed.validity().not_after.to_datetime())
}
