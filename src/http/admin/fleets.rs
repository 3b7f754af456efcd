//! `/v1/fleets`

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;

use crate::http::api::AdminApi;
use crate::http::authn::Operator;
use crate::http::error::ApiError;
use crate::http::extract::Query;
use crate::http::page::Paging;
use crate::store::fleets;
use crate::wire::Page;
use crate::wire::admin::Fleet;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct FleetsQuery {
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    cursor: Option<String>,
}

pub async fn list(
    State(api): State<AdminApi>,
    operator: Operator,
    Query(asked): Query<FleetsQuery>,
) -> Result<Json<Page<Fleet>>, ApiError> {
    let paging = Paging::<String>::new("/v1/fleets", &(), asked.limit, asked.cursor.as_deref())?;
    let fleets = fleets::list(&api.store, operator.scope_ids(), paging.after.clone(), paging.fetch()).await?;
    let fleets = fleets.into_iter().map(Fleet::from).collect();
    Ok(Json(paging.page(fleets, |fleet| fleet.name.clone())))
}

impl From<fleets::FleetRow> for Fleet {
    fn from(row: fleets::FleetRow) -> Self {
        Self {
            id: row.id,
            name: row.name,
            heartbeat_interval_s: seconds(row.heartbeat_interval_ms),
            heartbeat_interval_max_s: seconds(row.heartbeat_interval_max_ms),
            certificate_ttl_s: row.certificate_ttl_s,
            renew_expired_within_s: row.renew_expired_within_s,
            created_at: row.created_at,
        }
    }
}

fn seconds(millis: i64) -> f64 {
    std::time::Duration::from_millis(millis.unsigned_abs()).as_secs_f64()
}
