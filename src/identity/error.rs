//! Why a caller is not let in, or is not given what they asked for. Status codes are chosen in `http`.

use std::time::Duration;

use crate::observe::identity::Reason;
use crate::store::enrollment::EnrollRefusal;
use crate::store::renewals::RenewRefusal;
use crate::store::{Fault, StoreError};

/// Why a caller is not let in.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AuthError {
    #[error("a client certificate is required")]
    CertificateRequired,
    #[error("the client certificate has expired")]
    CertificateExpired,
    #[error("the client certificate is not valid yet")]
    CertificateNotYetValid,
    /// Of another CA, for another use, or unreadable.
    #[error("the client certificate is not one of ours")]
    CertificateUntrusted,
    /// Ours by its signature, but not a credential of the device that it names.
    #[error("the client certificate is not known")]
    CertificateUnknown,
    #[error("the client certificate was revoked")]
    CertificateRevoked,
    /// The device has as many newer ones as it may have.
    #[error("the client certificate was replaced by newer ones")]
    CertificateSuperseded,
    /// Suspended or decommissioned.
    #[error("the device is not active")]
    DeviceSuspended,
    #[error("a bearer token is required")]
    TokenRequired,
    /// Unreadable, not ours, for the other listener, revoked, or of an operator who may not sign in.
    #[error("the token is not valid")]
    TokenInvalid,
    #[error("the token has expired")]
    TokenExpired,
    /// Bound to another certificate (RFC 8705, 3).
    #[error("the token belongs to another certificate")]
    TokenMismatch,
    /// The change log was not read for too long: 503.
    #[error("who may call cannot be told at the moment")]
    Blind,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl AuthError {
    /// Does it mean that the certificate does not count? (That of a suspended device does.)
    pub fn blames_certificate(&self) -> bool {
        matches!(
            self,
            Self::CertificateExpired
                | Self::CertificateNotYetValid
                | Self::CertificateUntrusted
                | Self::CertificateUnknown
                | Self::CertificateRevoked
                | Self::CertificateSuperseded
        )
    }

    /// The metric's label.
    pub fn reason(&self) -> Reason {
        match self {
            Self::CertificateRequired => Reason::CertificateRequired,
            Self::CertificateExpired => Reason::CertificateExpired,
            Self::CertificateNotYetValid => Reason::CertificateNotYetValid,
            Self::CertificateUntrusted => Reason::CertificateUntrusted,
            Self::CertificateUnknown => Reason::CertificateUnknown,
            Self::CertificateRevoked => Reason::CertificateRevoked,
            Self::CertificateSuperseded => Reason::CertificateSuperseded,
            Self::DeviceSuspended => Reason::DeviceSuspended,
            Self::TokenRequired => Reason::TokenRequired,
            Self::TokenInvalid => Reason::TokenInvalid,
            Self::TokenExpired => Reason::TokenExpired,
            Self::TokenMismatch => Reason::TokenMismatch,
            Self::Blind => Reason::Blind,
            Self::Store(_) => Reason::Store,
        }
    }
}

/// Why there is no certificate, or no token. No text repeats what the caller sent.
#[derive(Clone, Debug, thiserror::Error)]
pub enum IdentityError {
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// The certificate ended longer ago than its fleet allows a renewal.
    #[error("the client certificate has expired, and may not be renewed any more")]
    RenewalTooLate { window: Duration },
    /// Unknown, expired, revoked, used up, or not for this name.
    #[error("the enrollment token is not valid")]
    EnrollmentToken,
    /// A sentence for the caller.
    #[error("{0}")]
    BadCsr(String),
    #[error("the name belongs to another device")]
    NameTaken,
    /// It is another device's, or was revoked.
    #[error("the key cannot be certified")]
    KeyTaken,
    #[error("the device had too many certificates today")]
    TooOften,
    #[error("{pointer}: {detail}")]
    BadField { pointer: String, detail: String },
    /// More certificates are revoked than a list may have entries.
    #[error("the revocation list would be too long")]
    CrlTooLong,
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A bug of ours; for the log.
    #[error("{0}")]
    Internal(String),
}

/// This replica lacks a key that is in use: another one has it.
pub(super) fn keyless(what: &'static str) -> StoreError {
    StoreError::new(what, Fault::Unavailable, "the active key is not among this replica's files")
}

/// This replica signed with a CA that was retired meanwhile: it will have heard of it when the caller comes again.
fn overtaken() -> StoreError {
    StoreError::new("issuing_ca", Fault::Unavailable, "the issuing CA was retired while it signed")
}

impl From<EnrollRefusal> for IdentityError {
    fn from(refusal: EnrollRefusal) -> Self {
        match refusal {
            EnrollRefusal::Token => Self::EnrollmentToken,
            EnrollRefusal::NameTaken => Self::NameTaken,
            EnrollRefusal::KeyTaken => Self::KeyTaken,
            EnrollRefusal::Suspended => AuthError::DeviceSuspended.into(),
            EnrollRefusal::TooOften => Self::TooOften,
            EnrollRefusal::Issuing(detail) => Self::Internal(detail),
            EnrollRefusal::CaRetired => Self::Store(overtaken()),
            EnrollRefusal::Store(error) => Self::Store(error),
        }
    }
}

impl From<RenewRefusal> for IdentityError {
    fn from(refusal: RenewRefusal) -> Self {
        match refusal {
            RenewRefusal::Unknown => AuthError::CertificateUnknown.into(),
            RenewRefusal::Revoked => AuthError::CertificateRevoked.into(),
            RenewRefusal::Superseded => AuthError::CertificateSuperseded.into(),
            RenewRefusal::Expired { window } => Self::RenewalTooLate { window },
            RenewRefusal::Suspended => AuthError::DeviceSuspended.into(),
            RenewRefusal::KeyTaken => Self::KeyTaken,
            RenewRefusal::TooOften => Self::TooOften,
            RenewRefusal::Untrusted => AuthError::CertificateUntrusted.into(),
            RenewRefusal::CaRetired => Self::Store(overtaken()),
            RenewRefusal::Store(error) => Self::Store(error),
        }
    }
}
