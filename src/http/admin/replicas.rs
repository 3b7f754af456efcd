//! `/v1/replicas`

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;
use uuid::Uuid;

use crate::http::api::AdminApi;
use crate::http::authn::Operator;
use crate::http::error::ApiError;
use crate::http::extract::Query;
use crate::http::page::Paging;
use crate::store::replica_views::{self, ReplicaView};
use crate::wire::Page;
use crate::wire::admin::Replica;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct ReplicasQuery {
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    cursor: Option<String>,
}

pub async fn list(
    State(api): State<AdminApi>,
    operator: Operator,
    Query(asked): Query<ReplicasQuery>,
) -> Result<Json<Page<Replica>>, ApiError> {
    operator.allow_anywhere()?;
    let paging = Paging::<Uuid>::new("/v1/replicas", &(), asked.limit, asked.cursor.as_deref())?;
    let rows = replica_views::replicas(&api.store, paging.after, paging.fetch()).await?;
    Ok(Json(paging.page(rows.into_iter().map(Replica::from).collect(), |replica| replica.id)))
}

impl From<ReplicaView> for Replica {
    fn from(view: ReplicaView) -> Self {
        Self {
            id: view.id,
            addr: view.addr,
            version: view.version,
            started_at: view.started_at,
            seen_at: view.seen_at,
            flushed_through: view.flushed_through,
        }
    }
}
