//! `/v1/replicas`

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use uuid::Uuid;

use crate::http::api::AdminApi;
use crate::http::authn::Operator;
use crate::http::error::ApiError;
use crate::http::extract::Query;
use crate::http::page::{PageQuery, Paging};
use crate::store::replica_views::{self, ReplicaView};
use crate::wire::Page;
use crate::wire::admin::Replica;

pub async fn list(
    State(api): State<Arc<AdminApi>>,
    operator: Operator,
    Query(asked): Query<PageQuery>,
) -> Result<Json<Page<Replica>>, ApiError> {
    operator.allow_anywhere()?;
    let paging = Paging::<Uuid>::asked("/v1/replicas", &(), &asked)?;
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
