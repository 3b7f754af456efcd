//! `GET /v1/ca`

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;

use crate::http::api::DeviceApi;
use crate::http::routes::PEM_CHAIN;

pub async fn get(State(api): State<Arc<DeviceApi>>) -> impl IntoResponse {
    ([(CONTENT_TYPE, PEM_CHAIN)], api.identity.ca_bundle_pem().to_string())
}
