//! `/v1/devices`, `/v1/devices/{device}`, `…/suspend`, `…/resume`

use std::collections::HashMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue};
use serde::Deserialize;
use utoipa::IntoParams;
use uuid::Uuid;

use super::presence::presence_of;
use super::resolve;
use crate::domain::ids::DeviceId;
use crate::domain::presence;
use crate::http::api::AdminApi;
use crate::http::authn::Operator;
use crate::http::error::ApiError;
use crate::http::extract::{Check, OptionalJson, PathOf, Query};
use crate::http::page::Paging;
use crate::http::precondition::{IfMatch, etag};
use crate::http::reference::DeviceRef;
use crate::identity::DeviceState;
use crate::store::device_views::{self, DeviceFilter, DeviceView};
use crate::store::devices::{self, Switch};
use crate::store::readings;
use crate::wire::Page;
use crate::wire::admin::{Device, Reading, Reason};

const REASON_CHARS_MAX: usize = 256;
const NAME_CHARS_MAX: usize = 63;
const TAG_CHARS_MAX: usize = 64;

/// A resource with its `ETag`.
type Versioned<T> = ([(HeaderName, HeaderValue); 1], Json<T>);

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct DevicesQuery {
    /// The fleet's name.
    fleet: Option<String>,
    /// `never_seen`, `online`, `suspect` or `offline`.
    #[param(value_type = Option<String>)]
    presence: Option<presence::State>,
    /// How the name begins.
    #[param(max_length = 63)]
    name_prefix: Option<String>,
    /// One of the device's tags.
    tag: Option<String>,
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    cursor: Option<String>,
}

pub async fn list(
    State(api): State<Arc<AdminApi>>,
    operator: Operator,
    Query(asked): Query<DevicesQuery>,
) -> Result<Json<Page<Device>>, ApiError> {
    Check::new()
        .at_most(asked.name_prefix.as_deref(), NAME_CHARS_MAX, "?name_prefix")
        .at_most(asked.tag.as_deref(), TAG_CHARS_MAX, "?tag")
        .done()?;
    let filters = (&asked.fleet, asked.presence, &asked.name_prefix, &asked.tag);
    let paging = Paging::<Uuid>::new("/v1/devices", &filters, asked.limit, asked.cursor.as_deref())?;
    let fleet = match &asked.fleet {
        Some(name) => Some(resolve::fleet_named(&api, &operator, name).await?),
        None => None,
    };
    let filter = DeviceFilter {
        scope: operator.scope_ids(),
        fleet,
        name_prefix: asked.name_prefix,
        tag: asked.tag,
        presence: asked.presence,
        after: paging.after,
        ..DeviceFilter::default()
    };
    let rows = device_views::list(&api.store, filter, paging.fetch()).await?;
    let Page { items, next } = paging.page(rows, |row| row.id.0);
    let ids: Vec<DeviceId> = items.iter().map(|row| row.id).collect();
    let mut latest = if ids.is_empty() { HashMap::new() } else { readings::latest_of(&api.fleet, &ids).await? };
    let with_state = |row: DeviceView| Device {
        presence: row.presence.as_ref().map(presence_of),
        latest: latest.remove(&row.id).map(Reading::from),
        ..Device::from(row)
    };
    Ok(Json(Page { items: items.into_iter().map(with_state).collect(), next }))
}

pub async fn get(
    State(api): State<Arc<AdminApi>>,
    operator: Operator,
    PathOf(device): PathOf<DeviceRef>,
) -> Result<Versioned<Device>, ApiError> {
    Ok(versioned(resolve::device(&api, &operator, device).await?))
}

pub async fn suspend(
    State(api): State<Arc<AdminApi>>,
    operator: Operator,
    PathOf(device): PathOf<DeviceRef>,
    if_match: IfMatch,
    OptionalJson(reason): OptionalJson<Reason>,
) -> Result<Versioned<Device>, ApiError> {
    switch(&api, &operator, (device, DeviceState::Suspended), &if_match, reason).await
}

pub async fn resume(
    State(api): State<Arc<AdminApi>>,
    operator: Operator,
    PathOf(device): PathOf<DeviceRef>,
    if_match: IfMatch,
    OptionalJson(reason): OptionalJson<Reason>,
) -> Result<Versioned<Device>, ApiError> {
    switch(&api, &operator, (device, DeviceState::Active), &if_match, reason).await
}

/// A repetition succeeds, unless its `If-Match` is of before the first time.
async fn switch(
    api: &AdminApi,
    operator: &Operator,
    (device, to): (DeviceRef, DeviceState),
    if_match: &IfMatch,
    reason: Reason,
) -> Result<Versioned<Device>, ApiError> {
    let device = resolve::device(api, operator, device).await?;
    let reason = checked(reason)?;
    let expected = if_match.expected(device.row_version)?;
    let by = operator.caller().subject.clone();
    devices::switch(api.identity.log(), Switch { device: device.id, to, expected, reason, by }).await?;
    Ok(versioned(resolve::device(api, operator, DeviceRef::Id(device.id)).await?))
}

/// The reason, within the schema's bounds.
pub(super) fn checked(reason: Reason) -> Result<Option<String>, ApiError> {
    let fits = reason.reason.as_deref().is_none_or(|text| text.chars().count() <= REASON_CHARS_MAX);
    Check::new().that(fits, "/reason", "at most 256 characters").done()?;
    Ok(reason.reason)
}

fn versioned(view: DeviceView) -> Versioned<Device> {
    (etag(view.row_version), Json(view.into()))
}

impl From<DeviceView> for Device {
    /// Without what is volatile: an `ETag` is of the rest.
    fn from(view: DeviceView) -> Self {
        Self {
            id: view.id.0,
            name: view.name,
            fleet: view.fleet_name,
            state: view.state,
            tags: view.tags,
            attributes: view.attributes,
            created_at: view.created_at,
            presence: None,
            latest: None,
        }
    }
}
