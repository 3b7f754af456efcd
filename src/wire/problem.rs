//! Errors: RFC 9457 problem details. The list of slugs is documented and only grows.

use serde::{Deserialize, Serialize};

macro_rules! slugs {
    ($($(#[$doc:meta])* $variant:ident = $slug:literal, $status:literal, $title:literal;)*) => {
        /// What kind of problem it is: the last part of `type`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Slug {
            $($(#[$doc])* $variant),*
        }

        impl Slug {
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $slug),* }
            }

            pub fn status(self) -> u16 {
                match self { $(Self::$variant => $status),* }
            }

            pub fn title(self) -> &'static str {
                match self { $(Self::$variant => $title),* }
            }
        }
    };
}

slugs! {
    /// The body, a parameter or a header cannot be read.
    Malformed = "malformed", 400, "The request cannot be read";
    /// It can be read, but a field is unknown or out of its bounds; `errors` names each.
    Invalid = "invalid", 400, "A field is not valid";
    /// The cursor belongs to another query, or was changed.
    BadCursor = "bad-cursor", 400, "The cursor does not belong to this query";
    /// The certificate signing request was refused.
    BadCsr = "bad-csr", 400, "The certificate signing request is not acceptable";
    CertificateRequired = "certificate-required", 401, "A client certificate is required";
    CertificateExpired = "certificate-expired", 401, "The client certificate has expired";
    CertificateNotYetValid = "certificate-not-yet-valid", 401, "The client certificate is not valid yet";
    /// Of another CA, for another use, or unreadable.
    CertificateUntrusted = "certificate-untrusted", 401, "The client certificate is not one of ours";
    /// One of ours by its signature, but not in the database.
    CertificateUnknown = "certificate-unknown", 401, "The client certificate is not known";
    CertificateRevoked = "certificate-revoked", 401, "The client certificate was revoked";
    TokenRequired = "token-required", 401, "A bearer token is required";
    TokenExpired = "token-expired", 401, "The token has expired";
    /// Not ours, for another listener, revoked, or not readable.
    TokenInvalid = "token-invalid", 401, "The token is not valid";
    /// Bound to another certificate (RFC 8705).
    TokenMismatch = "token-mismatch", 401, "The token belongs to another certificate";
    EnrollmentTokenInvalid = "enrollment-token-invalid", 401, "The enrollment token is not valid";
    DeviceSuspended = "device-suspended", 403, "The device is suspended";
    Forbidden = "forbidden", 403, "The role does not allow this";
    NotFound = "not-found", 404, "Not found";
    MethodNotAllowed = "method-not-allowed", 405, "The method is not allowed here";
    NotAcceptable = "not-acceptable", 406, "No acceptable representation";
    BodyTimeout = "body-timeout", 408, "The body came too slowly";
    /// The present state does not allow it.
    Conflict = "conflict", 409, "It conflicts with the present state";
    NameTaken = "name-taken", 409, "The name belongs to another device";
    KeyTaken = "key-taken", 409, "The key cannot be certified";
    IdempotencyConflict = "idempotency-conflict", 409, "The idempotency key was used for another request";
    PreconditionFailed = "precondition-failed", 412, "The resource has changed";
    TooLarge = "too-large", 413, "The body is too large";
    UnsupportedMediaType = "unsupported-media-type", 415, "The media type or encoding is not supported";
    /// Understood, but no item was acceptable.
    Unprocessable = "unprocessable", 422, "No item was acceptable";
    RateLimited = "rate-limited", 429, "Too many requests";
    HeaderTooLarge = "header-too-large", 431, "The header section is too large";
    Internal = "internal", 500, "An internal error";
    /// Nothing was stored.
    Unavailable = "unavailable", 503, "The service cannot do this now";
    /// It may have been stored; sending it again is safe.
    OutcomeUnknown = "outcome-unknown", 503, "The outcome is not known";
    Overloaded = "overloaded", 503, "The service has too much to do";
    Draining = "draining", 503, "The replica is shutting down";
}

impl Slug {
    /// The `type` member.
    pub fn urn(self) -> String {
        format!("urn:everbeat:problem:{}", self.as_str())
    }

    pub fn from_urn(urn: &str) -> Option<Self> {
        let slug = urn.strip_prefix("urn:everbeat:problem:")?;
        Self::ALL.iter().copied().find(|known| known.as_str() == slug)
    }
}

/// The body of an error, `application/problem+json`.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Problem {
    /// `urn:everbeat:problem:<slug>`
    #[serde(rename = "type")]
    pub kind: String,
    pub title: String,
    pub status: u16,
    /// What happened and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// Name of the limit that was hit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// RFC 6749's error code, at `/v1/token` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// One field that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FieldError {
    /// JSON Pointer (RFC 6901) into the body, or `?name` for a query parameter.
    pub pointer: String,
    pub detail: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs_are_distinct_and_survive_their_urn() {
        for slug in Slug::ALL {
            assert_eq!(Slug::from_urn(&slug.urn()), Some(*slug));
            assert!((400..600).contains(&slug.status()));
        }
    }
}
