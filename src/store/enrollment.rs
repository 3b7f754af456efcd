//! Enrollment: tokens, and the one transaction that makes a device.
//!
//! The order of locks is: the key, the device's row (or the wait for its unique name), the token's row. A token is
//! consumed by one conditional UPDATE in the transaction that records the certificate: never without the other.

use std::sync::Arc;

use serde_json::{Value, json};
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::changes::{self, ChangeError, ChangeKind, ChangeLog, NewEvent, append, refuse};
use super::control::{Abort, ControlStore};
use super::credentials::{self, NewCredential, Origin};
use super::devices::DeviceState;
use super::error::StoreError;
use super::fleets;
use super::idempotency::{self, Made, Once};
use crate::domain::ids::{DeviceId, FleetId};
use crate::domain::name::{Name, NamePattern};
use crate::domain::presence::{Cause, State};

/// Why a device is not enrolled.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EnrollRefusal {
    /// Unknown, expired, revoked, used up, or not for this name.
    #[error("the enrollment token is not valid")]
    Token,
    #[error("the name belongs to another device")]
    NameTaken,
    #[error("the key cannot be certified")]
    KeyTaken,
    #[error("the device is not active")]
    Suspended,
    #[error("the device had too many certificates today")]
    TooOften,
    #[error("no certificate: {0}")]
    Issuing(String),
    /// Before this replica had heard of it.
    #[error("the issuing CA was retired meanwhile")]
    CaRetired,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A token as enrollment judges it, before it reads anything else of the request.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, each named by what it means")]
pub struct TokenRecord {
    pub id: String,
    pub secret_sha256: Vec<u8>,
    /// Not revoked, and not past its end by the database's clock.
    pub alive: bool,
    pub used_up: bool,
    pub fleet: FleetId,
    pub fleet_name: String,
    pub certificate_ttl_s: i64,
    /// Is the name one that the token is for?
    pub name_fits: bool,
    /// Has the token's fleet a device of that name?
    pub name_exists: bool,
}

/// The token, judged for a device name.
pub async fn find(control: &ControlStore, id: &str, name: &Name) -> Result<Option<TokenRecord>, StoreError> {
    let (id, name) = (id.to_owned(), name.clone());
    control
        .read("enrollment_token_find", move |c| {
            let (id, name) = (id.clone(), name.clone());
            Box::pin(async move {
                let row = sqlx::query!(
                    r#"select t.id, t.secret_sha256, t.uses >= t.uses_max as "used_up!", t.fleet_id,
                              f.name as fleet_name, f.certificate_ttl_s,
                              (t.revoked_at is null and t.expires_at > clock_timestamp()) as "alive!", t.name_glob,
                              -- Tokens of the release before this one have a regular expression alone.
                              (t.name_glob is not null or t.name_pattern is null
                               or $2 ~ ('^(?:' || t.name_pattern || ')$')) as "older_fits!",
                              exists (select from devices d where d.fleet_id = t.fleet_id and d.name = $2)
                                as "name_exists!"
                       from enrollment_tokens t join fleets f on f.id = t.fleet_id where t.id = $1"#,
                    id,
                    name.as_str()
                )
                .fetch_optional(c)
                .await?;
                Ok(row.map(|row| TokenRecord {
                    name_fits: row.older_fits && fits(row.name_glob.as_deref(), &name),
                    id: row.id,
                    secret_sha256: row.secret_sha256,
                    alive: row.alive,
                    used_up: row.used_up,
                    fleet: FleetId(row.fleet_id),
                    fleet_name: row.fleet_name,
                    certificate_ttl_s: row.certificate_ttl_s,
                    name_exists: row.name_exists,
                }))
            })
        })
        .await
}

/// A pattern that this binary cannot read fits no name.
fn fits(glob: Option<&str>, name: &Name) -> bool {
    glob.is_none_or(|glob| glob.parse().is_ok_and(|pattern: NamePattern| pattern.matches(name)))
}

/// An enrollment whose token and key were checked.
#[derive(Clone, Debug)]
pub struct Enrollment {
    pub token_id: String,
    pub fleet: FleetId,
    /// The device's id, if it is a new one.
    pub fresh_id: DeviceId,
    pub name: String,
    pub tags: Vec<String>,
    pub attributes: Value,
    pub spki_sha256: [u8; 32],
}

/// What an enrollment led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enrolled {
    New(DeviceId),
    /// The first answer got lost: the same device, a fresh certificate, no use of the token.
    Again(DeviceId),
}

impl Enrolled {
    pub fn device(self) -> DeviceId {
        match self {
            Self::New(device) | Self::Again(device) => device,
        }
    }
}

/// Signs a certificate for the device. Called inside the transaction, possibly more than once.
pub type Sign<T> = Arc<dyn Fn(DeviceId) -> Result<(NewCredential, T), String> + Send + Sync>;

/// Enrolls, in one transaction.
pub async fn enroll<T: Send + 'static>(
    log: &ChangeLog,
    enrollment: Enrollment,
    sign: Sign<T>,
) -> Result<(Enrolled, T), EnrollRefusal> {
    log.write("enroll", move |c| {
        let (enrollment, sign) = (enrollment.clone(), sign.clone());
        Box::pin(async move {
            credentials::lock_key(c, &enrollment.spki_sha256).await?;
            let enrolled = place(c, &enrollment).await?;
            let device = enrolled.device();
            let (credential, signed) = sign(device).map_err(|error| Abort::Refuse(EnrollRefusal::Issuing(error)))?;
            let origin = Origin::EnrollmentToken(&enrollment.token_id);
            if !credentials::insert(c, device, &credential, origin).await? {
                return refuse(EnrollRefusal::CaRetired);
            }
            let event = NewEvent {
                kind: if matches!(enrolled, Enrolled::New(_)) { "device.enrolled" } else { "device.reissued" },
                fleet: Some(enrollment.fleet.0),
                device: Some(device.0),
                cause: None,
                detail: json!({
                    "name": enrollment.name,
                    "enrollment_token": enrollment.token_id,
                    "fingerprint": credential.fingerprint.to_string(),
                }),
            };
            changes::record(c, &event).await?;
            Ok((enrolled, signed))
        })
    })
    .await
}

/// Makes the device, or finds that it is the one whose answer got lost.
async fn place(c: &mut PgConnection, enrollment: &Enrollment) -> Result<Enrolled, Abort<EnrollRefusal>> {
    // The insert comes first: it waits for whoever is making the same name just now, and loses to them cleanly.
    let inserted = sqlx::query!(
        "insert into devices (id, fleet_id, name, tags, attributes) values ($1, $2, $3, $4, $5)
         on conflict on constraint devices_fleet_id_name_key do nothing",
        enrollment.fresh_id.0,
        enrollment.fleet.0,
        enrollment.name,
        &enrollment.tags,
        enrollment.attributes
    )
    .execute(&mut *c)
    .await?;
    if inserted.rows_affected() == 0 {
        return again(c, enrollment).await;
    }
    if !credentials::key_is_free(c, &enrollment.spki_sha256, Some(enrollment.fresh_id.0)).await? {
        return refuse(EnrollRefusal::KeyTaken);
    }
    let consumed = sqlx::query!(
        "update enrollment_tokens set uses = uses + 1
         where id = $1 and fleet_id = $2 and revoked_at is null and expires_at > clock_timestamp() and uses < uses_max",
        enrollment.token_id,
        enrollment.fleet.0
    )
    .execute(&mut *c)
    .await?;
    if consumed.rows_affected() == 0 {
        return refuse(EnrollRefusal::Token);
    }
    // Never seen, and one full deadline from now on.
    sqlx::query!(
        "insert into presence (device_id, state, cause, promise_ms)
         select $1, $2, $3, heartbeat_interval_ms from fleets where id = $4",
        enrollment.fresh_id.0,
        State::NeverSeen.code(),
        Cause::Enrolled.code(),
        enrollment.fleet.0
    )
    .execute(&mut *c)
    .await?;
    append(c, ChangeKind::Device, &enrollment.fresh_id.to_string()).await?;
    append(c, ChangeKind::EnrollmentToken, &enrollment.token_id).await?;
    Ok(Enrolled::New(enrollment.fresh_id))
}

async fn again(c: &mut PgConnection, enrollment: &Enrollment) -> Result<Enrolled, Abort<EnrollRefusal>> {
    let device = sqlx::query!(
        "select id, state from devices where fleet_id = $1 and name = $2 for update",
        enrollment.fleet.0,
        enrollment.name
    );
    // Gone again between two statements: whoever asks next will find the name free.
    let Some(device) = device.fetch_optional(&mut *c).await? else { return refuse(EnrollRefusal::NameTaken) };
    let same = sqlx::query_scalar!(
        r#"select exists (
             select from credentials k join enrollment_tokens t on t.id = k.enrollment_token_id
             where k.device_id = $1 and k.spki_sha256 = $2 and k.enrollment_token_id = $3
               and t.revoked_at is null and t.expires_at > clock_timestamp()
             having min(k.created_at) > clock_timestamp() - interval '24 hours') as "same!""#,
        device.id,
        &enrollment.spki_sha256[..],
        enrollment.token_id
    );
    if !same.fetch_one(&mut *c).await? {
        return refuse(EnrollRefusal::NameTaken);
    }
    if !credentials::key_is_free(c, &enrollment.spki_sha256, Some(device.id)).await? {
        return refuse(EnrollRefusal::KeyTaken);
    }
    if DeviceState::from_column(&device.state) != DeviceState::Active {
        return refuse(EnrollRefusal::Suspended);
    }
    if !credentials::is_due(c, device.id).await? {
        return refuse(EnrollRefusal::TooOften);
    }
    Ok(Enrolled::Again(DeviceId(device.id)))
}

/// A token as operators see it. The secret is not in the database.
#[derive(Clone, Debug)]
pub struct TokenRow {
    pub id: String,
    pub fleet: FleetId,
    pub fleet_name: String,
    /// Of a token from before there were patterns of names: a regular expression.
    pub name_pattern: Option<String>,
    pub uses: i32,
    pub uses_max: i32,
    pub expires_at: OffsetDateTime,
    pub revoked_at: Option<OffsetDateTime>,
    pub created_by: String,
    pub created_at: OffsetDateTime,
}

/// A token to be recorded.
#[derive(Clone, Debug)]
pub struct NewToken {
    pub id: String,
    pub secret_sha256: [u8; 32],
    pub fleet: FleetId,
    /// `None`: any name.
    pub name_pattern: Option<NamePattern>,
    pub uses_max: i32,
    pub expires_at: OffsetDateTime,
    pub created_by: String,
}

/// Records a token; its id.
pub async fn create(log: &ChangeLog, new: NewToken, once: Option<Once>) -> Result<Made<String>, ChangeError> {
    log.write("enrollment_token_create", move |c| {
        let (new, once) = (new.clone(), once.clone());
        Box::pin(async move {
            if let Some(made) = idempotency::claim(c, once.as_ref(), &new.id).await? {
                return Ok(Made::Before(made));
            }
            if !fleets::exists(c, new.fleet.0).await? {
                return refuse(ChangeError::NotFound);
            }
            let glob = new.name_pattern.as_ref().map(NamePattern::as_str);
            let regular_expression = new.name_pattern.as_ref().map(NamePattern::regular_expression);
            sqlx::query!(
                "insert into enrollment_tokens
                   (id, secret_sha256, fleet_id, name_glob, name_pattern, uses_max, expires_at, created_by)
                 values ($1, $2, $3, $4, $5, $6, $7, $8)",
                new.id,
                &new.secret_sha256[..],
                new.fleet.0,
                glob,
                regular_expression,
                new.uses_max,
                new.expires_at,
                new.created_by
            )
            .execute(&mut *c)
            .await?;
            append(c, ChangeKind::EnrollmentToken, &new.id).await?;
            let detail = json!({ "id": new.id, "uses_max": new.uses_max, "by": new.created_by });
            changes::record(c, &token_event("enrollment_token.created", new.fleet.0, detail)).await?;
            Ok(Made::Now(new.id))
        })
    })
    .await
}

fn token_event(kind: &'static str, fleet: Uuid, detail: Value) -> NewEvent<'static> {
    NewEvent { kind, fleet: Some(fleet), device: None, cause: None, detail }
}

/// Which tokens, in the order of their ids.
#[derive(Clone, Debug, Default)]
pub struct TokenFilter {
    pub id: Option<String>,
    /// The fleets that the caller may see; `None`: all.
    pub scope: Option<Vec<FleetId>>,
    /// Those whose id comes after this one.
    pub after: Option<String>,
}

/// Tokens, at most `limit`.
pub async fn list(control: &ControlStore, filter: TokenFilter, limit: i64) -> Result<Vec<TokenRow>, StoreError> {
    control
        .read("enrollment_token_list", move |c| {
            let TokenFilter { id, scope, after } = filter.clone();
            let scope: Option<Vec<Uuid>> = scope.map(|fleets| fleets.iter().map(|fleet| fleet.0).collect());
            Box::pin(async move {
                let rows = sqlx::query!(
                    "select t.*, f.name as fleet_name from enrollment_tokens t join fleets f on f.id = t.fleet_id
                     where ($1::text is null or t.id = $1) and ($2::uuid[] is null or t.fleet_id = any($2))
                       and ($3::text is null or t.id > $3)
                     order by t.id limit $4",
                    id,
                    scope.as_deref(),
                    after,
                    limit
                )
                .fetch_all(c)
                .await?;
                let row = rows.into_iter().map(|row| TokenRow {
                    id: row.id,
                    fleet: FleetId(row.fleet_id),
                    fleet_name: row.fleet_name,
                    name_pattern: row.name_glob.or(row.name_pattern),
                    uses: row.uses,
                    uses_max: row.uses_max,
                    expires_at: row.expires_at,
                    revoked_at: row.revoked_at,
                    created_by: row.created_by,
                    created_at: row.created_at,
                });
                Ok(row.collect())
            })
        })
        .await
}

/// Revokes a token; a repetition succeeds. Devices that it enrolled stay.
pub async fn revoke(log: &ChangeLog, id: &str, by: &str) -> Result<(), ChangeError> {
    let (id, by) = (id.to_owned(), by.to_owned());
    log.write("enrollment_token_revoke", move |c| {
        let (id, by) = (id.clone(), by.clone());
        Box::pin(async move {
            let found = sqlx::query!("select fleet_id, revoked_at from enrollment_tokens where id = $1 for update", id);
            let Some(token) = found.fetch_optional(&mut *c).await? else { return refuse(ChangeError::NotFound) };
            if token.revoked_at.is_none() {
                sqlx::query!("update enrollment_tokens set revoked_at = clock_timestamp() where id = $1", id)
                    .execute(&mut *c)
                    .await?;
                append(c, ChangeKind::EnrollmentToken, &id).await?;
                let detail = json!({ "id": id, "by": by });
                changes::record(c, &token_event("enrollment_token.revoked", token.fleet_id, detail)).await?;
            }
            Ok(())
        })
    })
    .await
}
