//! Fleets and their policies: for identity, and for operators.

use time::OffsetDateTime;
use uuid::Uuid;

use super::control::{Abort, ControlStore};
use super::error::StoreError;
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

/// Fleets by name, those after `after`. `scope`: the ids that may be shown; `None`: all.
pub async fn list(
    store: &ControlStore,
    scope: Option<Vec<Uuid>>,
    after: Option<String>,
    rows_max: i64,
) -> Result<Vec<FleetRow>, StoreError> {
    store
        .read("fleets_list", move |c| {
            let (scope, after) = (scope.clone(), after.clone());
            Box::pin(async move {
                let rows = sqlx::query_as!(
                    FleetRow,
                    r#"-- fleets_list: a page of the fleets that an operator sees
                    select id, name, heartbeat_interval_ms, heartbeat_interval_max_ms, certificate_ttl_s,
                           renew_expired_within_s, row_version, created_at
                    from fleets
                    where ($1::uuid[] is null or id = any($1)) and ($2::text is null or name > $2)
                    order by name limit $3"#,
                    scope.as_deref(),
                    after,
                    rows_max
                )
                .fetch_all(c)
                .await?;
                Ok::<_, Abort<StoreError>>(rows)
            })
        })
        .await
}
