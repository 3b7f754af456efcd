//! `POST /v1/enroll` and `POST /v1/renew`: identity does the work; nothing of the input comes back in an error.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use crate::http::api::DeviceApi;
use crate::http::authn::WithOldCert;
use crate::http::error::ApiError;
use crate::http::extract::{Check, SecretJson};
use crate::wire::device::{EnrollAnswer, EnrollRequest, RenewRequest};

/// Those of the schema.
const TOKEN_MAX: usize = 256;
const CSR_MAX: usize = 16_384;
const TAGS_MAX: usize = 64;

pub async fn enroll(
    State(api): State<Arc<DeviceApi>>,
    SecretJson(asked): SecretJson<EnrollRequest>,
) -> Result<(StatusCode, Json<EnrollAnswer>), ApiError> {
    Check::new()
        .that(fits(&asked.token, TOKEN_MAX), "/token", "too long")
        .that(fits(&asked.csr, CSR_MAX), "/csr", "too long")
        .that(asked.tags.len() <= TAGS_MAX, "/tags", "too many")
        .done()?;
    Ok((StatusCode::CREATED, Json(api.identity.enroll(&asked).await?)))
}

pub async fn renew(
    State(api): State<Arc<DeviceApi>>,
    proof: WithOldCert,
    SecretJson(asked): SecretJson<RenewRequest>,
) -> Result<Json<EnrollAnswer>, ApiError> {
    Check::new().that(fits(&asked.csr, CSR_MAX), "/csr", "too long").done()?;
    Ok(Json(api.identity.renew(proof.connection(), &asked.csr).await?))
}

/// Schemas count characters.
fn fits(text: &str, chars_max: usize) -> bool {
    text.chars().count() <= chars_max
}
