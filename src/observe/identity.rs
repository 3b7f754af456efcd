//! Who calls: the caches, the change log behind them, enrollments, and refused callers.

use std::time::Duration;

use time::OffsetDateTime;

use super::net::Reload;
use super::{Metric, counter, gauge, timestamp};

const CACHE: &str = "everbeat_identity_cache_total";
const PROOF_AGE: &str = "everbeat_identity_change_log_proof_age_seconds";
const CHANGES: &str = "everbeat_identity_changes_applied_total";
const DROPPED: &str = "everbeat_identity_caches_dropped_total";
const SESSIONS: &str = "everbeat_identity_change_log_sessions_total";
const ENROLLMENTS: &str = "everbeat_identity_enrollments_total";
const BUNDLE_RELOADS: &str = "everbeat_identity_ca_bundle_reloads_total";
const ISSUING_CA_EXPIRY: &str = "everbeat_identity_issuing_ca_expiry_timestamp_seconds";
pub const KEYS: &str = "everbeat_identity_keys";
const KEY_RELOADS: &str = "everbeat_identity_key_reloads_total";
const CRL_ENTRIES: &str = "everbeat_identity_crl_entries";
const EXPIRING: &str = "everbeat_identity_certificates_expiring";
pub const REFUSED: &str = "everbeat_identity_refused_total";

pub(super) const METRICS: &[Metric] = &[
    counter(CACHE, "Look-ups in the caches, by cache and outcome."),
    gauge(PROOF_AGE, "Age of the last proof that the change log was read from a primary that commits, in seconds."),
    counter(CHANGES, "Entries of the change log that were applied to the caches."),
    counter(
        DROPPED,
        "Times that all caches were dropped: a new timeline, a long absence, or too many changes at once.",
    ),
    counter(SESSIONS, "Sessions with the database that the change log's follower opened."),
    counter(ENROLLMENTS, "Enrollments and renewals, by outcome."),
    counter(BUNDLE_RELOADS, "Loads of the CA bundle that clients are given, after the start, by outcome."),
    gauge(ISSUING_CA_EXPIRY, "When the issuing CA in use ends, in seconds since 1970."),
    gauge(KEYS, "Keys that are accepted, by use (device and admin: of tokens; issuing: CAs) and state."),
    counter(KEY_RELOADS, "Looks at the files of private keys, after the start, by outcome."),
    gauge(CRL_ENTRIES, "Certificates in the revocation list that this replica made last."),
    gauge(
        EXPIRING,
        "Active devices whose newest certificate ends within so many days. The same on every replica; looked up now and then.",
    ),
    counter(REFUSED, "Callers that were not let in, by reason."),
];

/// A label that is one of a closed set.
macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $text:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($variant),* }

        impl $name {
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }
        }
    };
}

label!(
    /// Which cache.
    Cache {
        Credential = "credential",
        Device = "device",
        Operator = "operator",
        OperatorToken = "operator_token",
        VerifiedToken = "verified_token",
        Connection = "connection",
    }
);

label!(
    /// How an enrollment or renewal ended.
    Outcome {
        Enrolled = "enrolled",
        Again = "again",
        Renewed = "renewed",
        Refused = "refused",
        Failed = "failed",
    }
);

label!(
    /// How far a forecast looks ahead.
    Within { Day1 = "1d", Days7 = "7d", Days30 = "30d" }
);

label!(
    /// What a key signs.
    KeyUse { Device = "device", Admin = "admin", Issuing = "issuing" }
);

label!(
    /// Where a key that is accepted stands in its life.
    KeyLife { Next = "next", Active = "active", Retiring = "retiring" }
);

label!(
    /// Why a caller was not let in.
    Reason {
        CertificateRequired = "certificate_required",
        CertificateExpired = "certificate_expired",
        CertificateNotYetValid = "certificate_not_yet_valid",
        CertificateUntrusted = "certificate_untrusted",
        CertificateUnknown = "certificate_unknown",
        CertificateRevoked = "certificate_revoked",
        CertificateSuperseded = "certificate_superseded",
        DeviceSuspended = "device_suspended",
        TokenRequired = "token_required",
        TokenInvalid = "token_invalid",
        TokenExpired = "token_expired",
        TokenMismatch = "token_mismatch",
        Blind = "blind",
        Store = "store",
    }
);

pub(super) fn zero() {
    for cache in Cache::ALL {
        for outcome in ["hit", "miss"] {
            metrics::counter!(CACHE, "cache" => cache.as_str(), "outcome" => outcome).absolute(0);
        }
    }
    for outcome in Outcome::ALL {
        metrics::counter!(ENROLLMENTS, "outcome" => outcome.as_str()).absolute(0);
    }
    for outcome in Reload::ALL {
        metrics::counter!(BUNDLE_RELOADS, "outcome" => outcome.as_str()).absolute(0);
        metrics::counter!(KEY_RELOADS, "outcome" => outcome.as_str()).absolute(0);
    }
    for reason in Reason::ALL {
        metrics::counter!(REFUSED, "reason" => reason.as_str()).absolute(0);
    }
    for name in [CHANGES, DROPPED, SESSIONS] {
        metrics::counter!(name).absolute(0);
    }
}

/// Look-ups in one cache.
pub struct LookUps {
    hits: metrics::Counter,
    misses: metrics::Counter,
}

impl LookUps {
    /// Counts with the recorder that is installed now.
    pub fn of(cache: Cache) -> Self {
        let counter = |outcome| metrics::counter!(CACHE, "cache" => cache.as_str(), "outcome" => outcome);
        Self { hits: counter("hit"), misses: counter("miss") }
    }

    pub fn count(&self, hit: bool) {
        if hit { self.hits.increment(1) } else { self.misses.increment(1) }
    }
}

pub fn proof_age(age: Duration) {
    metrics::gauge!(PROOF_AGE).set(age.as_secs_f64());
}

pub fn changes_applied(count: usize) {
    metrics::counter!(CHANGES).increment(count as u64);
}

pub fn caches_dropped() {
    metrics::counter!(DROPPED).increment(1);
}

pub fn session_opened() {
    metrics::counter!(SESSIONS).increment(1);
}

pub fn enrollment(outcome: Outcome) {
    metrics::counter!(ENROLLMENTS, "outcome" => outcome.as_str()).increment(1);
}

pub fn issuing_ca_expiry(at: OffsetDateTime) {
    metrics::gauge!(ISSUING_CA_EXPIRY).set(timestamp(at));
}

pub fn keys(of: KeyUse, state: KeyLife, count: usize) {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    metrics::gauge!(KEYS, "use" => of.as_str(), "state" => state.as_str()).set(f64::from(count));
}

pub fn key_reload(outcome: Reload) {
    metrics::counter!(KEY_RELOADS, "outcome" => outcome.as_str()).increment(1);
}

pub fn crl_entries(entries: usize) {
    metrics::gauge!(CRL_ENTRIES).set(f64::from(u32::try_from(entries).unwrap_or(u32::MAX)));
}

pub fn certificates_expiring(within: Within, devices: i64) {
    let devices = u32::try_from(devices.max(0)).unwrap_or(u32::MAX);
    metrics::gauge!(EXPIRING, "within" => within.as_str()).set(f64::from(devices));
}

pub fn bundle_reload(outcome: Reload) {
    metrics::counter!(BUNDLE_RELOADS, "outcome" => outcome.as_str()).increment(1);
}

pub fn refused(reason: Reason) {
    metrics::counter!(REFUSED, "reason" => reason.as_str()).increment(1);
}
