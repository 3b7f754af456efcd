//! The certificate revocation lists (RFC 5280, 5) of our issuing CAs: an export for others that meet our devices'
//! certificates. We ourselves never read one, the database decides: a list that is late or
//! missing would lock devices out.
//!
//! A list is kept for a short time, and made by one request for all that wait. Its number is the primary's timeline and
//! then the database's clock in microseconds: it grows from list to list, whichever replica makes them, also behind a
//! failover to a server whose clock is late. A reading request writes nothing, hence no counter.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevocationReason, RevokedCertParams, SerialNumber};
use time::OffsetDateTime;
use tokio::sync::Mutex;

use super::Identity;
use super::ca::Issuer;
use super::error::{IdentityError, keyless};
use crate::domain::time::{Boottime, unix_us};
use crate::observe::identity as observe;
use crate::store::credentials::SUPERSEDED;
use crate::store::revocations::{self, Revocations, Revoked};

/// A revocation is in the lists that we give after this. Shorter: whoever asks often makes us sign often.
pub const FRESH: Duration = Duration::from_mins(1);
/// So long everybody is told what the last attempt failed by: behind a database that does not answer, each would wait in turn.
const FAILED: Duration = Duration::from_secs(1);
/// Until when a list may be used: longer than any outage of ours, or others lock our devices out during one.
const LIFE: time::Duration = time::Duration::days(1);
/// About 4 MB. A list that leaves some out would say that those are good, so beyond this there is none.
const ENTRIES_MAX: usize = 100_000;

/// The lists. While issuing CAs change there is one of each that is trusted.
#[derive(Clone, Debug)]
pub struct Crl {
    /// Of the CA that signs now: this encoding holds one list.
    pub der: Bytes,
    /// Of all, that one first.
    pub pem: Bytes,
}

/// What came of the last attempt, and when. Held over the next.
#[derive(Default)]
pub(super) struct Kept(Mutex<Option<(Boottime, Made)>>);

type Made = Result<Arc<Crl>, IdentityError>;

impl Identity {
    /// The revocation lists, at most [`FRESH`] old.
    pub async fn crl(&self) -> Result<Arc<Crl>, IdentityError> {
        let mut kept = self.0.crl.0.lock().await;
        let now = self.0.clock.boottime();
        let fresh = |(since, made): &&(Boottime, Made)| now.since(*since) < if made.is_ok() { FRESH } else { FAILED };
        if let Some((_, made)) = kept.as_ref().filter(fresh) {
            return made.clone();
        }
        let made = self.lists().await.map(Arc::new);
        *kept = Some((self.0.clock.boottime(), made.clone()));
        made
    }

    async fn lists(&self) -> Result<Crl, IdentityError> {
        let ring = self.0.keyring.ring();
        let active = ring.issuer.as_ref().ok_or_else(|| keyless("issuing_ca"))?;
        let mut crl = self.list(active).await?;
        let mut pem = crl.pem.to_vec();
        for other in &ring.others {
            pem.extend(self.list(other).await?.pem);
        }
        crl.pem = pem.into();
        Ok(crl)
    }

    async fn list(&self, issuer: &Issuer) -> Result<Crl, IdentityError> {
        let rows_max = i64::try_from(ENTRIES_MAX + 1).unwrap_or(i64::MAX);
        let found = revocations::of_issuer(self.0.log.control(), issuer.fingerprint(), rows_max).await?;
        make(issuer, found)
    }
}

fn make(issuer: &Issuer, found: Revocations) -> Result<Crl, IdentityError> {
    let Revocations { timeline, as_of, revoked } = found;
    if revoked.len() > ENTRIES_MAX {
        return Err(IdentityError::CrlTooLong);
    }
    let revoked_certs: Vec<RevokedCertParams> = revoked.iter().map(entry).collect();
    observe::crl_entries(revoked_certs.len());
    let this_update = as_of.replace_nanosecond(0).unwrap_or(as_of);
    let list = CertificateRevocationListParams {
        this_update,
        next_update: this_update + LIFE,
        crl_number: number(timeline, as_of),
        issuing_distribution_point: None,
        revoked_certs,
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let (der, pem) = issuer.sign_list(list).map_err(|error| IdentityError::Internal(error.to_string()))?;
    Ok(Crl { der: der.into(), pem: pem.into() })
}

fn number(timeline: i32, as_of: OffsetDateTime) -> SerialNumber {
    let mut bytes = timeline.to_be_bytes().to_vec();
    bytes.extend(unix_us(as_of).to_be_bytes());
    SerialNumber::from_slice(&bytes)
}

fn entry(revoked: &Revoked) -> RevokedCertParams {
    RevokedCertParams {
        serial_number: SerialNumber::from_slice(&revoked.serial),
        revocation_time: revoked.revoked_at,
        reason_code: revoked.reason.as_deref().and_then(reason),
        invalidity_date: None,
    }
}

/// The reason, where an operator has given one of RFC 5280, 5.3.1, however it is written. Those that are not for a
/// device's certificate, or may be taken back, are none: ours are final.
fn reason(text: &str) -> Option<RevocationReason> {
    let letters = text.chars().filter(char::is_ascii_alphabetic).map(|letter| letter.to_ascii_lowercase());
    match letters.collect::<String>().as_str() {
        "keycompromise" => Some(RevocationReason::KeyCompromise),
        "affiliationchanged" => Some(RevocationReason::AffiliationChanged),
        SUPERSEDED => Some(RevocationReason::Superseded),
        "cessationofoperation" => Some(RevocationReason::CessationOfOperation),
        "privilegewithdrawn" => Some(RevocationReason::PrivilegeWithdrawn),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use x509_parser::prelude::{CertificateRevocationList, FromDer};

    use super::*;
    use crate::identity::ca::Root;

    fn now() -> OffsetDateTime {
        time::macros::datetime!(2026-11-23 10:00:00.123456 UTC)
    }

    fn issuer() -> Issuer {
        Root::make(now()).unwrap().make_issuer(now()).unwrap()
    }

    fn revoked(serial: u8) -> Revoked {
        Revoked { serial: vec![serial; 16], revoked_at: now(), reason: None }
    }

    fn serials(issuer: &Issuer, revoked: Vec<Revoked>) -> Result<Vec<u8>, IdentityError> {
        let crl = make(issuer, Revocations { timeline: 1, as_of: now(), revoked })?;
        let (_, list) = CertificateRevocationList::from_der(&crl.der).unwrap();
        Ok(list.iter_revoked_certificates().map(|entry| entry.raw_serial()[0]).collect())
    }

    #[test]
    fn a_list_leaves_nothing_out() {
        let own = issuer();
        assert_eq!(serials(&own, [0x41, 0x43].map(revoked).to_vec()).unwrap(), [0x41, 0x43]);
        assert!(serials(&own, Vec::new()).unwrap().is_empty());
        let many = vec![revoked(0x41); ENTRIES_MAX + 1];
        assert!(matches!(serials(&own, many), Err(IdentityError::CrlTooLong)));
    }

    #[test]
    fn numbers_grow_also_behind_a_failover_to_a_late_clock() {
        let of = |timeline, ms| number(timeline, now() + time::Duration::milliseconds(ms)).to_bytes();
        assert!(of(1, 0) < of(1, 1) && of(1, 1) < of(2, -5_000));
    }

    #[test]
    fn reasons() {
        for text in ["keyCompromise", "key_compromise", "Key compromise"] {
            assert_eq!(reason(text), Some(RevocationReason::KeyCompromise), "{text}");
        }
        assert_eq!(reason(SUPERSEDED), Some(RevocationReason::Superseded));
        for text in ["", "stolen", "certificateHold", "removeFromCRL", "unspecified"] {
            assert_eq!(reason(text), None, "{text}");
        }
    }
}
