//! EST (RFC 7030, RFC 8951): enrollment and renewal for devices that have a client for it. Identity does the work;
//! nothing of the input comes back in an error. A CA's label in the path (RFC 7030, 3.2.2) is not served: there is one.

use std::sync::Arc;

use axum::extract::{FromRequest, Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;

use super::enroll::attempt;
use crate::http::api::DeviceApi;
use crate::http::authn::{Basic, WithOldCert};
use crate::http::error::ApiError;
use crate::http::routes::{CERTS_ONLY, PKCS10};
use crate::http::{accept, body};
use crate::identity::ca::CaError;
use crate::identity::{Csr, IdentityError, est};
use crate::wire::device::EnrollRequest;
use crate::wire::problem::Slug;

/// Certificates, as text.
pub struct CertsOnly(String);

impl IntoResponse for CertsOnly {
    fn into_response(self) -> Response {
        ([(CONTENT_TYPE, CERTS_ONLY)], self.0).into_response()
    }
}

impl CertsOnly {
    fn of(encoded: Result<String, CaError>) -> Result<Self, ApiError> {
        encoded.map(Self).map_err(|error| ApiError::internal(&error.to_string()))
    }
}

/// The body of a request for a certificate. `Content-Transfer-Encoding` says nothing (RFC 8951, 3).
pub struct Pkcs10(Bytes);

impl<S: Send + Sync> FromRequest<S> for Pkcs10 {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        if accept::media_type(request.headers()).as_deref() != Some(PKCS10) {
            let detail = "Send the certificate request as application/pkcs10.";
            return Err(ApiError::because(Slug::UnsupportedMediaType, detail));
        }
        Ok(Self(body::read(request).await?))
    }
}

pub async fn cacerts(State(api): State<Arc<DeviceApi>>) -> Result<CertsOnly, ApiError> {
    CertsOnly::of(est::all(&api.identity.ca_bundle_pem()))
}

/// Nothing is required of a request (RFC 7030, 4.5.2).
pub async fn csrattrs() -> StatusCode {
    StatusCode::NO_CONTENT
}

pub async fn simpleenroll(
    State(api): State<Arc<DeviceApi>>,
    Basic { user: name, password: token }: Basic,
    Pkcs10(request): Pkcs10,
) -> Result<CertsOnly, ApiError> {
    let asked = EnrollRequest { token, name, csr: String::new(), tags: Vec::new(), attributes: None };
    let made = attempt(&api, &asked, Csr::Base64(&request), explained).await?;
    CertsOnly::of(est::first(&made.certificate))
}

pub async fn simplereenroll(
    State(api): State<Arc<DeviceApi>>,
    proof: WithOldCert,
    Pkcs10(request): Pkcs10,
) -> Result<CertsOnly, ApiError> {
    let made = api.identity.renew_with(proof.connection(), Csr::Base64(&request)).await?;
    CertsOnly::of(est::first(&made.certificate))
}

/// The only field here is the name.
fn explained(error: IdentityError) -> ApiError {
    match error {
        IdentityError::BadField { detail, .. } => {
            ApiError::because(Slug::Invalid, format!("The user of HTTP Basic is the device's name; {detail}."))
        }
        other => other.into(),
    }
}
