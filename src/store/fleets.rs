//! Fleets, as far as identity asks: which one has this name, and what its policy says of certificates.

use uuid::Uuid;

use super::control::ControlStore;
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
