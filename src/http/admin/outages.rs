//! `/v1/outages`

use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use crate::http::api::AdminApi;
use crate::http::authn::Operator;
use crate::http::error::ApiError;
use crate::http::extract::Query;
use crate::http::page::{PageQuery, Paging};
use crate::store::replica_views::{self, OutageView};
use crate::wire::Page;
use crate::wire::admin::Outage;

pub async fn list(
    State(api): State<Arc<AdminApi>>,
    operator: Operator,
    Query(asked): Query<PageQuery>,
) -> Result<Json<Page<Outage>>, ApiError> {
    operator.allow_anywhere()?;
    let paging = Paging::<i64>::asked("/v1/outages", &(), &asked)?;
    let rows = replica_views::outages(&api.store, paging.after, paging.fetch()).await?;
    Ok(Json(paging.page(rows.into_iter().map(Outage::from).collect(), |outage| outage.id)))
}

impl From<OutageView> for Outage {
    fn from(view: OutageView) -> Self {
        Self {
            id: view.id,
            started_at: view.started_at,
            ended_at: view.ended_at,
            cause: view.cause,
            replica: view.replica,
        }
    }
}
