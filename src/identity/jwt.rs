//! Access tokens (RFC 7519): one kind for devices, bound to their certificate (RFC 8705), one for operators.
//!
//! Each kind has a key and an audience of its own, and a key verifies its own kind only: the table says what a `kid`
//! is for, and the token is not asked. ES256 is the only algorithm. `iss`, `aud`, `exp`, `nbf`, `iat` and `jti` are
//! required, and times are whole numbers. The clock is the caller's, so jsonwebtoken's own checks of `exp` and `nbf`,
//! which read the system's, are off. Not here: revocation, and the state of device or operator (the cached records).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData, SubjectPublicKeyInfo};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::domain::digest::sha256;
use crate::domain::ids::{DeviceId, Fingerprint, OperatorId};

pub const ISSUER: &str = "everbeat";
/// How far a replica's clock may be from the signer's.
pub const LEEWAY: Duration = Duration::from_secs(30);
/// Life of a device's token. Shorter: more signatures; longer: revocation rests on the change log for longer.
pub const DEVICE_TOKEN_TTL: Duration = Duration::from_secs(600);
/// Ours are under 600 bytes.
const BYTES_MAX: usize = 4096;

/// What a key and its tokens are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Audience {
    Device,
    Operator,
}

impl Audience {
    pub const ALL: [Self; 2] = [Self::Device, Self::Operator];

    /// The `aud` of its tokens.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Device => "everbeat-device",
            Self::Operator => "everbeat-admin",
        }
    }

    /// As in the column `token_keys.audience`.
    pub fn column(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Operator => "admin",
        }
    }

    pub fn from_column(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|audience| audience.column() == text)
    }
}

/// The public half of a token key: a row of `token_keys`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenPublicKey {
    /// RFC 7638 thumbprint of the key.
    pub kid: String,
    pub audience: Audience,
    /// SubjectPublicKeyInfo, PEM.
    pub public_key_pem: String,
}

/// A public key that cannot stand in the table.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("token key {kid}: {reason}")]
pub struct BadTokenKey {
    pub kid: String,
    pub reason: &'static str,
}

/// A token could not be signed: a bug, or no randomness.
#[derive(Debug, thiserror::Error)]
#[error("the token could not be signed: {0}")]
pub struct SigningError(String);

/// Why a token is refused. `Expired` only if all else is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid")]
    Invalid,
}

/// A new token.
#[derive(Clone)]
pub struct SignedToken {
    pub text: String,
    pub jti: Uuid,
    pub expires_at: OffsetDateTime,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceClaims {
    pub device: DeviceId,
    /// The certificate that the token is bound to: compare it with the connection's.
    pub certificate: Fingerprint,
    pub jti: Uuid,
    pub expires_at: OffsetDateTime,
    pub kid: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorClaims {
    pub operator: OperatorId,
    pub jti: Uuid,
    pub session_version: i32,
    pub expires_at: OffsetDateTime,
    pub kid: Arc<str>,
}

/// On the wire. Numbers are integers and strings are strings, or the token is refused; unknown claims are ignored
/// (RFC 7519, 4).
#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    sub: Uuid,
    exp: i64,
    nbf: i64,
    iat: i64,
    jti: Uuid,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cnf: Option<Confirmation>,
    /// Session version (operators).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sv: Option<i32>,
}

#[derive(Serialize, Deserialize)]
struct Confirmation {
    #[serde(rename = "x5t#S256")]
    x5t_s256: String,
}

/// The private halves: signs both kinds of tokens.
pub struct TokenKeys {
    device: Signer,
    operator: Signer,
}

struct Signer {
    public: TokenPublicKey,
    header: Header,
    key: EncodingKey,
}

impl TokenKeys {
    /// From two private keys, PKCS#8 in PEM, P-256. They must differ.
    pub fn load(device_pem: &str, operator_pem: &str) -> Result<Self, BadTokenKey> {
        let device = Signer::load(Audience::Device, device_pem)?;
        let operator = Signer::load(Audience::Operator, operator_pem)?;
        if device.public.kid == operator.public.kid {
            return Err(BadTokenKey { kid: device.public.kid, reason: "one key for devices and operators" });
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
    fn load(audience: Audience, pem: &str) -> Result<Self, BadTokenKey> {
        let unreadable = |_| BadTokenKey { kid: audience.column().to_owned(), reason: "not a P-256 key in PKCS#8" };
        let pair = KeyPair::from_pkcs8_pem_and_sign_algo(pem, &PKCS_ECDSA_P256_SHA256).map_err(unreadable)?;
        let kid = thumbprint(pair.public_key_raw());
        let header = Header { kid: Some(kid.clone()), ..Header::new(Algorithm::ES256) };
        let public = TokenPublicKey { kid, audience, public_key_pem: pair.public_key_pem() };
        Ok(Self { public, header, key: EncodingKey::from_ec_der(pair.serialized_der()) })
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

struct VerifyingKey {
    audience: Audience,
    kid: Arc<str>,
    key: DecodingKey,
}

/// The keys that tokens are verified with. Empty at first: it refuses everything. `replace` swaps the whole table.
#[derive(Default)]
pub struct Verifier(ArcSwap<HashMap<Arc<str>, VerifyingKey>>);

impl Verifier {
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the keys in state `next` and `active`; retired ones are left out by the caller. A bad key changes
    /// nothing: the old table stays.
    pub fn replace(&self, rows: &[TokenPublicKey]) -> Result<(), BadTokenKey> {
        let mut table = HashMap::with_capacity(rows.len());
        for row in rows {
            let key = verifying_key(row)?;
            if table.insert(key.kid.clone(), key).is_some() {
                return Err(BadTokenKey { kid: row.kid.clone(), reason: "occurs twice" });
            }
        }
        self.0.store(Arc::new(table));
        Ok(())
    }

    /// Is this key in the table, for this audience? For tokens that were verified before and are cached.
    pub fn accepts(&self, kid: &str, audience: Audience) -> bool {
        self.0.load().get(kid).is_some_and(|key| key.audience == audience)
    }

    pub fn verify_device(&self, token: &str, now: OffsetDateTime) -> Result<DeviceClaims, TokenError> {
        let (claims, kid) = self.verify(token, Audience::Device, now)?;
        let confirmation = claims.cnf.ok_or(TokenError::Invalid)?;
        let digest = BASE64URL.decode(confirmation.x5t_s256).map_err(|_| TokenError::Invalid)?;
        Ok(DeviceClaims {
            device: DeviceId(claims.sub),
            certificate: Fingerprint(digest.try_into().map_err(|_| TokenError::Invalid)?),
            jti: claims.jti,
            expires_at: expiry(claims.exp)?,
            kid,
        })
    }

    pub fn verify_operator(&self, token: &str, now: OffsetDateTime) -> Result<OperatorClaims, TokenError> {
        let (claims, kid) = self.verify(token, Audience::Operator, now)?;
        Ok(OperatorClaims {
            operator: OperatorId(claims.sub),
            jti: claims.jti,
            session_version: claims.sv.ok_or(TokenError::Invalid)?,
            expires_at: expiry(claims.exp)?,
            kid,
        })
    }

    fn verify(&self, token: &str, audience: Audience, now: OffsetDateTime) -> Result<(Claims, Arc<str>), TokenError> {
        if token.len() > BYTES_MAX {
            return Err(TokenError::Invalid);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Invalid)?;
        let kid = header.kid.as_deref().ok_or(TokenError::Invalid)?;
        let table = self.0.load();
        let key = table.get(kid).filter(|key| key.audience == audience).ok_or(TokenError::Invalid)?;
        if header.crit.is_some() || header.alg != Algorithm::ES256 {
            return Err(TokenError::Invalid);
        }
        let claims = jsonwebtoken::decode::<Claims>(token, &key.key, &validation(audience))
            .map_err(|_| TokenError::Invalid)?
            .claims;
        check_times(&claims, now)?;
        Ok((claims, key.kid.clone()))
    }
}

/// Signature, `iss` and `aud`; times are ours to check.
fn validation(audience: Audience) -> Validation {
    let mut validation = Validation::new(Algorithm::ES256);
    validation.set_issuer(&[ISSUER]);
    validation.set_audience(&[audience.as_str()]);
    validation.set_required_spec_claims(&["iss", "aud", "sub", "exp", "nbf"]);
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation
}

fn check_times(claims: &Claims, now: OffsetDateTime) -> Result<(), TokenError> {
    let leeway = time::Duration::try_from(LEEWAY).unwrap_or(time::Duration::ZERO);
    if claims.nbf > (now + leeway).unix_timestamp() || claims.exp <= claims.nbf {
        return Err(TokenError::Invalid);
    }
    if claims.exp <= (now - leeway).unix_timestamp() { Err(TokenError::Expired) } else { Ok(()) }
}

fn expiry(exp: i64) -> Result<OffsetDateTime, TokenError> {
    OffsetDateTime::from_unix_timestamp(exp).map_err(|_| TokenError::Invalid)
}

fn verifying_key(row: &TokenPublicKey) -> Result<VerifyingKey, BadTokenKey> {
    let bad = |reason| BadTokenKey { kid: row.kid.clone(), reason };
    let key = SubjectPublicKeyInfo::from_pem(&row.public_key_pem).map_err(|_| bad("not a public key in PEM"))?;
    let point = key.der_bytes();
    let uncompressed = point.len() == 65 && point[0] == 4;
    if *key.algorithm() != PKCS_ECDSA_P256_SHA256 || !uncompressed {
        return Err(bad("not a P-256 key"));
    }
    if thumbprint(point) != row.kid {
        return Err(bad("the kid is not the key's thumbprint"));
    }
    Ok(VerifyingKey { audience: row.audience, kid: row.kid.as_str().into(), key: DecodingKey::from_ec_der(point) })
}

/// RFC 7638: SHA-256 over the JWK's required members, in order, without spaces. `point` is 4, x, y.
fn thumbprint(point: &[u8]) -> String {
    let (x, y) = point.get(1..).unwrap_or_default().split_at(point.len().saturating_sub(1) / 2);
    let (x, y) = (BASE64URL.encode(x), BASE64URL.encode(y));
    let jwk = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
    BASE64URL.encode(sha256(jwk.as_bytes()))
}

fn random_uuid() -> Result<Uuid, SigningError> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| SigningError("no randomness".to_owned()))?;
    Ok(uuid::Builder::from_random_bytes(bytes).into_uuid())
}
