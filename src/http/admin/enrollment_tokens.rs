//! `/v1/enrollment-tokens`, `/v1/enrollment-tokens/{token_id}/revoke`

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::Deserialize;
use utoipa::IntoParams;

use super::{creation, resolve};
use crate::domain::name::{NamePattern, NotAPattern};
use crate::http::api::AdminApi;
use crate::http::authn::Operator;
use crate::http::error::ApiError;
use crate::http::extract::{Check, Creation, PathOf, Query};
use crate::http::page::Paging;
use crate::identity::operators::EnrollmentTokenRequest;
use crate::store::enrollment::{self, TokenFilter, TokenRow};
use crate::wire::Page;
use crate::wire::admin::{EnrollmentToken, NewEnrollmentToken};

const EXPIRES_IN_DEFAULT_S: i64 = 86_400;
const OMITTED: &str = "The token was shown once, in the answer to the first request with this Idempotency-Key. \
                       If it got lost, revoke this one and make another.";

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct TokensQuery {
    /// The fleet's name.
    fleet: Option<String>,
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    cursor: Option<String>,
}

pub async fn list(
    State(api): State<Arc<AdminApi>>,
    operator: Operator,
    Query(asked): Query<TokensQuery>,
) -> Result<Json<Page<EnrollmentToken>>, ApiError> {
    let route = "/v1/enrollment-tokens";
    let paging = Paging::<String>::new(route, &asked.fleet, asked.limit, asked.cursor.as_deref())?;
    let scope = match &asked.fleet {
        Some(name) => Some(vec![resolve::fleet_named(&api, &operator, name).await?]),
        None => operator.scope(),
    };
    let filter = TokenFilter { scope, after: paging.after.clone(), ..TokenFilter::default() };
    let rows = enrollment::list(&api.store, filter, paging.fetch()).await?;
    let tokens = rows.into_iter().map(EnrollmentToken::from).collect();
    Ok(Json(paging.page(tokens, |token| token.id.clone())))
}

pub async fn create(
    State(api): State<Arc<AdminApi>>,
    operator: Operator,
    asked: Creation<NewEnrollmentToken>,
) -> Result<impl IntoResponse, ApiError> {
    let fleet = resolve::fleet_named(&api, &operator, &asked.value.fleet).await?;
    let (uses_max, expires_in_s) =
        (asked.value.uses_max.unwrap_or(1), asked.value.expires_in_s.unwrap_or(EXPIRES_IN_DEFAULT_S));
    let name_pattern = asked.value.name_pattern.as_deref().map(str::parse::<NamePattern>).transpose();
    Check::new()
        .that(name_pattern.is_ok(), "/name_pattern", &NotAPattern.to_string())
        .that((1..=1_000_000).contains(&uses_max), "/uses_max", "1 to 1000000")
        .that((60..=31_536_000).contains(&expires_in_s), "/expires_in_s", "60 to 31536000 seconds")
        .done()?;
    let once = creation::once(&operator, "POST /v1/enrollment-tokens", &asked);
    let request = EnrollmentTokenRequest {
        fleet,
        name_pattern: name_pattern.unwrap_or_default(),
        uses_max,
        expires_in: Duration::from_secs(expires_in_s.unsigned_abs()),
        by: operator.caller().subject.clone(),
    };
    let (row, token) = api.identity.create_enrollment_token_once(request, once).await?;
    let replayed = creation::replayed(token.is_none());
    let token_omitted = token.is_none().then(|| OMITTED.to_owned());
    Ok((StatusCode::CREATED, replayed, Json(EnrollmentToken { token, token_omitted, ..row.into() })))
}

/// A repetition succeeds.
pub async fn revoke(
    State(api): State<Arc<AdminApi>>,
    operator: Operator,
    PathOf(id): PathOf<String>,
) -> Result<Json<EnrollmentToken>, ApiError> {
    let id = find(&api, &operator, id).await?.id;
    enrollment::revoke(api.identity.log(), &id, &operator.caller().subject).await?;
    Ok(Json(find(&api, &operator, id).await?.into()))
}

async fn find(api: &AdminApi, operator: &Operator, id: String) -> Result<TokenRow, ApiError> {
    // Ids are plain; what else comes out of a path may not even be text to the database.
    if !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(ApiError::not_found());
    }
    let filter = TokenFilter { id: Some(id), ..TokenFilter::default() };
    let row = enrollment::list(&api.store, filter, 1).await?.pop().ok_or_else(ApiError::not_found)?;
    operator.allow(row.fleet)?;
    Ok(row)
}

impl From<TokenRow> for EnrollmentToken {
    fn from(row: TokenRow) -> Self {
        Self {
            id: row.id,
            fleet: row.fleet_name,
            name_pattern: row.name_pattern,
            uses: row.uses,
            uses_max: row.uses_max,
            expires_at: row.expires_at,
            revoked_at: row.revoked_at,
            created_by: row.created_by,
            token: None,
            token_omitted: None,
        }
    }
}
