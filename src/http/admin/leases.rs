//! `/v1/leases`

use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use crate::http::api::AdminApi;
use crate::http::authn::Operator;
use crate::http::error::ApiError;
use crate::http::extract::Query;
use crate::http::page::{PageQuery, Paging};
use crate::store::leases;
use crate::wire::Page;
use crate::wire::admin::Lease;

pub async fn list(
    State(api): State<Arc<AdminApi>>,
    operator: Operator,
    Query(asked): Query<PageQuery>,
) -> Result<Json<Page<Lease>>, ApiError> {
    operator.allow_anywhere()?;
    let paging = Paging::<String>::asked("/v1/leases", &(), &asked)?;
    // One for each duty: few, and read whole.
    let leases = leases::list(&api.store).await?.into_iter().map(Lease::from);
    let leases = leases.filter(|lease| paging.after.as_ref().is_none_or(|after| lease.role > *after)).collect();
    Ok(Json(paging.page(leases, |lease| lease.role.clone())))
}

impl From<leases::LeaseView> for Lease {
    fn from(row: leases::LeaseView) -> Self {
        Self {
            role: row.role,
            holder: row.holder,
            addr: row.addr,
            epoch: row.epoch,
            timeline: row.timeline,
            acquired_at: row.acquired_at,
            renewed_at: row.renewed_at,
            expires_at: row.expires_at,
            expired: row.expired,
        }
    }
}
