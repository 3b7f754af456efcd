//! Fleets and their policies: for identity, and for operators.

use serde_json::json;
use time::OffsetDateTime;
use uuid::Uuid;

use super::changes::{self, ChangeError, ChangeKind, ChangeLog, NewEvent, append, refuse};
use super::control::{Abort, ControlStore};
use super::error::StoreError;
use super::idempotency::{self, Made, Once};
use crate::domain::ids::FleetId;

/// A fleet and what identity needs of its policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetPolicy {
    pub id: FleetId,
    pub name: String,
    pub heartbeat_interval_ms: i64,
    pub certificate_ttl_s: i64,
    pub renew_expired_within_s: i64,
}

/// The fleet of this name.
pub async fn by_name(control: &ControlStore, name: &str) -> Result<Option<FleetPolicy>, StoreError> {
    let name = name.to_owned();
    control
        .read("fleet_by_name", move |c| {
            let name = name.clone();
            Box::pin(async move {
                let row = sqlx::query!(
                    "select id, name, heartbeat_interval_ms, certificate_ttl_s, renew_expired_within_s
                     from fleets where name = $1",
                    name
                )
                .fetch_optional(c)
                .await?;
                Ok(row.map(|row| FleetPolicy {
                    id: FleetId(row.id),
                    name: row.name,
                    heartbeat_interval_ms: row.heartbeat_interval_ms,
                    certificate_ttl_s: row.certificate_ttl_s,
                    renew_expired_within_s: row.renew_expired_within_s,
                }))
            })
        })
        .await
}

/// Is there a fleet with this id?
pub(super) async fn exists(c: &mut sqlx::PgConnection, fleet: Uuid) -> Result<bool, sqlx::Error> {
    let found = sqlx::query_scalar!(r#"select exists (select from fleets where id = $1) as "found!""#, fleet);
    found.fetch_one(c).await
}

/// One row of `fleets`.
#[derive(Clone, Debug)]
pub struct FleetRow {
    pub id: Uuid,
    pub name: String,
    pub heartbeat_interval_ms: i64,
    pub heartbeat_interval_max_ms: i64,
    pub certificate_ttl_s: i64,
    pub renew_expired_within_s: i64,
    pub row_version: i64,
    pub created_at: OffsetDateTime,
}

/// Which fleets, by name.
#[derive(Clone, Debug, Default)]
pub struct FleetFilter {
    pub id: Option<FleetId>,
    pub name: Option<String>,
    /// The ids that may be shown; `None`: all.
    pub scope: Option<Vec<Uuid>>,
    /// Those whose name comes after this one.
    pub after: Option<String>,
}

/// Fleets, at most `rows_max`.
pub async fn list(store: &ControlStore, filter: FleetFilter, rows_max: i64) -> Result<Vec<FleetRow>, StoreError> {
    store
        .read("fleets_list", move |c| {
            let filter = filter.clone();
            Box::pin(async move {
                let rows = sqlx::query_as!(
                    FleetRow,
                    r#"-- fleets_list: a page of fleets by name
                    select id, name, heartbeat_interval_ms, heartbeat_interval_max_ms, certificate_ttl_s,
                           renew_expired_within_s, row_version, created_at
                    from fleets
                    where ($1::uuid[] is null or id = any($1)) and ($2::text is null or name > $2)
                      and ($3::uuid is null or id = $3) and ($4::text is null or name = $4)
                    order by name limit $5"#,
                    filter.scope.as_deref(),
                    filter.after,
                    filter.id.map(|id| id.0),
                    filter.name,
                    rows_max
                )
                .fetch_all(c)
                .await?;
                Ok::<_, Abort<StoreError>>(rows)
            })
        })
        .await
}

/// One fleet.
pub async fn one(store: &ControlStore, filter: FleetFilter) -> Result<Option<FleetRow>, StoreError> {
    Ok(list(store, filter, 1).await?.pop())
}

/// A fleet to be made. What is `None` is the column's default.
#[derive(Clone, Debug)]
pub struct NewFleet {
    pub id: FleetId,
    pub name: String,
    pub heartbeat_interval_ms: Option<i64>,
    pub certificate_ttl_s: Option<i64>,
    pub renew_expired_within_s: Option<i64>,
    /// Who asks, for the event.
    pub by: String,
}

/// Makes a fleet.
pub async fn create(log: &ChangeLog, new: NewFleet, once: Option<Once>) -> Result<Made<FleetId>, ChangeError> {
    log.write("fleet_create", move |c| {
        let (new, once) = (new.clone(), once.clone());
        Box::pin(async move {
            if let Some(made) = idempotency::claim(c, once.as_ref(), &new.id.to_string()).await? {
                return made.parse().map(Made::Before).or_else(|_| refuse(ChangeError::NotFound));
            }
            let inserted = sqlx::query!(
                "insert into fleets (id, name, heartbeat_interval_ms, certificate_ttl_s, renew_expired_within_s)
                 values ($1, $2, coalesce($3::bigint, 30000), coalesce($4::bigint, 7776000),
                         coalesce($5::bigint, 2592000)) on conflict (name) do nothing",
                new.id.0,
                new.name,
                new.heartbeat_interval_ms,
                new.certificate_ttl_s,
                new.renew_expired_within_s
            );
            if inserted.execute(&mut *c).await?.rows_affected() == 0 {
                return refuse(ChangeError::Conflict("a fleet of this name exists"));
            }
            append(c, ChangeKind::Fleet, &new.id.to_string()).await?;
            let event = NewEvent {
                kind: "fleet.created",
                fleet: Some(new.id.0),
                device: None,
                cause: None,
                detail: json!({ "name": new.name, "by": new.by }),
            };
            changes::record(c, &event).await?;
            Ok(Made::Now(new.id))
        })
    })
    .await
}
