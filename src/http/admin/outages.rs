//! `/v1/outages`

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;

use crate::http::api::AdminApi;
use crate::http::authn::Operator;
use crate::http::error::ApiError;
use crate::http::extract::Query;
use crate::http::page::Paging;
use crate::store::replica_views::{self, OutageView};
use crate::wire::Page;
use crate::wire::admin::Outage;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct OutagesQuery {
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    cursor: Option<String>,
}

pub async fn list(
    State(api): State<AdminApi>,
    operator: Operator,
    Query(asked): Query<OutagesQuery>,
) -> Result<Json<Page<Outage>>, ApiError> {
    operator.allow_anywhere()?;
    let paging = Paging::<i64>::new("/v1/outages", &(), asked.limit, asked.cursor.as_deref())?;
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
