//! What the errors of the lower modules mean to a caller. Exhaustive on purpose: a new error is a decision here.

use std::sync::Arc;
use std::time::Duration;

use super::error::{ApiError, Refusal};
use super::route::RouteInfo;
use crate::admission::Refused;
use crate::identity::{AuthError, IdentityError};
use crate::ingest::{DecodeError, IngestError};
use crate::presence::PresenceError;
use crate::store::changes::ChangeError;
use crate::store::{Fault, StoreError};
use crate::wire::problem::Slug;

/// They are counted by the day.
const CERTIFICATES_PAUSE: Duration = Duration::from_hours(1);

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        let again = "Nothing was done. Send it again after the pause.";
        let error = match refused {
            Refused::Full { class, .. } => Self::because(Slug::Overloaded, again).limit(class.limit_name()),
            Refused::Database { .. } => Self::because(Slug::Overloaded, again).limit("database_requests_max"),
            Refused::TooLate { .. } => Self::because(
                Slug::Overloaded,
                "Requests wait longer than X-Request-Deadline-Ms for their commits now. Nothing was done.",
            )
            .limit("deadline"),
            Refused::Device { .. } => {
                Self::because(Slug::RateLimited, "This device sends too often.").limit("device_requests_per_s")
            }
            Refused::Fleet { .. } => Self::because(Slug::RateLimited, "The devices of this fleet send too often.")
                .limit("fleet_requests_per_s"),
            Refused::Address { .. } => Self::because(
                Slug::RateLimited,
                "Too many attempts from this address failed. Nothing was looked at. Correct the token, and try again after the pause.",
            )
            .limit("failures_per_address"),
            Refused::EnrollmentToken { .. } => Self::because(
                Slug::RateLimited,
                "Too many attempts with this enrollment token failed. Nothing was looked at. Try again after the pause, or ask an operator for another.",
            )
            .limit("failures_per_token"),
            Refused::Bodies { .. } => Self::because(
                Slug::RateLimited,
                "Too many requests of yours are waiting for their bodies. Send each body at once, or fewer at a time.",
            )
            .limit("slow_bodies_per_caller"),
            Refused::AllBodies { .. } => Self::because(
                Slug::Overloaded,
                "Too many requests are waiting for their bodies. Send the body at once, or again after the pause.",
            )
            .limit("slow_bodies"),
            Refused::Queue { limit, .. } => Self::because(Slug::Overloaded, again).limit(limit),
        };
        error.retry_after(refused.pause()).counted()
    }
}

/// What a route answers where there is too much, written beforehand: in a rush these are most of its answers.
pub struct Refusals {
    full: Arc<Refusal>,
    database: Arc<Refusal>,
    device: Arc<Refusal>,
    fleet: Arc<Refusal>,
}

impl Refusals {
    pub fn of(info: &RouteInfo) -> Self {
        // The pause is a pause of its time.
        let pause = Duration::ZERO;
        let written = |refused: Refused| Arc::new(Refusal::of(refused.into(), info.dialect));
        Self {
            full: written(Refused::Full { class: info.class, pause }),
            database: written(Refused::Database { pause }),
            device: written(Refused::Device { pause }),
            fleet: written(Refused::Fleet { pause }),
        }
    }

    /// `None`: these are few, and written when they come.
    pub fn get(&self, refused: Refused) -> Option<&Arc<Refusal>> {
        match refused {
            Refused::Full { .. } => Some(&self.full),
            Refused::Database { .. } => Some(&self.database),
            Refused::Device { .. } => Some(&self.device),
            Refused::Fleet { .. } => Some(&self.fleet),
            Refused::TooLate { .. }
            | Refused::Address { .. }
            | Refused::EnrollmentToken { .. }
            | Refused::Bodies { .. }
            | Refused::AllBodies { .. }
            | Refused::Queue { .. } => None,
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error.fault {
            Fault::Unavailable | Fault::Contention | Fault::MissingPartition => {
                tracing::warn!(%error, "the database cannot do this now");
                Self::because(Slug::Unavailable, "Nothing was stored. Send it again after the pause.")
            }
            Fault::Unknown => {
                tracing::warn!(%error, "the outcome is not known");
                Self::because(Slug::OutcomeUnknown, "It may have been stored. Sending the same again is safe.")
            }
            // Those that a handler expects, it answers itself; here they are a surprise.
            Fault::Duplicate | Fault::Refused => Self::internal(&error.to_string()),
        }
    }
}

impl From<ChangeError> for ApiError {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::NotFound => Self::not_found(),
            ChangeError::PreconditionFailed => {
                Self::because(Slug::PreconditionFailed, "Read the resource again, and decide anew.")
            }
            ChangeError::Conflict(what) => Self::because(Slug::Conflict, sentence(what)),
            ChangeError::KeyReused(what) => Self::because(Slug::IdempotencyConflict, sentence(what)),
            ChangeError::Store(error) => error.into(),
        }
    }
}

/// Lower modules write phrases; a detail is a sentence.
fn sentence(phrase: &str) -> String {
    let mut letters = phrase.chars();
    let first = letters.next().map(|letter| letter.to_ascii_uppercase());
    first.into_iter().chain(letters).chain(['.']).collect()
}

impl From<AuthError> for ApiError {
    fn from(error: AuthError) -> Self {
        let (slug, detail) = match error {
            AuthError::CertificateRequired => {
                (Slug::CertificateRequired, "Connect with the certificate that enrollment gave.")
            }
            AuthError::CertificateExpired => {
                (Slug::CertificateExpired, "Renew it at /v1/renew while the fleet's policy allows, or enroll again.")
            }
            AuthError::CertificateNotYetValid => {
                (Slug::CertificateNotYetValid, "Compare the device's clock with the Date of this answer.")
            }
            AuthError::CertificateUntrusted => {
                (Slug::CertificateUntrusted, "Use the certificate that enrollment gave, with the key it was made for.")
            }
            AuthError::CertificateUnknown => (Slug::CertificateUnknown, "Enroll again with a new key."),
            AuthError::CertificateRevoked => {
                (Slug::CertificateRevoked, "Ask an operator; then enroll again with a new key.")
            }
            AuthError::CertificateSuperseded => (
                Slug::CertificateRevoked,
                "The device has newer certificates, and this one ended when the last was made. Use the newest.",
            ),
            AuthError::DeviceSuspended => (Slug::DeviceSuspended, "Ask an operator to resume the device."),
            AuthError::TokenRequired => (Slug::TokenRequired, "Send Authorization: Bearer with an access token."),
            AuthError::TokenInvalid => (Slug::TokenInvalid, "Get a new token."),
            AuthError::TokenExpired => (Slug::TokenExpired, "Get a new token."),
            AuthError::TokenMismatch => {
                (Slug::TokenMismatch, "Get a new token over a connection with the present certificate.")
            }
            AuthError::Blind => (Slug::Unavailable, "This replica cannot check credentials now. Try again."),
            AuthError::Store(error) => return error.into(),
        };
        Self::because(slug, detail)
    }
}

impl From<IdentityError> for ApiError {
    fn from(error: IdentityError) -> Self {
        match error {
            IdentityError::Auth(error) => error.into(),
            IdentityError::RenewalTooLate { window } => Self::because(
                Slug::CertificateExpired,
                format!(
                    "It ended more than {} s ago, which is how long its fleet allows a renewal. Ask an operator, and enroll again.",
                    window.as_secs()
                ),
            ),
            IdentityError::EnrollmentToken => Self::because(
                Slug::EnrollmentTokenInvalid,
                "It is unknown, used up, expired or revoked. Get a new one.",
            ),
            IdentityError::BadCsr(detail) => Self::because(Slug::BadCsr, detail),
            IdentityError::NameTaken => {
                Self::because(Slug::NameTaken, "Choose another name, or enroll with the key that the device has.")
            }
            IdentityError::KeyTaken => Self::because(Slug::KeyTaken, "Make a new key pair and try again."),
            IdentityError::TooOften => Self::because(
                Slug::RateLimited,
                "The device has had as many certificates today as it may. Use the newest that it has.",
            )
            .limit("certificates_per_device")
            .retry_after(CERTIFICATES_PAUSE),
            IdentityError::BadField { pointer, detail } => Self::field(pointer, detail),
            IdentityError::CrlTooLong => {
                tracing::error!("more certificates are revoked than a revocation list may have entries");
                Self::because(Slug::Unavailable, "More certificates are revoked than a list may have entries.")
            }
            IdentityError::Store(error) => error.into(),
            IdentityError::Internal(what) => Self::internal(&what),
        }
    }
}

impl From<IngestError> for ApiError {
    fn from(error: IngestError) -> Self {
        match error {
            IngestError::QueueFull => {
                Self::because(Slug::Overloaded, "Nothing was stored. Send it again after the pause.")
                    .limit("readings_queue")
            }
            IngestError::Deadline => {
                Self::because(Slug::OutcomeUnknown, "It may have been stored. Sending the same again is safe.")
            }
            IngestError::Draining => {
                Self::because(Slug::Draining, "Nothing was stored. Connect again, to another replica.")
            }
            IngestError::Store(error) => error.into(),
        }
    }
}

impl From<PresenceError> for ApiError {
    fn from(error: PresenceError) -> Self {
        match error {
            PresenceError::Blind { .. } => {
                Self::because(Slug::Unavailable, "This replica cannot reach the database. Connect again, to another.")
            }
            PresenceError::Full => {
                Self::because(Slug::Overloaded, "Send the heartbeat again after the pause.").limit("presence_pending")
            }
            PresenceError::Gone => Self::because(
                Slug::DeviceSuspended,
                "The device is not active any more, or its certificate is revoked.",
            ),
            PresenceError::Store(error) => error.into(),
        }
    }
}

impl From<DecodeError> for ApiError {
    fn from(error: DecodeError) -> Self {
        let detail = error.to_string();
        match error {
            DecodeError::TooManyItems { .. } => Self::because(Slug::TooLarge, detail).limit("readings_batch_max"),
            DecodeError::TooLarge { .. } => Self::because(Slug::TooLarge, detail).limit("body_max_bytes"),
            _ => Self::because(Slug::Malformed, detail),
        }
    }
}
