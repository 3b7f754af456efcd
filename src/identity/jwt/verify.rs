//! Verifying tokens.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use base64::Engine;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use rcgen::{PKCS_ECDSA_P256_SHA256, PublicKeyData, SubjectPublicKeyInfo};
use time::OffsetDateTime;

use super::{
    Audience, BASE64URL, BadTokenKey, Claims, DeviceClaims, ISSUER, LEEWAY, OperatorClaims, TokenError, TokenPublicKey,
    thumbprint,
};
use crate::domain::ids::{DeviceId, Fingerprint, OperatorId};

/// Ours are under 600 bytes.
const BYTES_MAX: usize = 4096;

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

    /// Takes the keys whose tokens are accepted; retired ones are left out by the caller. A bad key changes
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
