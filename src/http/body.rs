//! Reading a request's body: under a limit that counts what comes off the wire and what comes out of the content
//! coding, and under a deadline.

use std::pin::pin;
use std::sync::Arc;

use axum::extract::Request;
use axum::http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH};
use axum::http::{HeaderMap, HeaderValue};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::time::{Duration, timeout};

use super::error::ApiError;
use super::guard::Turn;
use crate::admission::Sender;
use crate::ingest::{Encoding, decompress};
use crate::wire::problem::Slug;

/// From the head to the end of a body, within its class. Shorter: busy machines make callers of good will wait outside.
/// Longer: each request of a caller who is slow on purpose takes part of the class for so long.
const AT_ONCE: Duration = Duration::from_millis(20);

/// How a body is read. The guard puts it among the request's extensions.
#[derive(Clone)]
pub(super) struct Reading {
    pub(super) bounds: Bounds,
    /// Unknown where there is no connection.
    pub(super) sender: Option<Sender>,
    pub(super) turn: Arc<Turn>,
}

/// What a body may be.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub max_bytes: usize,
    pub deadline: Duration,
}

/// Refuses a declared length above the limit, before any of the body is read.
pub fn check_declared(headers: &HeaderMap, bounds: Bounds) -> Result<(), ApiError> {
    let declared = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| length > bounds.max_bytes as u64) { Err(too_large(bounds)) } else { Ok(()) }
}

/// The whole body, decompressed. Without [`Reading`] the route was mounted without its guard: nothing is read.
pub async fn read(request: Request) -> Result<Bytes, ApiError> {
    let (parts, body) = request.into_parts();
    let Some(Reading { bounds, sender, turn }) = parts.extensions.get::<Reading>().cloned() else {
        return Err(ApiError::internal("a body was asked for outside the guard"));
    };
    let encoding = encoding(&parts.headers)?;
    let mut whole = pin!(Limited::new(body, bounds.max_bytes).collect());
    let body = if let Ok(body) = timeout(AT_ONCE.min(bounds.deadline), whole.as_mut()).await {
        body
    } else {
        let waiting = turn.step_out(sender)?;
        let late = timeout(bounds.deadline.saturating_sub(AT_ONCE), whole).await;
        drop(waiting);
        let body = late.map_err(|_| {
            let detail = format!("The body was not complete after {} ms.", bounds.deadline.as_millis());
            ApiError::because(Slug::BodyTimeout, detail)
        })?;
        turn.step_in()?;
        body
    };
    let body = body.map_err(|error| {
        if error.is::<LengthLimitError>() {
            return too_large(bounds);
        }
        ApiError::because(Slug::Malformed, "The body ended before its end.")
    })?;
    Ok(decompress(encoding, body.to_bytes(), bounds.max_bytes)?)
}

fn encoding(headers: &HeaderMap) -> Result<Encoding, ApiError> {
    let mut values = headers.get_all(CONTENT_ENCODING).iter();
    let coding = match (values.next(), values.next()) {
        (None, _) => return Ok(Encoding::Identity),
        (Some(one), None) => one.to_str().unwrap_or_default().trim().to_ascii_lowercase(),
        (Some(_), Some(_)) => String::new(),
    };
    match coding.as_str() {
        "identity" => Ok(Encoding::Identity),
        "gzip" | "x-gzip" => Ok(Encoding::Gzip),
        "zstd" => Ok(Encoding::Zstd),
        _ => Err(ApiError::because(Slug::UnsupportedMediaType, "Content-Encoding is one of gzip, zstd, or absent.")
            .header(ACCEPT_ENCODING, HeaderValue::from_static("gzip, zstd"))),
    }
}

fn too_large(bounds: Bounds) -> ApiError {
    let detail = format!("At most {} bytes, compressed and decompressed.", bounds.max_bytes);
    ApiError::because(Slug::TooLarge, detail).limit("body_max_bytes")
}
