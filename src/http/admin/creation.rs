//! Requests that create: their idempotency key, and what the answer says of it.

use axum::http::{HeaderMap, HeaderName, HeaderValue};

use crate::http::authn::Operator;
use crate::http::extract::Creation;
use crate::store::idempotency::Once;

/// On the answer to a repeated `Idempotency-Key`.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// The key of a request that creates with 201, if it has one.
pub fn once<T>(operator: &Operator, route: &'static str, asked: &Creation<T>) -> Option<Once> {
    let key = asked.key.clone()?;
    let caller = operator.caller().id.to_string();
    Some(Once { caller, route, key, request_sha256: asked.request_sha256, status: 201 })
}

/// Tells a repetition from the first answer.
pub fn replayed(yes: bool) -> HeaderMap {
    yes.then_some((REPLAYED, HeaderValue::from_static("true"))).into_iter().collect()
}
