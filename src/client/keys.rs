//! A device's key pair (P-256) and its certificate signing request.

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use secrecy::{ExposeSecret, SecretString};

use super::error::ClientError;
use super::trust;

fn crypto(error: &dyn std::fmt::Display) -> ClientError {
    ClientError::Crypto(error.to_string())
}

/// A new private key: PKCS#8, PEM.
pub(super) fn generate() -> Result<SecretString, ClientError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|error| crypto(&error))?;
    Ok(key.serialize_pem().into())
}

/// The request for a certificate: PKCS#10, PEM. Only the name is in it; the service decides the rest.
pub(super) fn signing_request(key_pem: &SecretString, name: &str) -> Result<String, ClientError> {
    let key = KeyPair::from_pem(key_pem.expose_secret()).map_err(|error| crypto(&error))?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let request = params.serialize_request(&key).map_err(|error| crypto(&error))?;
    request.pem().map_err(|error| crypto(&error))
}

/// Does the first certificate of the chain certify this key?
pub(super) fn certifies(chain_pem: &str, key_pem: &SecretString) -> Result<bool, ClientError> {
    let key = KeyPair::from_pem(key_pem.expose_secret()).map_err(|error| crypto(&error))?;
    let chain = trust::certificates(chain_pem)?;
    let Some(Ok((_, leaf))) = chain.first().map(|leaf| x509_parser::parse_x509_certificate(leaf)) else {
        return Ok(false);
    };
    Ok(leaf.public_key().raw == key.subject_public_key_info())
}
