//! `POST /v1/token`: OAuth 2 client credentials (RFC 6749, 4.4) over mutual TLS (RFC 8705). Unknown parameters are
//! ignored, and no input is quoted in an error.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::HeaderValue;
use axum::http::header::ACCEPT;
use utoipa::ToSchema;

use crate::domain::ids::DeviceId;
use crate::http::api::DeviceApi;
use crate::http::authn::WithCert;
use crate::http::error::ApiError;
use crate::http::{accept, body, form};
use crate::wire::device::TokenAnswer;
use crate::wire::problem::Slug;

// For the description of the API only: `check` reads it.

/// The form of RFC 6749, 4.4.2.
#[derive(ToSchema)]
#[expect(dead_code, reason = "a shape for the description of the API")]
pub struct TokenRequest {
    /// Always `client_credentials`.
    grant_type: String,
    /// The device's id, if at all.
    client_id: Option<String>,
}

pub async fn create(
    State(api): State<Arc<DeviceApi>>,
    proof: WithCert,
    request: Request,
) -> Result<Json<TokenAnswer>, ApiError> {
    let is_form = accept::media_type(request.headers()).as_deref() == Some("application/x-www-form-urlencoded");
    let body = body::read(request).await?;
    if !body.is_empty() {
        if !is_form {
            let detail = "Send grant_type=client_credentials as application/x-www-form-urlencoded, or nothing.";
            return Err(ApiError::because(Slug::UnsupportedMediaType, detail)
                .header(ACCEPT, HeaderValue::from_static("application/x-www-form-urlencoded")));
        }
        check(&body, proof.caller().device.id)?;
    }
    Ok(Json(api.identity.device_token(proof.caller())?))
}

fn check(body: &[u8], device: DeviceId) -> Result<(), ApiError> {
    let pairs = form::pairs(body).map_err(|_| {
        ApiError::because(Slug::Malformed, "The form cannot be read, or has a parameter twice.")
            .oauth("invalid_request")
    })?;
    // A parameter without a value counts as absent (RFC 6749, 3.2).
    let value = |name| pairs.iter().find(|(known, _)| known == name).map(|(_, value)| value).filter(|v| !v.is_empty());
    match value("grant_type").map(String::as_str) {
        Some("client_credentials") => {}
        Some(_) => {
            let detail = "The only grant_type is client_credentials.";
            return Err(ApiError::because(Slug::Invalid, detail).oauth("unsupported_grant_type"));
        }
        None => return Err(ApiError::because(Slug::Invalid, "grant_type is missing.").oauth("invalid_request")),
    }
    let names_it = |id: &String| id.parse::<DeviceId>() == Ok(device);
    if value("client_id").is_some_and(|id| !names_it(id)) {
        let detail = "client_id is not the device of the certificate; leave it out.";
        return Err(ApiError::because(Slug::Invalid, detail).oauth("invalid_client"));
    }
    if value("scope").is_some() {
        return Err(ApiError::because(Slug::Invalid, "There are no scopes.").oauth("invalid_scope"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let device = DeviceId(uuid::Uuid::from_u128(7));
        let own = format!("grant_type=client_credentials&client_id={device}");
        let table = [
            ("grant_type=client_credentials", None),
            (own.as_str(), None),
            ("grant_type=client_credentials&client_id=", None),
            ("grant_type=client_credentials&whatever=1", None),
            ("grant_type=password", Some(Slug::Invalid)),
            ("client_id=x", Some(Slug::Invalid)),
            ("grant_type=client_credentials&client_id=x", Some(Slug::Invalid)),
            ("grant_type=client_credentials&grant_type=client_credentials", Some(Slug::Malformed)),
        ];
        for (body, expected) in table {
            assert_eq!(check(body.as_bytes(), device).map_err(|error| error.slug()).err(), expected, "{body}");
        }
    }
}
