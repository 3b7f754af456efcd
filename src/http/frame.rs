//! Around every request, answered or not: its id, its span, its measurement, and the last word on its answer.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, CONNECTION};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Version};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use tracing::Instrument;
use uuid::{NoContext, Timestamp, Uuid};

use super::api::Shared;
use super::dialect::Dialect;
use super::drill::Origin;
use super::error::{self, ApiError, Refusal, Rendering};
use super::faults::Refusals;
use super::guard::{enter, guard, stated_patience};
use super::route::RouteInfo;
use super::unread::{self, Unread};
use crate::admission::Refused;
use crate::domain::time::Clock;
use crate::net::ConnInfo;
use crate::observe::http::RouteMetrics;
use crate::observe::net::Port;
use crate::observe::{self};
use crate::store::Durability;
use crate::store::durability::watched;
use crate::wire::problem::Slug;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const REQUEST_ID_MAX: usize = 64;
/// `degraded`: what this answers for is on the primary alone (`durability.policy` is `accept`).
const X_DURABILITY: HeaderName = HeaderName::from_static("x-everbeat-durability");

/// One route and what its listener shares.
pub struct Row {
    pub info: RouteInfo,
    pub shared: Arc<Shared>,
    pub metrics: Arc<RouteMetrics>,
    pub refusals: Refusals,
}

/// Requests that no row takes: an unknown path, or a known one with another method.
pub struct Unmatched {
    pub shared: Arc<Shared>,
    pub metrics: Arc<RouteMetrics>,
}

/// The id of a request: in its log lines, in its answer, and in the problem if there is one.
struct RequestId(Arc<str>);

/// The outermost layer of a route.
pub async fn frame(State(row): State<Arc<Row>>, request: Request, next: Next) -> Response {
    let permit = match enter(&row) {
        Ok(permit) => permit,
        Err(refused) => return turned_away(&row, request, refused).await,
    };
    // Boxed: it is large, and what is put around it moves it before it is first polled.
    let served = |request| Box::pin(guard(row.clone(), permit, request, next));
    let mut response = framed(&row.shared, &row.metrics, row.info.dialect, request, served).await;
    if row.info.has_secrets {
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    response
}

/// Longer: clients on slow links that count their own patience give up. Shorter: those who come again at once cost more.
const EARLY_MAX: Duration = Duration::from_secs(1);

/// There is no room for this request, and the shortest way to say so: most of what comes in a rush ends here.
async fn turned_away(row: &Row, request: Request, refused: Refused) -> Response {
    let origin = Origin::of(&row.shared);
    let RequestId(id) = request_id(request.headers(), &row.shared.clock);
    let pause = row.shared.random.scale(refused.pause(), 1.0, 2.0);
    let waits = stay(row, &request, pause);
    let goes_on = unread::take_in_unseen(request).await;
    if let Some(wait) = waits {
        tokio::time::sleep(wait).await;
    }
    // What it waited on purpose is no latency of ours.
    let in_flight = row.metrics.begin();
    let mut response = match row.refusals.get(refused) {
        Some(refusal) => refusal.response(&id, pause),
        None => Refusal::of(refused.into(), row.info.dialect).response(&id, pause),
    };
    sign(&mut response, !goes_on, &id, origin.as_ref());
    in_flight.answered(response.status().as_u16());
    tracing::debug!(request_id = %id, listener = row.info.port.as_str(), route = row.info.path, "shed");
    response
}

/// Who comes again on the same connection sooner than it was told is answered when that time has come, within
/// [`EARLY_MAX`] and its own patience, so that callers who do not listen cannot keep us busy with refusing them. Not over
/// HTTP/2, where a request may have been sent before the answer to another.
fn stay(row: &Row, request: &Request, pause: Duration) -> Option<Duration> {
    let connection = request.extensions().get::<Arc<ConnInfo>>()?;
    if request.version() >= Version::HTTP_2 {
        return None;
    }
    let (what, now) = (row.info.class.as_str(), row.shared.clock.boottime());
    let patience = stated_patience(request.headers()).unwrap_or(EARLY_MAX);
    let early = connection.away.left(what, now).min(EARLY_MAX).min(patience);
    connection.away.told(what, now.plus(early + pause));
    Some(early).filter(|early| !early.is_zero())
}

/// The headers that every answer of a frame has.
fn sign(response: &mut Response, closes: bool, id: &str, origin: Option<&Origin>) {
    if closes {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if let Ok(value) = HeaderValue::from_str(id) {
        response.headers_mut().insert(X_REQUEST_ID, value);
    }
    if let Some(origin) = origin {
        origin.mark(response);
    }
}

/// The frame of requests that no route takes.
pub async fn frame_unmatched(State(unmatched): State<Arc<Unmatched>>, request: Request, next: Next) -> Response {
    let dialect = Dialect::of(request.uri().path());
    framed(&unmatched.shared, &unmatched.metrics, dialect, request, |request| next.run(request)).await
}

async fn framed<F: Future<Output = Response>>(
    shared: &Shared,
    metrics: &Arc<RouteMetrics>,
    dialect: Dialect,
    request: Request,
    served: impl FnOnce(Request) -> F,
) -> Response {
    let series = metrics.series;
    let RequestId(id) = request_id(request.headers(), &shared.clock);
    let origin = Origin::of(shared);
    let (request, unread) = Unread::of(request);
    let span = tracing::info_span!("request", request_id = %id, listener = series.port.as_str(), method = series.method, route = series.route);
    async move {
        let in_flight = metrics.begin();
        let (caught, durability) = watched(AssertUnwindSafe(served(request)).catch_unwind()).await;
        let response = caught.unwrap_or_else(|panic| panicked(series.port, panic.as_ref()));
        let refused = response.status().is_client_error() || response.status().is_server_error();
        let closes = refused && !unread.take_in().await;
        let is_shed = error::is_shed(&response);
        let with = Rendering { request_id: &id, random: &shared.random, dialect };
        let mut response = error::render(response, &with);
        sign(&mut response, closes, &id, origin.as_ref());
        if durability == Durability::Degraded && response.status().is_success() {
            response.headers_mut().insert(X_DURABILITY, HeaderValue::from_static("degraded"));
        }
        let status = response.status().as_u16();
        let ms = in_flight.answered(status).as_secs_f64() * 1_000.0;
        // Devices are many and mostly well: their successes are metrics, and lines only for those who look closer. What
        // is refused because there is too much is counted by class and stage: a line for each would be more of it.
        match (status, series.port) {
            _ if is_shed => tracing::debug!(status, ms, "shed"),
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
