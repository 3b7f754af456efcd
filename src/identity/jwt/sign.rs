//! Signing tokens.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    Audience, BASE64URL, BadTokenKey, Claims, Confirmation, DEVICE_TOKEN_TTL, ISSUER, TokenPublicKey, thumbprint,
};
use crate::domain::ids::{DeviceId, Fingerprint, OperatorId};

/// A token could not be signed: a bug, or no randomness.
#[derive(Debug, thiserror::Error)]
#[error("the token could not be signed: {0}")]
pub struct SigningError(String);

/// A new token.
#[derive(Clone)]
pub struct SignedToken {
    pub text: String,
    pub jti: Uuid,
    pub expires_at: OffsetDateTime,
}

/// The two keys in use: signs both kinds of tokens.
#[derive(Clone)]
pub struct TokenKeys {
    pub(super) device: Arc<Signer>,
    pub(super) operator: Arc<Signer>,
}

/// A private key for one kind of tokens.
pub struct Signer {
    pub(super) public: TokenPublicKey,
    header: Header,
    pub(super) key: EncodingKey,
}

impl TokenKeys {
    /// From two private keys, PKCS#8 in PEM, P-256. They must differ.
    pub fn load(device_pem: &str, operator_pem: &str) -> Result<Self, BadTokenKey> {
        let device = Signer::load(Audience::Device, device_pem)?;
        let operator = Signer::load(Audience::Operator, operator_pem)?;
        Self::of(Arc::new(device), Arc::new(operator))
    }

    /// The first for devices, the second for operators. They must differ.
    pub fn of(device: Arc<Signer>, operator: Arc<Signer>) -> Result<Self, BadTokenKey> {
        if device.public.kid == operator.public.kid {
            let reason = "one key for devices and operators";
            return Err(BadTokenKey { kid: device.public.kid.clone(), reason });
        }
        Ok(Self { device, operator })
    }

    pub fn public(&self) -> [TokenPublicKey; 2] {
        [self.device.public.clone(), self.operator.public.clone()]
    }

    /// A token for the device, good for [`DEVICE_TOKEN_TTL`] and with this certificate only.
    pub fn device_token(
        &self,
        device: DeviceId,
        certificate: Fingerprint,
        now: OffsetDateTime,
    ) -> Result<SignedToken, SigningError> {
        let confirmation = Confirmation { x5t_s256: BASE64URL.encode(certificate.0) };
        self.device.sign(device.0, Extra { cnf: Some(confirmation), sv: None }, now, DEVICE_TOKEN_TTL)
    }

    /// A token for the operator; `jti` is to be recorded before it is handed out.
    pub fn operator_token(
        &self,
        operator: OperatorId,
        session_version: i32,
        now: OffsetDateTime,
        ttl: Duration,
    ) -> Result<SignedToken, SigningError> {
        self.operator.sign(operator.0, Extra { cnf: None, sv: Some(session_version) }, now, ttl)
    }
}

/// What the two kinds do not share.
struct Extra {
    cnf: Option<Confirmation>,
    sv: Option<i32>,
}

impl Signer {
    /// From a private key, PKCS#8 in PEM, P-256.
    pub fn load(audience: Audience, pem: &str) -> Result<Self, BadTokenKey> {
        let unreadable = |_| BadTokenKey { kid: audience.column().to_owned(), reason: "not a P-256 key in PKCS#8" };
        let pair = KeyPair::from_pkcs8_pem_and_sign_algo(pem, &PKCS_ECDSA_P256_SHA256).map_err(unreadable)?;
        let kid = thumbprint(pair.public_key_raw());
        let header = Header { kid: Some(kid.clone()), ..Header::new(Algorithm::ES256) };
        let public = TokenPublicKey { kid, audience, public_key_pem: pair.public_key_pem() };
        Ok(Self { public, header, key: EncodingKey::from_ec_der(pair.serialized_der()) })
    }

    pub fn public(&self) -> &TokenPublicKey {
        &self.public
    }

    fn sign(
        &self,
        subject: Uuid,
        extra: Extra,
        now: OffsetDateTime,
        ttl: Duration,
    ) -> Result<SignedToken, SigningError> {
        let iat = now.unix_timestamp();
        let exp = iat.saturating_add(i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX));
        let expires_at = OffsetDateTime::from_unix_timestamp(exp).map_err(|e| SigningError(e.to_string()))?;
        let jti = random_uuid()?;
        let claims = Claims {
            iss: ISSUER.to_owned(),
            aud: self.public.audience.as_str().to_owned(),
            sub: subject,
            exp,
            nbf: iat,
            iat,
            jti,
            cnf: extra.cnf,
            sv: extra.sv,
        };
        let text = jsonwebtoken::encode(&self.header, &claims, &self.key).map_err(|e| SigningError(e.to_string()))?;
        Ok(SignedToken { text, jti, expires_at })
    }
}

fn random_uuid() -> Result<Uuid, SigningError> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| SigningError("no randomness".to_owned()))?;
    Ok(uuid::Builder::from_random_bytes(bytes).into_uuid())
}
