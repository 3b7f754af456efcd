//! Around every request, answered or not: its id, its span, its measurement, and the last word on its answer.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, CONNECTION};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use tracing::Instrument;
use uuid::{NoContext, Timestamp, Uuid};

use super::api::Shared;
use super::drill::Origin;
use super::error::{self, ApiError, Rendering};
use super::route::RouteInfo;
use super::unread::Unread;
use crate::domain::time::Clock;
use crate::observe::http::{Series, UNMATCHED};
use crate::observe::net::Port;
use crate::observe::{self};
use crate::wire::problem::Slug;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const REQUEST_ID_MAX: usize = 64;

/// One route and what its listener shares.
#[derive(Clone)]
pub struct Row {
    pub info: Arc<RouteInfo>,
    pub shared: Shared,
}

/// Requests that no row takes: an unknown path, or a known one with another method.
#[derive(Clone)]
pub struct Unmatched {
    pub port: Port,
    pub shared: Shared,
}

/// The id of a request: in its log lines, in its answer, and in the problem if there is one.
#[derive(Clone, Debug)]
pub struct RequestId(pub Arc<str>);

/// The outermost layer of a route.
pub async fn frame(State(row): State<Row>, request: Request, next: Next) -> Response {
    let series = Series { port: row.info.port, route: row.info.path, method: row.info.method.as_str() };
    let mut response = framed(&row.shared, series, row.info.speaks_oauth, request, next).await;
    if row.info.has_secrets {
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    response
}

/// The same for requests that no route takes.
pub async fn frame_unmatched(State(unmatched): State<Unmatched>, request: Request, next: Next) -> Response {
    // A method is text of the caller's: the label has it only if HTTP has it.
    let series = Series { port: unmatched.port, route: UNMATCHED, method: "other" };
    framed(&unmatched.shared, series, false, request, next).await
}

async fn framed(shared: &Shared, series: Series, oauth: bool, mut request: Request, next: Next) -> Response {
    let RequestId(id) = request_id(request.headers(), &shared.clock);
    let origin = Origin::of(shared);
    request.extensions_mut().insert(RequestId(id.clone()));
    let (request, unread) = Unread::of(request);
    let span = tracing::info_span!("request", request_id = %id, listener = series.port.as_str(), method = series.method, route = series.route);
    async move {
        let in_flight = observe::http::begin(series);
        let caught = AssertUnwindSafe(next.run(request)).catch_unwind().await;
        let response = caught.unwrap_or_else(|panic| panicked(series.port, panic.as_ref()));
        let refused = response.status().is_client_error() || response.status().is_server_error();
        let closes = refused && !unread.take_in().await;
        let with = Rendering { request_id: &id, random: &shared.random, oauth };
        let mut response = error::render(response, &with);
        if closes {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if let Ok(value) = HeaderValue::from_str(&id) {
            response.headers_mut().insert(X_REQUEST_ID, value);
        }
        if let Some(origin) = origin {
            origin.mark(&mut response);
        }
        let status = response.status().as_u16();
        let ms = in_flight.answered(status).as_secs_f64() * 1_000.0;
        // Devices are many and mostly well: their successes are metrics, and lines only for those who look closer.
        match (status, series.port) {
            (500.., _) => tracing::warn!(status, ms, "answered"),
            (400.., Port::Device) | (_, Port::Admin) => tracing::info!(status, ms, "answered"),
            _ => tracing::debug!(status, ms, "answered"),
        }
        response
    }
    .instrument(span)
    .await
}

fn panicked(port: Port, panic: &(dyn Any + Send)) -> Response {
    observe::http::panicked(port);
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
    ApiError::internal(&format!("panic: {text}")).into_response()
}

/// The caller's id if it is sane, so that one id follows a request through all of the caller's systems; else a UUIDv7.
fn request_id(headers: &HeaderMap, clock: &Clock) -> RequestId {
    let sane = |id: &&str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        (1..=REQUEST_ID_MAX).contains(&id.len()) && id.bytes().all(plain)
    };
    if let Some(id) = headers.get(X_REQUEST_ID).and_then(|id| id.to_str().ok()).filter(sane) {
        return RequestId(id.into());
    }
    let micros = u64::try_from(clock.unix_us()).unwrap_or(0);
    let nanos = u32::try_from(micros % 1_000_000 * 1_000).unwrap_or(0);
    let at = Timestamp::from_unix(NoContext, micros / 1_000_000, nanos);
    RequestId(Uuid::new_v7(at).to_string().into())
}

pub async fn unknown_path() -> ApiError {
    ApiError::because(Slug::NotFound, "There is no such path. /openapi.json lists those that there are.")
}

pub async fn unknown_method() -> ApiError {
    ApiError::because(Slug::MethodNotAllowed, "The Allow header lists the methods of this path.")
}
