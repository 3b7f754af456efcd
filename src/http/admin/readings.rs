//! `/v1/devices/{device}/readings`, `…/readings/latest`

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::IntoParams;

use super::resolve;
use crate::domain::time::{from_unix_us, parse_rfc3339, unix_us};
use crate::http::api::AdminApi;
use crate::http::authn::Operator;
use crate::http::error::ApiError;
use crate::http::extract::{Check, PathOf, Query};
use crate::http::page::Paging;
use crate::http::reference::DeviceRef;
use crate::store::readings::{self, Cursor, PageQuery, StoredReading};
use crate::wire::Page;
use crate::wire::admin::Reading;
use crate::wire::problem::Slug;

/// The last moment that RFC 3339 can write: 9999-12-31T23:59:59.999999Z.
const END_OF_TIME_US: i64 = 253_402_300_799_999_999;
const METRIC_CHARS_MAX: usize = 64;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    Asc,
    #[default]
    Desc,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct ReadingsQuery {
    /// The first time of the range: RFC 3339, or Unix milliseconds.
    from: Option<String>,
    /// The first time after the range.
    to: Option<String>,
    /// `asc`: oldest first. `desc` (default): newest first.
    #[param(value_type = Option<String>)]
    order: Option<Order>,
    /// Only readings that have this metric.
    metric: Option<String>,
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    cursor: Option<String>,
}

pub async fn list(
    State(api): State<Arc<AdminApi>>,
    operator: Operator,
    PathOf(device): PathOf<DeviceRef>,
    Query(asked): Query<ReadingsQuery>,
) -> Result<Json<Page<Reading>>, ApiError> {
    Check::new().at_most(asked.metric.as_deref(), METRIC_CHARS_MAX, "?metric").done()?;
    let device = resolve::device(&api, &operator, device).await?.id;
    let (from, to) = (moment("?from", asked.from.as_deref(), 0)?, moment("?to", asked.to.as_deref(), END_OF_TIME_US)?);
    let order = asked.order.unwrap_or_default();
    let filters = (device, unix_us(from), unix_us(to), order, &asked.metric);
    let paging =
        Paging::<(i64, i64)>::new("/v1/devices/{device}/readings", &filters, asked.limit, asked.cursor.as_deref())?;
    let query = PageQuery {
        device,
        from,
        to,
        order: if order == Order::Asc { readings::Order::OldestFirst } else { readings::Order::NewestFirst },
        metric: asked.metric,
        after: paging.after_as(|(ts, digest)| Some(Cursor { ts: from_unix_us(*ts)?, digest: *digest }))?,
        limit: paging.limit(),
    };
    let (items, next) = readings::page(&api.fleet, query).await?;
    let next = next.and_then(|cursor| paging.cursor(&(unix_us(cursor.ts), cursor.digest)));
    Ok(Json(Page { items: items.into_iter().map(Reading::from).collect(), next }))
}

pub async fn latest(
    State(api): State<Arc<AdminApi>>,
    operator: Operator,
    PathOf(device): PathOf<DeviceRef>,
) -> Result<Json<Reading>, ApiError> {
    let device = resolve::device(&api, &operator, device).await?.id;
    let latest = readings::latest(&api.fleet, device).await?;
    let none = || ApiError::because(Slug::NotFound, "The device has sent no readings that are still kept.");
    Ok(Json(latest.ok_or_else(none)?.into()))
}

pub(super) fn moment(pointer: &str, text: Option<&str>, default_us: i64) -> Result<OffsetDateTime, ApiError> {
    let at = match text.map(|text| (text, text.parse::<i64>())) {
        None => from_unix_us(default_us),
        Some((_, Ok(ms))) => ms.checked_mul(1_000).and_then(from_unix_us),
        Some((text, Err(_))) => parse_rfc3339(text),
    };
    at.ok_or_else(|| ApiError::field(pointer, "an RFC 3339 time, or Unix milliseconds"))
}

impl From<StoredReading> for Reading {
    fn from(reading: StoredReading) -> Self {
        Self { ts: reading.ts, values: reading.values, received_at: reading.received_at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments() {
        let us = |text: &str| moment("?from", Some(text), 0).map(unix_us).map_err(|error| error.slug());
        assert_eq!(us("1500"), Ok(1_500_000));
        assert_eq!(us("1970-01-01T00:00:01Z"), Ok(1_000_000));
        assert_eq!(us("1970-01-01T01:00:01+01:00"), Ok(1_000_000));
        for bad in ["", "yesterday", "-300000000000000", "9223372036854775807", "9223372036854775808"] {
            assert_eq!(us(bad), Err(Slug::Invalid), "{bad}");
        }
        assert_eq!(moment("?to", None, END_OF_TIME_US).map(unix_us).ok(), Some(END_OF_TIME_US));
    }
}
