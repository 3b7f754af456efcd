//! Access tokens (RFC 7519): one kind for devices, bound to their certificate (RFC 8705), one for operators.
//!
//! Each kind has a key and an audience of its own, and a key verifies its own kind only: the table says what a `kid`
//! is for, and the token is not asked. ES256 is the only algorithm. `iss`, `aud`, `exp`, `nbf`, `iat` and `jti` are
//! required, and times are whole numbers. The clock is the caller's, so jsonwebtoken's own checks of `exp` and `nbf`,
//! which read the system's, are off. Not here: revocation, and the state of device or operator (the cached records).

mod sign;
mod verify;

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

pub use self::sign::{SignedToken, Signer, SigningError, TokenKeys};
pub use self::verify::Verifier;
use crate::domain::digest::sha256;
use crate::domain::ids::{DeviceId, Fingerprint, OperatorId};

pub const ISSUER: &str = "everbeat";
/// How far a replica's clock may be from the signer's.
pub const LEEWAY: Duration = Duration::from_secs(30);
/// Life of a device's token. Shorter: more signatures; longer: revocation rests on the change log for longer.
pub const DEVICE_TOKEN_TTL: Duration = Duration::from_mins(10);

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

/// Why a token is refused. `Expired` only if all else is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid")]
    Invalid,
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

/// RFC 7638: SHA-256 over the JWK's required members, in order, without spaces. `point` is 4, x, y.
fn thumbprint(point: &[u8]) -> String {
    let (x, y) = point.get(1..).unwrap_or_default().split_at(point.len().saturating_sub(1) / 2);
    let (x, y) = (BASE64URL.encode(x), BASE64URL.encode(y));
    let jwk = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
    BASE64URL.encode(sha256(jwk.as_bytes()))
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::jwk::{Jwk, ThumbprintHash};
    use jsonwebtoken::{Algorithm, EncodingKey};
    use rcgen::KeyPair;
    use serde_json::{Value, json};

    use super::*;

    const DEVICE: DeviceId = DeviceId(Uuid::from_u128(7));
    const OPERATOR: OperatorId = OperatorId(Uuid::from_u128(8));
    const CERTIFICATE: Fingerprint = Fingerprint([9; 32]);
    const NOW: i64 = 1_800_000_000;

    fn at(seconds: i64) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(NOW + seconds).unwrap()
    }

    fn keys() -> TokenKeys {
        let pem = || crate::identity::ca::new_key_pem().unwrap();
        TokenKeys::load(&pem(), &pem()).unwrap()
    }

    fn verifier(keys: &TokenKeys) -> Verifier {
        let verifier = Verifier::new();
        verifier.replace(&keys.public()).unwrap();
        verifier
    }

    fn part(value: &Value) -> String {
        BASE64URL.encode(value.to_string())
    }

    /// A token with any header and claims, signed with the key for devices.
    fn forge(keys: &TokenKeys, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", part(header), part(claims));
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &keys.device.key, Algorithm::ES256).unwrap();
        format!("{message}.{signature}")
    }

    fn header(keys: &TokenKeys) -> Value {
        json!({"alg": "ES256", "typ": "JWT", "kid": keys.device.public.kid})
    }

    fn claims() -> Value {
        json!({
            "iss": "everbeat", "aud": "everbeat-device", "sub": DEVICE, "exp": NOW + 600, "nbf": NOW, "iat": NOW,
            "jti": Uuid::from_u128(1), "cnf": {"x5t#S256": BASE64URL.encode(CERTIFICATE.0)},
        })
    }

    fn with(mut value: Value, name: &str, to: Value) -> Value {
        value[name] = to;
        value
    }

    fn without(mut value: Value, name: &str) -> Value {
        value.as_object_mut().unwrap().remove(name).unwrap();
        value
    }

    #[test]
    fn a_devices_token_says_who_and_with_which_certificate() {
        let keys = keys();
        let token = keys.device_token(DEVICE, CERTIFICATE, at(0)).unwrap();
        let read = verifier(&keys).verify_device(&token.text, at(0)).unwrap();
        assert_eq!((read.device, read.certificate, read.jti), (DEVICE, CERTIFICATE, token.jti));
        assert_eq!((read.expires_at, token.expires_at), (at(600), at(600)));
        assert_eq!(*read.kid, *keys.public()[0].kid);
    }

    #[test]
    fn an_operators_token_says_who_and_which_session() {
        let keys = keys();
        let token = keys.operator_token(OPERATOR, 3, at(0), Duration::from_hours(1)).unwrap();
        let read = verifier(&keys).verify_operator(&token.text, at(0)).unwrap();
        assert_eq!((read.operator, read.session_version, read.jti), (OPERATOR, 3, token.jti));
        assert_eq!((read.expires_at, token.expires_at), (at(3600), at(3600)));
    }

    #[test]
    fn one_kind_is_not_the_other() {
        let keys = keys();
        let verifier = verifier(&keys);
        let device = keys.device_token(DEVICE, CERTIFICATE, at(0)).unwrap().text;
        let operator = keys.operator_token(OPERATOR, 1, at(0), DEVICE_TOKEN_TTL).unwrap().text;
        assert_eq!(verifier.verify_operator(&device, at(0)), Err(TokenError::Invalid));
        assert_eq!(verifier.verify_device(&operator, at(0)), Err(TokenError::Invalid));
        // With the other's audience and claims, but the key for devices.
        let claims = with(with(claims(), "aud", json!("everbeat-admin")), "sv", json!(1));
        let forged = forge(&keys, &header(&keys), &claims);
        assert_eq!(verifier.verify_operator(&forged, at(0)), Err(TokenError::Invalid));
        assert_eq!(verifier.verify_device(&forged, at(0)), Err(TokenError::Invalid));
    }

    #[test]
    fn a_token_lives_from_nbf_to_exp_with_some_leeway() {
        let keys = keys();
        let verifier = verifier(&keys);
        let token = keys.device_token(DEVICE, CERTIFICATE, at(0)).unwrap().text;
        let cases = [
            (-31, Some(TokenError::Invalid)),
            (-30, None),
            (0, None),
            (600, None),
            (629, None),
            (630, Some(TokenError::Expired)),
            (1_000_000, Some(TokenError::Expired)),
        ];
        for (second, expected) in cases {
            assert_eq!(verifier.verify_device(&token, at(second)).err(), expected, "at {second} s");
        }
    }

    #[test]
    fn forged_claims() {
        let keys = keys();
        let verifier = verifier(&keys);
        let verify = |claims: &Value| verifier.verify_device(&forge(&keys, &header(&keys), claims), at(0));
        assert!(verify(&claims()).is_ok(), "the claims that the others are made from");
        assert!(verify(&with(claims(), "more", json!([1]))).is_ok(), "unknown claims are ignored");
        for name in ["iss", "aud", "sub", "exp", "nbf", "iat", "jti", "cnf"] {
            assert_eq!(verify(&without(claims(), name)), Err(TokenError::Invalid), "without {name}");
            for value in [json!(null), json!("x"), json!([]), json!({}), json!(true), json!(-1.5)] {
                let forged = with(claims(), name, value.clone());
                assert_eq!(verify(&forged), Err(TokenError::Invalid), "{name}: {value}");
            }
        }
        for name in ["exp", "nbf", "iat"] {
            let same = claims()[name].clone();
            for value in [json!(same.to_string()), json!([same]), json!(1.8e9), json!(u64::MAX)] {
                let forged = with(claims(), name, value.clone());
                assert_eq!(verify(&forged), Err(TokenError::Invalid), "{name}: {value}");
            }
        }
        let others = [
            ("aud", json!(["everbeat-device", "everbeat-admin"])),
            ("aud", json!("everbeat-admin")),
            ("iss", json!("Everbeat")),
            ("nbf", json!(NOW + 31)),
            ("exp", json!(i64::MAX)),
            ("exp", json!(NOW)),
            ("cnf", json!({"x5t#S256": BASE64URL.encode([9; 31])})),
            ("cnf", json!({"jkt": BASE64URL.encode([9; 32])})),
        ];
        for (name, value) in others {
            assert_eq!(verify(&with(claims(), name, value.clone())), Err(TokenError::Invalid), "{name}: {value}");
        }
        let late = with(with(claims(), "nbf", json!(NOW - 100)), "exp", json!(NOW - 40));
        assert_eq!(verify(&late), Err(TokenError::Expired));
    }

    #[test]
    fn a_claim_said_twice() {
        let keys = keys();
        let text = claims().to_string().replacen('{', &format!("{{\"exp\":{},", NOW + 600), 1);
        let message = format!("{}.{}", part(&header(&keys)), BASE64URL.encode(text));
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &keys.device.key, Algorithm::ES256).unwrap();
        let token = format!("{message}.{signature}");
        assert_eq!(verifier(&keys).verify_device(&token, at(0)), Err(TokenError::Invalid));
    }

    #[test]
    fn forged_headers() {
        let keys = keys();
        let verifier = verifier(&keys);
        let cases = [
            with(header(&keys), "crit", json!(["exp"])),
            with(header(&keys), "crit", json!([])),
            with(header(&keys), "alg", json!("none")),
            with(header(&keys), "alg", json!("ES384")),
            with(header(&keys), "alg", json!("HS256")),
            with(header(&keys), "alg", json!("RS256")),
            with(header(&keys), "kid", json!("other")),
            with(header(&keys), "kid", json!(keys.operator.public.kid)),
            without(header(&keys), "kid"),
            without(header(&keys), "alg"),
        ];
        for header in cases {
            let token = forge(&keys, &header, &claims());
            assert_eq!(verifier.verify_device(&token, at(0)), Err(TokenError::Invalid), "{header}");
        }
        let own = self::keys();
        let foreign = forge(&own, &header(&keys), &claims());
        assert_eq!(verifier.verify_device(&foreign, at(0)), Err(TokenError::Invalid), "another key, our kid");
        let jwk = with(header(&own), "jwk", serde_json::to_value(jwk(&own.device)).unwrap());
        let brought = forge(&own, &jwk, &claims());
        assert_eq!(verifier.verify_device(&brought, at(0)), Err(TokenError::Invalid), "a key that came along");
    }

    #[test]
    fn no_signature_and_a_signature_with_the_public_key() {
        let keys = keys();
        let verifier = verifier(&keys);
        let unsigned = with(header(&keys), "alg", json!("none"));
        let message = format!("{}.{}", part(&unsigned), part(&claims()));
        let symmetric = with(header(&keys), "alg", json!("HS256"));
        let symmetric = format!("{}.{}", part(&symmetric), part(&claims()));
        let pem = keys.device.public.public_key_pem.as_bytes();
        let secret = EncodingKey::from_secret(pem);
        let hmac = jsonwebtoken::crypto::sign(symmetric.as_bytes(), &secret, Algorithm::HS256).unwrap();
        for token in [message.clone(), format!("{message}."), format!("{symmetric}.{hmac}"), format!("{symmetric}.")] {
            assert_eq!(verifier.verify_device(&token, at(0)), Err(TokenError::Invalid), "{token}");
        }
    }

    #[test]
    fn tampered_and_huge() {
        let keys = keys();
        let verifier = verifier(&keys);
        let good = keys.device_token(DEVICE, CERTIFICATE, at(0)).unwrap().text;
        for position in 0..good.len() {
            let mut bent = good.clone().into_bytes();
            bent[position] = if bent[position] == b'A' { b'B' } else { b'A' };
            let bent = String::from_utf8(bent).unwrap();
            assert_eq!(verifier.verify_device(&bent, at(0)), Err(TokenError::Invalid), "at {position}");
        }
        let padded = |claim: usize| forge(&keys, &header(&keys), &with(claims(), "pad", json!("x".repeat(claim))));
        assert!(verifier.verify_device(&padded(1000), at(0)).is_ok());
        assert_eq!(verifier.verify_device(&padded(4000), at(0)), Err(TokenError::Invalid));
        for junk in ["", ".", "..", "...", "a.b.c", "\0", "é.é.é", &format!("{good}."), &format!(" {good}")] {
            assert_eq!(verifier.verify_device(junk, at(0)), Err(TokenError::Invalid), "{junk:?}");
        }
    }

    #[test]
    fn the_table_of_keys_can_change() {
        let (old, new) = (keys(), keys());
        let token = old.device_token(DEVICE, CERTIFICATE, at(0)).unwrap().text;
        let kid = &old.public()[0].kid;
        let verifier = Verifier::new();
        assert_eq!(verifier.verify_device(&token, at(0)), Err(TokenError::Invalid), "an empty table");
        verifier.replace(&[old.public(), new.public()].concat()).unwrap();
        assert!(verifier.verify_device(&token, at(0)).is_ok());
        assert!(verifier.accepts(kid, Audience::Device) && !verifier.accepts(kid, Audience::Operator));

        let twice = [new.public()[0].clone(), new.public()[0].clone()];
        assert!(verifier.replace(&twice).is_err());
        assert!(verifier.verify_device(&token, at(0)).is_ok(), "a bad table changes nothing");

        verifier.replace(&new.public()).unwrap();
        assert_eq!(verifier.verify_device(&token, at(0)), Err(TokenError::Invalid));
        assert!(!verifier.accepts(kid, Audience::Device));
    }

    #[test]
    fn keys_that_do_not_fit() {
        let row = keys().public()[0].clone();
        let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        let bad = [
            TokenPublicKey { kid: "other".to_owned(), ..row.clone() },
            TokenPublicKey { public_key_pem: String::new(), ..row.clone() },
            TokenPublicKey { public_key_pem: p384.public_key_pem(), ..row },
        ];
        for row in bad {
            assert!(Verifier::new().replace(std::slice::from_ref(&row)).is_err(), "{row:?}");
        }
        let pem = crate::identity::ca::new_key_pem().unwrap();
        assert!(TokenKeys::load(&pem, &pem).is_err(), "one key for both");
        assert!(TokenKeys::load(&pem, &p384.serialize_pem()).is_err());
    }

    fn jwk(signer: &Signer) -> Jwk {
        Jwk::from_encoding_key(&signer.key, Algorithm::ES256).unwrap()
    }

    #[test]
    fn the_kid_is_the_thumbprint_of_rfc_7638() {
        let keys = keys();
        for signer in [&keys.device, &keys.operator] {
            assert_eq!(jwk(signer).thumbprint(ThumbprintHash::SHA256).unwrap(), signer.public.kid);
        }
    }

    #[test]
    fn columns() {
        for audience in Audience::ALL {
            assert_eq!(Audience::from_column(audience.column()), Some(audience));
        }
        assert_eq!(Audience::from_column("everbeat-admin"), None);
    }
}
