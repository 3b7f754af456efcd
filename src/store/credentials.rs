//! Credentials: the certificates that the database calls current. It alone decides; revocation lists are an export.
//!
//! - All changes to one device's credentials happen under its row's lock, so a renewal cannot slip a descendant past
//!   a revocation. The lock of a key ([`lock_key`]) comes before it, always.
//! - A revocation takes with it what the certificate asked for since (its descendants) and every certificate of the
//!   same key. A key that was revoked is never certified again; one that was merely superseded may be.

use serde_json::json;
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::changes::{self, ChangeError, ChangeKind, ChangeLog, NewEvent, append_all, refuse};
use super::control::ControlStore;
use super::devices::{Loaded, absent};
use super::error::StoreError;
use crate::domain::digest::hex;
use crate::domain::ids::{DeviceId, Fingerprint};

/// Live certificates of one device: the one in use, its renewal, and one whose answer got lost.
pub const LIVE_MAX: i64 = 3;
/// Certificates of one device within a day. What they supersede stays in the revocation list until its end: more, and one
/// device that never stops would fill the list for all. Fewer, and one that keeps losing answers is locked out.
const ISSUED_A_DAY_MAX: i64 = 20;
/// The reason that only [`LIVE_MAX`] gives.
pub const SUPERSEDED: &str = "superseded";
/// The class of the advisory locks on keys, apart from every other of ours.
const KEY_LOCKS: i32 = 4713;

/// A credential as the cache holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    pub device: DeviceId,
    pub not_after: OffsetDateTime,
    pub standing: Standing,
    /// The CA that signed it; `None`: the first of this installation.
    pub issuer: Option<Fingerprint>,
}

/// Does it count?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Current,
    /// The device has [`LIVE_MAX`] newer ones.
    Superseded,
    /// By an operator.
    Revoked,
}

impl Standing {
    pub(super) fn of(revoked: bool, reason: Option<&str>) -> Self {
        match (revoked, reason) {
            (false, _) => Self::Current,
            (true, Some(SUPERSEDED)) => Self::Superseded,
            (true, _) => Self::Revoked,
        }
    }
}

/// A certificate that was issued, to be recorded.
/// The certificate is public; its key is not here.
#[derive(Clone, Debug)]
pub struct NewCredential {
    pub fingerprint: Fingerprint,
    /// The CA that signed it.
    pub issuer: Fingerprint,
    pub spki_sha256: [u8; 32],
    pub serial: [u8; 16],
    pub certificate_pem: String,
    pub not_before: OffsetDateTime,
    pub not_after: OffsetDateTime,
}

/// What a new credential descends from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Origin<'a> {
    Credential(Fingerprint),
    EnrollmentToken(&'a str),
}

/// The credential with this fingerprint.
pub async fn load(control: &ControlStore, print: Fingerprint) -> Result<Loaded<Credential>, StoreError> {
    control
        .read("credential_load", move |c| {
            Box::pin(async move {
                let row = sqlx::query!(
                    r#"select current_timeline() as "timeline!", device_id, not_after, revoked_at is not null as "revoked!",
                              revoke_reason, issuer
                       from credentials where fingerprint = $1"#,
                    &print.0[..]
                )
                .fetch_optional(&mut *c)
                .await?;
                let Some(row) = row else { return Ok(absent(c).await?) };
                let issuer = row.issuer.and_then(|print| print.try_into().ok()).map(Fingerprint);
                let (device, not_after) = (DeviceId(row.device_id), row.not_after);
                let standing = Standing::of(row.revoked, row.revoke_reason.as_deref());
                let credential = Credential { device, not_after, standing, issuer };
                Ok(Loaded { timeline: row.timeline, row: Some(credential) })
            })
        })
        .await
}

/// One at a time for each public key. Held until the transaction ends.
pub(super) async fn lock_key(c: &mut PgConnection, spki_sha256: &[u8; 32]) -> Result<(), sqlx::Error> {
    let [a, b, c0, d, ..] = *spki_sha256;
    sqlx::query!("select pg_advisory_xact_lock($1, $2)", KEY_LOCKS, i32::from_be_bytes([a, b, c0, d]))
        .execute(c)
        .await?;
    Ok(())
}

/// May `device` have this key certified? Not if it is another's, or was ever revoked. Under [`lock_key`].
pub(super) async fn key_is_free(
    c: &mut PgConnection,
    spki_sha256: &[u8; 32],
    device: Option<Uuid>,
) -> Result<bool, sqlx::Error> {
    let taken = sqlx::query_scalar!(
        r#"select exists (select from credentials where spki_sha256 = $1
             and (device_id is distinct from $2 or (revoked_at is not null and revoke_reason is distinct from $3)))
           as "taken!""#,
        &spki_sha256[..],
        device,
        SUPERSEDED
    );
    Ok(!taken.fetch_one(c).await?)
}

/// May the device have one more today? Under the lock of its row.
pub(super) async fn is_due(c: &mut PgConnection, device: Uuid) -> Result<bool, sqlx::Error> {
    let due = sqlx::query_scalar!(
        r#"select count(*) < $2 as "due!" from credentials
           where device_id = $1 and created_at > clock_timestamp() - interval '1 day'"#,
        device,
        ISSUED_A_DAY_MAX
    );
    due.fetch_one(c).await
}

/// Records a new certificate, and supersedes the oldest beyond [`LIVE_MAX`]; the caller's own stays. False, and nothing
/// done: its CA was retired before this replica had heard of it, and nobody would accept the certificate.
pub(super) async fn insert(
    c: &mut PgConnection,
    device: DeviceId,
    new: &NewCredential,
    origin: Origin<'_>,
) -> Result<bool, sqlx::Error> {
    let (parent, token) = match origin {
        Origin::Credential(parent) => (Some(parent.0.to_vec()), None),
        Origin::EnrollmentToken(token) => (None, Some(token)),
    };
    let inserted = sqlx::query!(
        "insert into credentials (fingerprint, device_id, spki_sha256, parent, enrollment_token_id, serial,
                                  certificate_pem, not_before, not_after, issuer)
         select $1, $2, $3, $4, $5, $6, $7, $8, $9, $10
         where not exists (select from ca_certificates where fingerprint = $10 and state = 'retired')",
        &new.fingerprint.0[..],
        device.0,
        &new.spki_sha256[..],
        parent.clone(),
        token,
        &new.serial[..],
        new.certificate_pem,
        new.not_before,
        new.not_after,
        &new.issuer.0[..]
    )
    .execute(&mut *c)
    .await?;
    if inserted.rows_affected() == 0 {
        return Ok(false);
    }
    let superseded = sqlx::query_scalar!(
        "update credentials set revoked_at = clock_timestamp(), revoke_reason = $4
         where fingerprint in (
           select fingerprint from credentials
           where device_id = $1 and revoked_at is null and not_after > clock_timestamp()
           order by fingerprint = $5 desc, coalesce(fingerprint = $2, false) desc, created_at desc offset $3)
         returning fingerprint",
        device.0,
        parent,
        LIVE_MAX,
        SUPERSEDED,
        &new.fingerprint.0[..]
    )
    .fetch_all(&mut *c)
    .await?;
    if !superseded.is_empty() {
        judge_ends_again(c, device.0).await?;
    }
    let keys: Vec<String> = superseded.iter().chain([&new.fingerprint.0.to_vec()]).map(|print| hex(print)).collect();
    append_all(c, ChangeKind::Credential, &keys).await?;
    Ok(true)
}

/// What a revocation did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revoked {
    pub device: DeviceId,
    /// Certificates that were valid before and are not any more; none when it was a repetition.
    pub fingerprints: Vec<Fingerprint>,
}

/// Revokes a certificate with its descendants and all certificates of their keys. A repetition succeeds.
/// `by`: who asks, for the event.
pub async fn revoke(
    log: &ChangeLog,
    print: Fingerprint,
    reason: Option<String>,
    by: String,
) -> Result<Revoked, ChangeError> {
    // Reserved: a superseded key may be certified again, a revoked one never.
    let reason = reason.filter(|reason| reason != SUPERSEDED).unwrap_or_else(|| "revoked".to_owned());
    log.write("certificate_revoke", move |c| {
        let (reason, by) = (reason.clone(), by.clone());
        Box::pin(async move {
            let found = sqlx::query!(
                "select d.id, d.fleet_id from credentials c join devices d on d.id = c.device_id
                 where c.fingerprint = $1 for update of d",
                &print.0[..]
            );
            let Some(device) = found.fetch_optional(&mut *c).await? else { return refuse(ChangeError::NotFound) };
            let revoked = revoke_family(c, device.id, print, &reason).await?;
            for print in &revoked {
                let event = NewEvent {
                    kind: "certificate.revoked",
                    fleet: Some(device.fleet_id),
                    device: Some(device.id),
                    cause: Some(&reason),
                    detail: json!({ "fingerprint": print.to_string(), "by": by }),
                };
                changes::record(c, &event).await?;
            }
            Ok(Revoked { device: DeviceId(device.id), fingerprints: revoked })
        })
    })
    .await
}

async fn revoke_family(
    c: &mut PgConnection,
    device: Uuid,
    print: Fingerprint,
    reason: &str,
) -> Result<Vec<Fingerprint>, sqlx::Error> {
    let rows = sqlx::query_scalar!(
        "with recursive family as (
           select fingerprint, spki_sha256 from credentials where fingerprint = $2
           union
           select k.fingerprint, k.spki_sha256 from credentials k
           join family f on k.parent = f.fingerprint or k.spki_sha256 = f.spki_sha256
           where k.device_id = $1)
         update credentials set revoked_at = coalesce(revoked_at, clock_timestamp()), revoke_reason = $3
         where fingerprint in (select fingerprint from family)
           and (revoked_at is null or revoke_reason = $4)
         returning fingerprint",
        device,
        &print.0[..],
        reason,
        SUPERSEDED
    )
    .fetch_all(&mut *c)
    .await?;
    let prints: Vec<Fingerprint> =
        rows.iter().filter_map(|row| row.as_slice().try_into().ok().map(Fingerprint)).collect();
    judge_ends_again(c, device).await?;
    let keys: Vec<String> = prints.iter().map(Fingerprint::to_string).collect();
    append_all(c, ChangeKind::Credential, &keys).await?;
    Ok(prints)
}

/// A certificate near its end that had a successor may have none any more. The lease's duty looks at it again.
async fn judge_ends_again(c: &mut PgConnection, device: Uuid) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update credentials set expiry_notice = null
         where device_id = $1 and revoked_at is null and expiry_notice = 'succeeded'",
        device
    )
    .execute(c)
    .await
    .map(drop)
}
