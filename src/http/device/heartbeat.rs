//! `POST /v1/heartbeat` and `POST /v1/goodbye`

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};

use crate::domain::presence::Said;
use crate::http::api::DeviceApi;
use crate::http::authn::WithCertAndToken;
use crate::http::error::ApiError;
use crate::http::extract::{Check, OptionalJson};
use crate::http::guard::contact;
use crate::net::ConnInfo;
use crate::presence::Contact;
use crate::wire::device::{GoodbyeRequest, HeartbeatAnswer, HeartbeatRequest};

/// Those of the schema.
const INTERVAL_MAX_S: u64 = 2_592_000;
const TEXT_MAX: usize = 256;

pub async fn beat(
    State(api): State<Arc<DeviceApi>>,
    Extension(connection): Extension<Arc<ConnInfo>>,
    proof: WithCertAndToken,
    OptionalJson(asked): OptionalJson<HeartbeatRequest>,
) -> Result<Json<HeartbeatAnswer>, ApiError> {
    let interval_fits = asked.interval_s.is_none_or(|seconds| (1..=INTERVAL_MAX_S).contains(&seconds));
    let seq = asked.seq.map(i64::try_from).transpose();
    Check::new()
        .that(seq.is_ok(), "/seq", "0 to 9223372036854775807")
        .that(interval_fits, "/interval_s", "1 to 2592000 seconds")
        .that(asked.status.as_deref().is_none_or(fits), "/status", "at most 256 characters")
        .done()?;
    let requested_ms = asked.interval_s.and_then(|seconds| i64::try_from(seconds.saturating_mul(1_000)).ok());
    let contact = Contact { requested_ms, heartbeat: true, ..contact(proof.caller()) };
    let said = Said { seq: seq.ok().flatten(), status: asked.status.map(Arc::from) };
    let reply = api.presence.heartbeat(contact, said).await?;
    connection.pace.keep(i64::try_from(reply.next_in.as_millis()).unwrap_or(i64::MAX));
    Ok(Json(HeartbeatAnswer {
        next_in_s: (reply.next_in.as_secs_f64() * 1_000.0).round() / 1_000.0,
        server_time: reply.at,
        messages: 0,
    }))
}

pub async fn goodbye(
    State(api): State<Arc<DeviceApi>>,
    proof: WithCertAndToken,
    OptionalJson(asked): OptionalJson<GoodbyeRequest>,
) -> Result<StatusCode, ApiError> {
    let back_at = asked.back_at.as_ref().map(crate::wire::device::Timestamp::resolve);
    Check::new()
        .that(asked.reason.as_deref().is_none_or(fits), "/reason", "at most 256 characters")
        .that(back_at != Some(None), "/back_at", "an RFC 3339 time, or Unix milliseconds")
        .done()?;
    api.presence.goodbye(contact(proof.caller()), asked.reason, back_at.flatten()).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn fits(text: &str) -> bool {
    text.chars().count() <= TEXT_MAX
}
