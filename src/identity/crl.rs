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
use crate::domain::time::{Boottime, Clock, unix_us};
use crate::lifecycle::tasks;
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
pub(super) struct Kept(Arc<Mutex<Option<(Boottime, Made)>>>);

type Made = Result<Arc<Crl>, IdentityError>;

impl Kept {
    /// What came of the last attempt if that is fresh, counted from its end; otherwise of this one, in a task of its own:
    /// whoever hangs up meanwhile leaves it to the others, and no statement that nobody waits for.
    async fn or(&self, clock: &Clock, attempt: impl Future<Output = Made> + Send + 'static) -> Made {
        let mut kept = self.0.clone().lock_owned().await;
        let now = clock.boottime();
        let fresh = |(since, made): &&(Boottime, Made)| now.since(*since) < kept_for(made);
        if let Some((_, made)) = kept.as_ref().filter(fresh) {
            return made.clone();
        }
        let clock = clock.clone();
        let made = tasks::spawn(async move {
            let made = attempt.await;
            *kept = Some((clock.boottime(), made.clone()));
            made
        });
        made.await.unwrap_or_else(|error| Err(IdentityError::Internal(error.to_string())))
    }
}

fn kept_for(made: &Made) -> Duration {
    match made {
        // It will not have become shorter so soon, and to count it costs as much as to make it.
        Ok(_) | Err(IdentityError::CrlTooLong) => FRESH,
        Err(_) => FAILED,
    }
}

impl Identity {
    /// The revocation lists, at most [`FRESH`] old.
    pub async fn crl(&self) -> Result<Arc<Crl>, IdentityError> {
        let this = self.clone();
        let attempt = async move { this.lists().await.map(Arc::new) };
        self.0.crl.or(&self.0.clock, attempt).await
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
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures_util::future::join_all;
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

    /// Lists that fail, or are made, as the test says; each attempt takes longer than its failure is kept.
    struct Press {
        kept: Kept,
        clock: Clock,
        attempts: AtomicU32,
    }

    impl Press {
        async fn attempt(self: Arc<Self>, made: Made) -> Made {
            self.attempts.fetch_add(1, Ordering::SeqCst);
            // The others are there by now, and wait.
            tokio::task::yield_now().await;
            self.clock.advance(FAILED * 2);
            made
        }

        /// A hundred ask at the same time. What they are told, and how often it was attempted so far.
        async fn asked_by_many(self: &Arc<Self>, made: &Made) -> (Vec<bool>, u32) {
            let asked = (0..100).map(|_| self.kept.or(&self.clock, self.clone().attempt(made.clone())));
            let mut told: Vec<bool> = join_all(asked).await.iter().map(Result::is_ok).collect();
            told.dedup();
            (told, self.attempts.load(Ordering::SeqCst))
        }
    }

    #[tokio::test]
    async fn whoever_asks_is_told_of_a_failure_for_a_second_and_then_it_is_tried_again() {
        let press = Press { kept: Kept::default(), clock: Clock::manual(0), attempts: AtomicU32::new(0) };
        let press = Arc::new(press);
        let instant = Duration::from_micros(1);
        let failure: Made = Err(IdentityError::Internal("the database does not answer".to_owned()));
        assert_eq!(press.asked_by_many(&failure).await, (vec![false], 1), "also those who waited for longer than that");
        press.clock.advance(FAILED.saturating_sub(instant));
        assert_eq!(press.asked_by_many(&failure).await, (vec![false], 1));
        press.clock.advance(instant);
        assert_eq!(press.asked_by_many(&failure).await, (vec![false], 2));
        press.clock.advance(FAILED);
        let list: Made = Ok(Arc::new(Crl { der: Bytes::new(), pem: Bytes::new() }));
        assert_eq!(press.asked_by_many(&list).await, (vec![true], 3));
        // A list is kept for longer.
        press.clock.advance(FRESH.saturating_sub(instant));
        assert_eq!(press.asked_by_many(&failure).await, (vec![true], 3));
        press.clock.advance(instant);
        let too_long: Made = Err(IdentityError::CrlTooLong);
        assert_eq!(press.asked_by_many(&too_long).await, (vec![false], 4));
        press.clock.advance(FRESH.saturating_sub(instant));
        assert_eq!(press.asked_by_many(&list).await, (vec![false], 4), "nor does what is too long get short at once");
    }

    #[tokio::test]
    async fn whoever_hangs_up_leaves_what_was_begun_to_the_next() {
        let press = Press { kept: Kept::default(), clock: Clock::manual(0), attempts: AtomicU32::new(0) };
        let press = Arc::new(press);
        let list: Made = Ok(Arc::new(Crl { der: Bytes::new(), pem: Bytes::new() }));
        let mut gone = Box::pin(press.kept.or(&press.clock, press.clone().attempt(list.clone())));
        assert!(futures_util::poll!(&mut gone).is_pending());
        drop(gone);
        assert_eq!(press.asked_by_many(&list).await, (vec![true], 1));
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
