//! `POST /v1/enroll` and `POST /v1/renew`: identity does the work; nothing of the input comes back in an error.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use crate::admission::Class;
use crate::domain::enrollment::EnrollmentToken;
use crate::http::api::DeviceApi;
use crate::http::authn::WithOldCert;
use crate::http::error::ApiError;
use crate::http::extract::{Check, SecretJson};
use crate::identity::{Csr, IdentityError};
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
    Ok((StatusCode::CREATED, Json(attempt(&api, &asked, Csr::Pem(&asked.csr), ApiError::from).await?)))
}

/// Enrolls, unless too many attempts with the token have failed. Those of the caller's address are counted by the guard.
/// `told`: how what went wrong is put.
pub async fn attempt(
    api: &DeviceApi,
    asked: &EnrollRequest,
    csr: Csr<'_>,
    told: fn(IdentityError) -> ApiError,
) -> Result<EnrollAnswer, ApiError> {
    let token = asked.token.parse::<EnrollmentToken>().ok();
    if let Some(token) = &token {
        api.admission.may_try_token(Class::Exchange, token.id())?;
    }
    let enrolled = api.identity.enroll_with(asked, csr).await;
    if let (Err(IdentityError::EnrollmentToken), Some(token)) = (&enrolled, &token) {
        api.admission.failures().failed_with(token.id());
    }
    enrolled.map_err(told)
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
