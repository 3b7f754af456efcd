//! Fleets and their policies.

use time::OffsetDateTime;
use uuid::Uuid;

use super::{Abort, ControlStore, StoreError};

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
