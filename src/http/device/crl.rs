//! `GET /v1/crl`, `GET /v1/crl.pem`: the revocation lists of the issuing CAs, for others than us.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::IntoResponse;
use bytes::Bytes;

use crate::http::api::DeviceApi;
use crate::http::error::ApiError;
use crate::http::routes::{PEM_FILE, PKIX_CRL};

pub async fn der(State(api): State<Arc<DeviceApi>>) -> Result<impl IntoResponse, ApiError> {
    Ok(answer(PKIX_CRL, api.identity.crl().await?.der.clone()))
}

pub async fn pem(State(api): State<Arc<DeviceApi>>) -> Result<impl IntoResponse, ApiError> {
    Ok(answer(PEM_FILE, api.identity.crl().await?.pem.clone()))
}

/// As long as ours is kept, whoever stands between may keep theirs.
fn answer(media: &'static str, body: Bytes) -> impl IntoResponse {
    ([(CONTENT_TYPE, media), (CACHE_CONTROL, "public, max-age=60")], body)
}
