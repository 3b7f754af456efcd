//! `/v1/devices/{device}/certificates`, `/v1/certificates`, `/v1/certificates/{fingerprint}`, `…/revoke`

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;

use super::devices::checked;
use super::readings::moment;
use super::resolve;
use crate::domain::ids::Fingerprint;
use crate::domain::time::{from_unix_us, unix_us};
use crate::http::api::AdminApi;
use crate::http::authn::Operator;
use crate::http::error::ApiError;
use crate::http::extract::{OptionalJson, PathOf, Query};
use crate::http::page::{PageQuery, Paging};
use crate::http::reference::DeviceRef;
use crate::identity::ca::renew_after;
use crate::store::credential_views::{self, CredentialFilter, CredentialView};
use crate::store::credentials;
use crate::store::expiry::{self, EndingFilter, EndingView};
use crate::wire::Page;
use crate::wire::admin::{Certificate, EndingCertificate, Reason, Revocation};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct EndingQuery {
    /// Only those that end before this: RFC 3339, or Unix milliseconds.
    expires_before: Option<String>,
    /// The fleet's name.
    fleet: Option<String>,
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    cursor: Option<String>,
}

pub async fn list(
    State(api): State<Arc<AdminApi>>,
    operator: Operator,
    PathOf(device): PathOf<DeviceRef>,
    Query(asked): Query<PageQuery>,
) -> Result<Json<Page<Certificate>>, ApiError> {
    let device = resolve::device(&api, &operator, device).await?.id;
    let paging = Paging::<(i64, String)>::asked("/v1/devices/{device}/certificates", &device, &asked)?;
    let before = paging.after_as(|(at, print)| Some((from_unix_us(*at)?, print.parse().ok()?)))?;
    let filter = CredentialFilter { device: Some(device), before, ..CredentialFilter::default() };
    let rows = credential_views::list(&api.store, filter, paging.fetch()).await?;
    let Page { items, next } = paging.page(rows, |row| (unix_us(row.created_at), row.fingerprint.to_string()));
    Ok(Json(Page { items: items.into_iter().map(Certificate::from).collect(), next }))
}

/// One for each active device: its newest live one, which has no successor.
pub async fn ending(
    State(api): State<Arc<AdminApi>>,
    operator: Operator,
    Query(asked): Query<EndingQuery>,
) -> Result<Json<Page<EndingCertificate>>, ApiError> {
    let before = asked.expires_before.as_deref().map(|text| moment("?expires_before", Some(text), 0)).transpose()?;
    let filters = (before.map(unix_us), &asked.fleet);
    let paging = Paging::<(i64, String)>::new("/v1/certificates", &filters, asked.limit, asked.cursor.as_deref())?;
    let filter = EndingFilter {
        scope: match &asked.fleet {
            Some(name) => Some(vec![resolve::fleet_named(&api, &operator, name).await?.0]),
            None => operator.scope_ids(),
        },
        before,
        after: paging.after_as(|(at, print)| Some((from_unix_us(*at)?, print.parse().ok()?)))?,
    };
    let rows = expiry::list(&api.store, filter, paging.fetch()).await?;
    let Page { items, next } = paging.page(rows, |row| (unix_us(row.not_after), row.fingerprint.to_string()));
    Ok(Json(Page { items: items.into_iter().map(EndingCertificate::from).collect(), next }))
}

pub async fn get(
    State(api): State<Arc<AdminApi>>,
    operator: Operator,
    PathOf(print): PathOf<Fingerprint>,
) -> Result<Json<Certificate>, ApiError> {
    Ok(Json(find(&api, &operator, print).await?.into()))
}

/// A repetition succeeds.
pub async fn revoke(
    State(api): State<Arc<AdminApi>>,
    operator: Operator,
    PathOf(print): PathOf<Fingerprint>,
    OptionalJson(reason): OptionalJson<Reason>,
) -> Result<Json<Revocation>, ApiError> {
    find(&api, &operator, print).await?;
    let (reason, by) = (checked(reason)?, operator.caller().subject.clone());
    let revoked = credentials::revoke(api.identity.log(), print, reason, by).await?;
    let certificate = find(&api, &operator, print).await?.into();
    let revoked = revoked.fingerprints.iter().map(Fingerprint::to_string).collect();
    Ok(Json(Revocation { certificate, revoked }))
}

async fn find(api: &AdminApi, operator: &Operator, print: Fingerprint) -> Result<CredentialView, ApiError> {
    let view = credential_views::one(&api.store, print).await?.ok_or_else(ApiError::not_found)?;
    operator.allow(view.fleet)?;
    Ok(view)
}

impl From<CredentialView> for Certificate {
    fn from(view: CredentialView) -> Self {
        Self {
            fingerprint: view.fingerprint.to_string(),
            device_id: view.device.0,
            parent: view.parent.map(|parent| parent.to_string()),
            not_before: view.not_before,
            not_after: view.not_after,
            revoked_at: view.revoked_at,
            revoke_reason: view.revoke_reason,
        }
    }
}

impl From<EndingView> for EndingCertificate {
    fn from(view: EndingView) -> Self {
        Self {
            fingerprint: view.fingerprint.to_string(),
            device_id: view.device.0,
            device: view.device_name,
            fleet: view.fleet_name,
            not_before: view.not_before,
            renew_after: renew_after(view.not_before, view.not_after),
            not_after: view.not_after,
        }
    }
}
