//! `/v1/fleets`

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::IntoResponse;

use super::{creation, resolve};
use crate::domain::ids::FleetId;
use crate::domain::name::{Name, NotAName};
use crate::http::api::AdminApi;
use crate::http::authn::Operator;
use crate::http::error::ApiError;
use crate::http::extract::{Check, Creation, PathOf, Query};
use crate::http::page::{PageQuery, Paging};
use crate::http::precondition::etag;
use crate::http::reference::FleetRef;
use crate::identity::new_id;
use crate::store::fleets::{self, FleetFilter};
use crate::store::idempotency::Made;
use crate::wire::Page;
use crate::wire::admin::{Fleet, NewFleet};

pub async fn list(
    State(api): State<Arc<AdminApi>>,
    operator: Operator,
    Query(asked): Query<PageQuery>,
) -> Result<Json<Page<Fleet>>, ApiError> {
    let paging = Paging::<String>::asked("/v1/fleets", &(), &asked)?;
    let filter = FleetFilter { scope: operator.scope_ids(), after: paging.after.clone(), ..FleetFilter::default() };
    let fleets = fleets::list(&api.store, filter, paging.fetch()).await?;
    let fleets = fleets.into_iter().map(Fleet::from).collect();
    Ok(Json(paging.page(fleets, |fleet| fleet.name.clone())))
}

pub async fn get(
    State(api): State<Arc<AdminApi>>,
    operator: Operator,
    PathOf(fleet): PathOf<FleetRef>,
) -> Result<impl IntoResponse, ApiError> {
    let row = resolve::fleet(&api, &operator, fleet).await?;
    Ok((etag(row.row_version), Json(Fleet::from(row))))
}

pub async fn create(
    State(api): State<Arc<AdminApi>>,
    operator: Operator,
    asked: Creation<NewFleet>,
) -> Result<impl IntoResponse, ApiError> {
    operator.allow_anywhere()?;
    let once = creation::once(&operator, "POST /v1/fleets", &asked);
    let new = new_fleet(asked.value, &api, &operator)?;
    let (id, replayed) = match fleets::create(api.identity.log(), new, once).await? {
        Made::Now(id) => (id, false),
        Made::Before(id) => (id, true),
    };
    let row = resolve::fleet(&api, &operator, FleetRef::Id(id)).await?;
    let headers = (creation::replayed(replayed), [(LOCATION, format!("/v1/fleets/{id}"))], etag(row.row_version));
    Ok((StatusCode::CREATED, headers.0, headers.1, headers.2, Json(Fleet::from(row))))
}

fn new_fleet(asked: NewFleet, api: &AdminApi, operator: &Operator) -> Result<fleets::NewFleet, ApiError> {
    let fits = |value: Option<i64>, low, high| value.is_none_or(|value| (low..=high).contains(&value));
    let interval_s = asked.heartbeat_interval_s.map(|seconds| i64::try_from(seconds).unwrap_or(i64::MAX));
    Check::new()
        .that(asked.name.parse::<Name>().is_ok(), "/name", &NotAName.to_string())
        .that(fits(interval_s, 1, 86_400), "/heartbeat_interval_s", "1 to 86400 seconds")
        .that(fits(asked.certificate_ttl_s, 60, 315_360_000), "/certificate_ttl_s", "60 to 315360000 seconds")
        .that(fits(asked.renew_expired_within_s, 0, 315_360_000), "/renew_expired_within_s", "0 to 315360000 seconds")
        .done()?;
    Ok(fleets::NewFleet {
        id: FleetId(new_id(&api.clock)),
        name: asked.name,
        heartbeat_interval_ms: interval_s.map(|seconds| seconds.saturating_mul(1_000)),
        certificate_ttl_s: asked.certificate_ttl_s,
        renew_expired_within_s: asked.renew_expired_within_s,
        by: operator.caller().subject.clone(),
    })
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

pub(super) fn seconds(millis: i64) -> f64 {
    std::time::Duration::from_millis(millis.unsigned_abs()).as_secs_f64()
}
