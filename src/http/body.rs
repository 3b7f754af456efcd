//! Reading a request's body: under a limit that counts what comes off the wire and what comes out of the content
//! coding, and under a deadline.

use axum::extract::Request;
use axum::http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH};
use axum::http::{HeaderMap, HeaderValue};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::time::{Duration, timeout};

use super::error::ApiError;
use crate::ingest::{Encoding, decompress};
use crate::wire::problem::Slug;

/// What a body may be. The guard puts it among the request's extensions.
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

/// The whole body, decompressed. Without [`Bounds`] the route was mounted without its guard: nothing is read.
pub async fn read(request: Request) -> Result<Bytes, ApiError> {
    let (parts, body) = request.into_parts();
    let Some(bounds) = parts.extensions.get::<Bounds>().copied() else {
        return Err(ApiError::internal("a body was asked for outside the guard"));
    };
    let encoding = encoding(&parts.headers)?;
    let whole = Limited::new(body, bounds.max_bytes).collect();
    let body = match timeout(bounds.deadline, whole).await {
        Err(_) => {
            let detail = format!("The body was not complete after {} ms.", bounds.deadline.as_millis());
            return Err(ApiError::because(Slug::BodyTimeout, detail));
        }
        Ok(Err(error)) if error.is::<LengthLimitError>() => return Err(too_large(bounds)),
        Ok(Err(_)) => return Err(ApiError::because(Slug::Malformed, "The body ended before its end.")),
        Ok(Ok(body)) => body.to_bytes(),
    };
    Ok(decompress(encoding, body, bounds.max_bytes)?)
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
