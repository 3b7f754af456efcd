//! `POST /v1/readings`: decode, submit, answer after the commit.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::header::ACCEPT;
use axum::http::{HeaderValue, StatusCode};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::http::api::DeviceApi;
use crate::http::authn::WithCertAndToken;
use crate::http::error::ApiError;
use crate::http::guard::Patience;
use crate::http::{accept, body};
use crate::ingest::{Format, Sender};
use crate::wire::device::{ReadingsAnswer, Timestamp};
use crate::wire::problem::Slug;

const ACCEPTED: &str = "application/json, application/x-ndjson, application/senml+json, application/senml+cbor";

// The shapes of the body are for the description of the API only: ingest reads it.

/// One reading, or several.
#[derive(Deserialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "a shape for the description of the API")]
pub enum Readings {
    One(ReadingItem),
    Many(Vec<ReadingItem>),
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "a shape for the description of the API")]
pub struct ReadingItem {
    /// Without it: the time in a UUIDv7 `id`, else the time of receipt (then a retry may store it twice).
    ts: Option<Timestamp>,
    /// The device's own id of the reading. The same `id` and `ts` with other values is a conflict.
    id: Option<String>,
    /// Metric name to value.
    values: HashMap<String, MetricValue>,
}

#[derive(Deserialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "a shape for the description of the API")]
pub enum MetricValue {
    Number(f64),
    Bool(bool),
    Text(String),
}

pub async fn submit(
    State(api): State<Arc<DeviceApi>>,
    proof: WithCertAndToken,
    request: Request,
) -> Result<(StatusCode, Json<ReadingsAnswer>), ApiError> {
    let format = format(&request)?;
    let patience = request.extensions().get::<Patience>().copied();
    let Patience(patience) = patience.ok_or_else(|| ApiError::internal("readings were asked for outside the guard"))?;
    let body = body::read(request).await?;
    let device = &proof.caller().device;
    let batch = api.ingest.decode(format, &body, Sender { id: device.id, name: &device.name })?;
    drop(body);
    let answer = api.ingest.submit(batch, patience).await?;
    Ok((status(&answer), Json(answer)))
}

fn format(request: &Request) -> Result<Format, ApiError> {
    match accept::media_type(request.headers()).as_deref() {
        Some("application/json") => Ok(Format::Json),
        Some("application/x-ndjson") => Ok(Format::Ndjson),
        Some("application/senml+json") => Ok(Format::SenmlJson),
        Some("application/senml+cbor") => Ok(Format::SenmlCbor),
        _ => Err(ApiError::because(Slug::UnsupportedMediaType, format!("Send one of {ACCEPTED}."))
            .header(ACCEPT, HeaderValue::from_static(ACCEPTED))),
    }
}

/// 200: everything is durable, if that is nothing. 207: some of it. 422: none, and there was something.
fn status(answer: &ReadingsAnswer) -> StatusCode {
    match (answer.rejected_total, answer.stored.saturating_add(answer.duplicates)) {
        (0, _) => StatusCode::OK,
        (_, 0) => StatusCode::UNPROCESSABLE_ENTITY,
        _ => StatusCode::MULTI_STATUS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses() {
        let table = [
            ((0, 0, 0), 200),
            ((5, 0, 0), 200),
            ((0, 5, 0), 200),
            ((1, 0, 1), 207),
            ((0, 1, 1), 207),
            ((0, 0, 1), 422),
        ];
        for ((stored, duplicates, rejected_total), expected) in table {
            let answer = ReadingsAnswer { stored, duplicates, rejected_total, rejected: Vec::new(), durability: None };
            assert_eq!(status(&answer).as_u16(), expected, "{answer:?}");
        }
    }
}
