//! A certificate for a new device, and a newer one for a known device.
//!
//! The order is part of the contract: the enrollment token is judged before the request for a certificate is parsed,
//! so that only somebody with a token reaches the parser; the token is consumed in the transaction that records the
//! certificate. Signing takes about 100 µs and happens inside that transaction, which may run more than once.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};
use uuid::{NoContext, Timestamp, Uuid};

use super::Identity;
use super::ca::Issued;
use super::csr::{self, CheckedCsr, ExpectedNames};
use super::enrollment_token::secret_matches;
use super::error::{AuthError, IdentityError, keyless};
use crate::domain::enrollment::EnrollmentToken;
use crate::domain::ids::DeviceId;
use crate::domain::name::Name;
use crate::domain::time::{Clock, unix_us};
use crate::net::{ConnInfo, Peer, PeerCert, Rejection};
use crate::observe::identity::{self as observe, Outcome, Reason};
use crate::store::credentials::NewCredential;
use crate::store::enrollment::{self, Enrolled, Enrollment, Sign, TokenRecord};
use crate::store::renewals;
use crate::wire::device::{DeviceRef, EnrollAnswer, EnrollRequest};

const TAGS_MAX: usize = 64;
const TAG_CHARS_MAX: usize = 64;
/// Attributes as JSON text.
const ATTRIBUTES_BYTES_MAX: usize = 16 * 1024;
const ATTRIBUTES_DEPTH_MAX: usize = 32;

/// A request for a certificate, as the endpoint received it.
#[derive(Clone, Copy)]
pub enum Csr<'a> {
    /// PKCS#10, PEM.
    Pem(&'a str),
    /// PKCS#10, DER in base64: EST (RFC 7030, RFC 8951).
    Base64(&'a [u8]),
}

impl Csr<'_> {
    fn check(self, expected: &ExpectedNames<'_>) -> Result<CheckedCsr, IdentityError> {
        let checked = match self {
            Self::Pem(pem) => csr::check(pem, expected),
            Self::Base64(body) => csr::check_base64(body, expected),
        };
        checked.map_err(|error| IdentityError::BadCsr(error.to_string()))
    }
}

impl Identity {
    /// Makes a device, or certifies it again if the first answer got lost.
    pub async fn enroll(&self, request: &EnrollRequest) -> Result<EnrollAnswer, IdentityError> {
        self.enroll_with(request, Csr::Pem(&request.csr)).await
    }

    /// The same, with a request that is not in `request.csr`.
    pub async fn enroll_with(&self, request: &EnrollRequest, csr: Csr<'_>) -> Result<EnrollAnswer, IdentityError> {
        let outcome = self.try_enroll(request, csr).await;
        observe::enrollment(match &outcome {
            Ok((Enrolled::New(_), _)) => Outcome::Enrolled,
            Ok((Enrolled::Again(_), _)) => Outcome::Again,
            Err(error) => failure(error),
        });
        Ok(outcome?.1)
    }

    /// A newer certificate for the caller, whose present one may have expired within the fleet's window.
    pub async fn renew(&self, conn: &ConnInfo, csr_pem: &str) -> Result<EnrollAnswer, IdentityError> {
        self.renew_with(conn, Csr::Pem(csr_pem)).await
    }

    /// The same for any form of request.
    pub async fn renew_with(&self, conn: &ConnInfo, csr: Csr<'_>) -> Result<EnrollAnswer, IdentityError> {
        let outcome = self.try_renew(conn, csr).await;
        observe::enrollment(outcome.as_ref().map_or_else(failure, |_| Outcome::Renewed));
        match &outcome {
            Err(IdentityError::Auth(error)) => observe::refused(error.reason()),
            Err(IdentityError::RenewalTooLate { .. }) => observe::refused(Reason::CertificateExpired),
            _ => {}
        }
        outcome
    }

    async fn try_enroll(
        &self,
        request: &EnrollRequest,
        csr: Csr<'_>,
    ) -> Result<(Enrolled, EnrollAnswer), IdentityError> {
        let token: EnrollmentToken = request.token.parse().map_err(|_| IdentityError::EnrollmentToken)?;
        let name: Name = request.name.parse().map_err(|error| bad_field("/name", error))?;
        let record = self.judge_token(&token, &name).await?;
        let (tags, attributes) = (tags(&request.tags)?, attributes(request.attributes.as_ref())?);
        let csr = csr.check(&ExpectedNames { name: name.as_str(), id: None })?;
        let enrollment = Enrollment {
            token_id: record.id,
            fleet: record.fleet,
            fresh_id: DeviceId(new_id(&self.0.clock)),
            name: name.as_str().to_owned(),
            tags,
            attributes,
            spki_sha256: csr.spki_sha256,
        };
        let sign = self.signer(csr, record.certificate_ttl_s)?;
        let (enrolled, issued) = enrollment::enroll(&self.0.log, enrollment, sign).await?;
        let device = DeviceRef { id: enrolled.device(), name: name.as_str().to_owned(), fleet: record.fleet_name };
        Ok((enrolled, self.answer(device, issued)))
    }

    async fn judge_token(&self, token: &EnrollmentToken, name: &Name) -> Result<TokenRecord, IdentityError> {
        let record = enrollment::find(self.0.log.control(), token.id(), name).await?;
        let record = record.ok_or(IdentityError::EnrollmentToken)?;
        let secret = secret_matches(token, &record.secret_sha256);
        // A used-up token still serves the device that it enrolled, if that lost the answer.
        let usable = record.alive && record.name_fits && (!record.used_up || record.name_exists);
        if secret && usable { Ok(record) } else { Err(IdentityError::EnrollmentToken) }
    }

    async fn try_renew(&self, conn: &ConnInfo, csr: Csr<'_>) -> Result<EnrollAnswer, IdentityError> {
        let (certificate, now) = (self.renewing(conn)?, self.0.clock.wall());
        let parent = certificate.fingerprint;
        let renewable = renewals::renewable(self.0.log.control(), parent, now).await?;
        if renewable.device != certificate.device {
            return Err(AuthError::CertificateUnknown.into());
        }
        let csr = csr.check(&ExpectedNames { name: &renewable.name, id: Some(renewable.device) })?;
        let sign = self.signer(csr, renewable.certificate_ttl_s)?;
        let (credential, issued) = sign(renewable.device).map_err(IdentityError::Internal)?;
        renewals::renew(&self.0.log, parent, credential, now).await?;
        let device = DeviceRef { id: renewable.device, name: renewable.name, fleet: renewable.fleet_name };
        Ok(self.answer(device, issued))
    }

    /// The certificate that may ask for its successor.
    fn renewing(&self, conn: &ConnInfo) -> Result<Arc<PeerCert>, AuthError> {
        match &conn.peer {
            Peer::Verified(certificate) | Peer::Rejected(Rejection::Expired, Some(certificate)) => {
                Ok(certificate.clone())
            }
            Peer::None => Err(AuthError::CertificateRequired),
            Peer::Rejected(rejection, _) => Err(self.rejected(*rejection)),
        }
    }

    /// Certifies the key of `csr`, for whichever device the transaction settles on.
    fn signer(&self, csr: CheckedCsr, ttl_s: i64) -> Result<Sign<Issued>, IdentityError> {
        let ca = self.0.keyring.ring().issuer.clone().ok_or_else(|| keyless("issuing_ca"))?;
        let clock = self.0.clock.clone();
        let ttl = Duration::from_secs(u64::try_from(ttl_s).unwrap_or(0));
        Ok(Arc::new(move |device| {
            let issued = ca.issue(&csr, device, clock.wall(), ttl).map_err(|error| error.to_string())?;
            let credential = NewCredential {
                fingerprint: issued.fingerprint,
                issuer: ca.fingerprint(),
                spki_sha256: issued.spki_sha256,
                serial: issued.serial,
                certificate_pem: issued.pem_leaf.clone(),
                not_before: issued.not_before,
                not_after: issued.not_after,
            };
            Ok((credential, issued))
        }))
    }

    fn answer(&self, device: DeviceRef, issued: Issued) -> EnrollAnswer {
        EnrollAnswer {
            device,
            certificate: issued.pem_chain,
            ca: self.ca_bundle_pem().to_string(),
            not_after: issued.not_after,
            renew_after: issued.renew_after,
            endpoints: self.0.endpoints.clone(),
        }
    }
}

/// A UUIDv7 (RFC 9562, 5.7) of now.
pub fn new_id(clock: &Clock) -> Uuid {
    let micros = u64::try_from(unix_us(clock.wall())).unwrap_or(0);
    let nanos = u32::try_from(micros % 1_000_000).unwrap_or(0) * 1_000;
    Uuid::new_v7(Timestamp::from_unix(NoContext, micros / 1_000_000, nanos))
}

fn failure(error: &IdentityError) -> Outcome {
    match error {
        IdentityError::Store(_)
        | IdentityError::CrlTooLong
        | IdentityError::Internal(_)
        | IdentityError::Auth(AuthError::Store(_)) => Outcome::Failed,
        IdentityError::Auth(_)
        | IdentityError::RenewalTooLate { .. }
        | IdentityError::EnrollmentToken
        | IdentityError::BadCsr(_)
        | IdentityError::NameTaken
        | IdentityError::KeyTaken
        | IdentityError::TooOften
        | IdentityError::BadField { .. } => Outcome::Refused,
    }
}

fn bad_field(pointer: &str, detail: impl std::fmt::Display) -> IdentityError {
    IdentityError::BadField { pointer: pointer.to_owned(), detail: detail.to_string() }
}

fn tags(tags: &[String]) -> Result<Vec<String>, IdentityError> {
    if tags.len() > TAGS_MAX {
        return Err(bad_field("/tags", format!("at most {TAGS_MAX} tags")));
    }
    for (index, tag) in tags.iter().enumerate() {
        let length = tag.chars().count();
        if length == 0 || length > TAG_CHARS_MAX || tag.chars().any(char::is_control) {
            let detail = format!("a tag is 1 to {TAG_CHARS_MAX} characters, none of them a control character");
            return Err(bad_field(&format!("/tags/{index}"), detail));
        }
    }
    Ok(tags.to_vec())
}

fn attributes(attributes: Option<&Map<String, Value>>) -> Result<Value, IdentityError> {
    let value = Value::Object(attributes.cloned().unwrap_or_default());
    if !storable(&value, ATTRIBUTES_DEPTH_MAX) {
        let detail = format!("at most {ATTRIBUTES_DEPTH_MAX} levels, and no U+0000 in a string");
        return Err(bad_field("/attributes", detail));
    }
    if value.to_string().len() > ATTRIBUTES_BYTES_MAX {
        return Err(bad_field("/attributes", format!("at most {ATTRIBUTES_BYTES_MAX} bytes of JSON")));
    }
    Ok(value)
}

/// jsonb takes no U+0000 (PostgreSQL manual, 8.14).
fn storable(value: &Value, depth: usize) -> bool {
    let text = |text: &str| !text.contains('\0');
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => true,
        Value::String(string) => text(string),
        Value::Array(items) => depth > 0 && items.iter().all(|item| storable(item, depth - 1)),
        Value::Object(members) => depth > 0 && members.iter().all(|(key, item)| text(key) && storable(item, depth - 1)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_may_be_stored() {
        let object = |value: Value| value.as_object().cloned().unwrap();
        assert_eq!(attributes(None).unwrap(), json!({}));
        assert!(attributes(Some(&object(json!({"a": [1, "b", null]})))).is_ok());
        assert!(attributes(Some(&object(json!({"a": "\0"})))).is_err());
        assert!(attributes(Some(&object(json!({"\0": 1})))).is_err());
        assert!(attributes(Some(&object(json!({"a": "x".repeat(ATTRIBUTES_BYTES_MAX)})))).is_err());
        let deep = (0..40).fold(json!(1), |inner, _| json!({ "a": inner }));
        assert!(attributes(Some(&object(deep))).is_err());
        assert!(tags(&["ok".to_owned()]).is_ok());
        for bad in ["", "a\nb", &"x".repeat(TAG_CHARS_MAX + 1)] {
            assert!(tags(&[bad.to_owned()]).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn ids_are_ordered_by_time() {
        let clock = Clock::manual(1_700_000_000_000_000);
        let first = new_id(&clock);
        clock.advance(Duration::from_millis(2));
        assert!(first < new_id(&clock));
        assert_eq!(first.get_version_num(), 7);
    }
}
