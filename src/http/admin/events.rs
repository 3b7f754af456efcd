//! `/v1/events`

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;

use super::readings::Order;
use super::resolve;
use crate::http::api::AdminApi;
use crate::http::authn::Operator;
use crate::http::error::ApiError;
use crate::http::extract::{Check, Query};
use crate::http::page::Paging;
use crate::http::reference::DeviceRef;
use crate::store::event_views::{self, EventFilter, EventView, EventsRefusal, Position};
use crate::wire::Page;
use crate::wire::admin::{Event, EventPage};
use crate::wire::problem::Slug;

const KIND_CHARS_MAX: usize = 64;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct EventsQuery {
    /// The fleet's name.
    fleet: Option<String>,
    /// The device: its id, or `name:<fleet>:<name>`.
    device: Option<String>,
    /// How the kind begins: `device.`, `certificate.revoked`.
    #[param(max_length = 64)]
    kind: Option<String>,
    /// `asc` (default): in the order to follow. `desc`: newest first.
    #[param(value_type = Option<String>)]
    order: Option<Order>,
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    cursor: Option<String>,
}

pub async fn list(
    State(api): State<Arc<AdminApi>>,
    operator: Operator,
    Query(asked): Query<EventsQuery>,
) -> Result<Json<EventPage>, ApiError> {
    Check::new().at_most(asked.kind.as_deref(), KIND_CHARS_MAX, "?kind").done()?;
    let order = asked.order.unwrap_or(Order::Asc);
    // The scope is not sealed: a change of roles changes what is seen from then on, as everywhere.
    let paging = |order, limit, cursor| {
        let filters = (&asked.fleet, &asked.device, &asked.kind, order);
        Paging::<Position>::new("/v1/events", &filters, limit, cursor)
    };
    let upwards = paging(Order::Asc, None, None)?;
    let paging = paging(order, asked.limit, asked.cursor.as_deref())?;
    let filter = EventFilter {
        scope: match &asked.fleet {
            Some(name) => Some(vec![resolve::fleet_named(&api, &operator, name).await?.0]),
            None => operator.scope_ids(),
        },
        device: match &asked.device {
            Some(text) => Some(resolve::device(&api, &operator, device_ref(text)?).await?.id),
            None => None,
        },
        kind_prefix: asked.kind,
        newest_first: order == Order::Desc,
        after: paging.after,
    };
    let found = event_views::page(&api.store, filter, paging.fetch()).await?;
    let Page { items, next } = paging.page(found.rows, EventView::position);
    // On the last page all was seen up to the end, whatever the filter let through. The first page of the newest ends
    // there as well: who has seen it goes on upwards from it.
    let resume = match (order, paging.after) {
        (Order::Asc, _) => next.clone().or_else(|| paging.cursor(&found.end)),
        (Order::Desc, None) => upwards.cursor(&found.end),
        (Order::Desc, Some(_)) => None,
    };
    Ok(Json(EventPage { items: items.into_iter().map(Event::from).collect(), next, resume }))
}

fn device_ref(text: &str) -> Result<DeviceRef, ApiError> {
    text.parse().map_err(|_| ApiError::field("?device", "an id, or name:<fleet>:<name>"))
}

impl From<EventsRefusal> for ApiError {
    fn from(refusal: EventsRefusal) -> Self {
        match refusal {
            EventsRefusal::Stale => Self::because(
                Slug::BadCursor,
                "Events after this cursor are not kept any more. Read the present state, and start anew without a cursor.",
            ),
            EventsRefusal::Store(error) => error.into(),
        }
    }
}

impl From<EventView> for Event {
    fn from(view: EventView) -> Self {
        Self {
            id: view.id,
            at: view.at,
            kind: view.kind,
            fleet_id: view.fleet_id,
            device_id: view.device_id,
            status_seq: view.status_seq,
            cause: view.cause,
            detail: view.detail,
        }
    }
}
