//! Proofs of who is calling. Only `http::guard` makes them, by the permission of the route; a handler that asks for
//! a proof which the route's permission does not give answers 500.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::error::ApiError;
use crate::domain::access::{Action, Verdict};
use crate::domain::ids::FleetId;
use crate::identity::{AuthError, DeviceCaller, OperatorCaller};
use crate::net::ConnInfo;
use crate::wire::problem::Slug;

/// `Permission::Cert`: a device with a current certificate.
#[derive(Clone)]
pub struct WithCert(pub(super) Arc<DeviceCaller>);

/// `Permission::CertAndToken`: the same, with an access token bound to that certificate (RFC 8705).
#[derive(Clone)]
pub struct WithCertAndToken(pub(super) Arc<DeviceCaller>);

/// `Permission::CertMaybeExpired`: a connection whose certificate one of our CAs issued, and which may have expired.
/// Whether it may still be used, identity decides.
#[derive(Clone)]
pub struct WithOldCert(pub(super) Arc<ConnInfo>);

/// `Permission::Operator`: an operator with a valid token, and the action that the table declares for the route.
/// A handler must ask [`Operator::allow`], [`Operator::allow_anywhere`] or [`Operator::scope`] before it does
/// anything; the guard turns a success without that into a 500.
#[derive(Clone)]
pub struct Operator {
    caller: Arc<OperatorCaller>,
    action: Action,
    asked: Arc<AtomicBool>,
}

impl WithCert {
    pub fn caller(&self) -> &DeviceCaller {
        &self.0
    }
}

impl WithCertAndToken {
    pub fn caller(&self) -> &DeviceCaller {
        &self.0
    }
}

impl WithOldCert {
    pub fn connection(&self) -> &ConnInfo {
        &self.0
    }
}

impl Operator {
    pub(super) fn new(caller: OperatorCaller, action: Action) -> Self {
        // About oneself there is nothing to ask.
        let asked = Arc::new(AtomicBool::new(action.needs().is_none()));
        Self { caller: Arc::new(caller), action, asked }
    }

    pub(super) fn has_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    pub fn caller(&self) -> &OperatorCaller {
        &self.caller
    }

    /// May they do the route's action in this fleet? For a move, ask for both fleets.
    ///
    /// # Errors
    /// `not-found` if they do not see the fleet, `forbidden` if their role is too low.
    pub fn allow(&self, fleet: FleetId) -> Result<(), ApiError> {
        self.judge(self.caller.grants.in_fleet(self.action, fleet))
    }

    /// May they do it where no single fleet is meant: the service itself, or a new fleet?
    pub fn allow_anywhere(&self) -> Result<(), ApiError> {
        self.judge(self.caller.grants.anywhere(self.action))
    }

    /// The fleets that a list shows them; `None`: all. Filters that name another fleet find nothing.
    pub fn scope(&self) -> Option<Vec<FleetId>> {
        self.asked.store(true, Ordering::Relaxed);
        self.caller.grants.scope(self.action)
    }

    /// The same as the parameter of a statement (`$1::uuid[] is null or fleet_id = any($1)`).
    pub fn scope_ids(&self) -> Option<Vec<uuid::Uuid>> {
        self.scope().map(|fleets| fleets.into_iter().map(|fleet| fleet.0).collect())
    }

    fn judge(&self, verdict: Verdict) -> Result<(), ApiError> {
        self.asked.store(true, Ordering::Relaxed);
        match verdict {
            Verdict::Allowed => Ok(()),
            Verdict::Invisible => Err(ApiError::not_found()),
            Verdict::Forbidden => Err(ApiError::because(Slug::Forbidden, "Ask an admin for a higher role.")),
        }
    }
}

macro_rules! proof {
    ($($proof:ty),*) => {$(
        impl<S: Send + Sync> FromRequestParts<S> for $proof {
            type Rejection = ApiError;

            async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
                let proof = parts.extensions.get::<Self>().cloned();
                proof.ok_or_else(|| ApiError::internal(concat!("no ", stringify!($proof), " behind this permission")))
            }
        }
    )*};
}

proof!(WithCert, WithCertAndToken, WithOldCert, Operator);

/// What a caller says of themselves by HTTP Basic (RFC 7617). It proves nothing until somebody has looked.
pub struct Basic {
    pub user: String,
    /// Secret.
    pub password: String,
}

impl<S: Send + Sync> FromRequestParts<S> for Basic {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        basic(&parts.headers).ok_or_else(|| {
            let detail = "Send HTTP Basic: the device's name as the user, the enrollment token as the password.";
            ApiError::because(Slug::EnrollmentTokenInvalid, detail)
        })
    }
}

fn basic(headers: &HeaderMap) -> Option<Basic> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(one), None) = (values.next(), values.next()) else { return None };
    let (scheme, coded) = one.to_str().ok()?.split_once(' ')?;
    let pair = STANDARD.decode(coded.trim()).ok().filter(|_| scheme.eq_ignore_ascii_case("basic"))?;
    let (user, password) = std::str::from_utf8(&pair).ok()?.split_once(':')?;
    Some(Basic { user: user.to_owned(), password: password.to_owned() })
}

/// The bearer token (RFC 6750, 2.1; never from the body or the query).
pub(super) fn bearer(headers: &HeaderMap) -> Result<&str, AuthError> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = match (values.next(), values.next()) {
        (Some(one), None) => one.to_str().map_err(|_| AuthError::TokenInvalid)?,
        (None, _) => return Err(AuthError::TokenRequired),
        (Some(_), Some(_)) => return Err(AuthError::TokenInvalid),
    };
    match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(token.trim()),
        _ => Err(AuthError::TokenRequired),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::access::{Grants, Role};
    use crate::domain::ids::OperatorId;

    fn operator(action: Action) -> Operator {
        let grants = Grants { everywhere: None, fleets: [(fleet(1), Role::Viewer)].into() };
        let caller = OperatorCaller {
            id: OperatorId(uuid::Uuid::from_u128(9)),
            subject: "somebody".to_owned(),
            jti: uuid::Uuid::from_u128(9),
            grants: Arc::new(grants),
            expires_at: time::OffsetDateTime::UNIX_EPOCH,
        };
        Operator::new(caller, action)
    }

    fn fleet(n: u128) -> FleetId {
        FleetId(uuid::Uuid::from_u128(n))
    }

    #[test]
    fn the_declared_action_is_what_is_asked_for() {
        let slug = |judged: Result<(), ApiError>| judged.map_err(|error| error.slug());
        assert_eq!(slug(operator(Action::FleetRead).allow(fleet(1))), Ok(()));
        assert_eq!(slug(operator(Action::FleetSteer).allow(fleet(1))), Err(Slug::Forbidden));
        assert_eq!(slug(operator(Action::FleetSteer).allow(fleet(2))), Err(Slug::NotFound));
        assert_eq!(slug(operator(Action::FleetAdmin).allow_anywhere()), Err(Slug::Forbidden));
        assert_eq!(operator(Action::FleetRead).scope(), Some(vec![fleet(1)]));
    }

    #[test]
    fn whoever_did_not_ask_is_known() {
        let (reader, oneself) = (operator(Action::FleetRead), operator(Action::SelfRead));
        assert!(!reader.has_asked() && oneself.has_asked());
        let handlers = reader.clone();
        handlers.scope();
        assert!(reader.has_asked());
    }

    #[test]
    fn basic_credentials() {
        let of = |text: &str| {
            let headers = [(AUTHORIZATION, text.parse().unwrap())].into_iter().collect();
            basic(&headers).map(|Basic { user, password }| (user, password))
        };
        let pair = |user: &str, password: &str| Some((user.to_owned(), password.to_owned()));
        // RFC 7617, 2, and a password with a colon.
        assert_eq!(of("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="), pair("Aladdin", "open sesame"));
        assert_eq!(of("basic  YTpiOmM="), pair("a", "b:c"));
        assert_eq!(of("Basic Og=="), pair("", ""));
        for bad in ["Basic", "Basic ", "Basic YWJj", "Basic YTpi!", "Basic /zo=", "Bearer YTpi", "YTpi"] {
            assert_eq!(of(bad), None, "{bad}");
        }
        let mut twice = HeaderMap::new();
        twice.append(AUTHORIZATION, "Basic YTpi".parse().unwrap());
        twice.append(AUTHORIZATION, "Basic YTpi".parse().unwrap());
        assert!(basic(&twice).is_none());
    }

    #[test]
    fn bearer_tokens() {
        let of = |text: &str| {
            let headers = [(AUTHORIZATION, text.parse().unwrap())].into_iter().collect();
            bearer(&headers).map(str::to_owned).ok()
        };
        assert_eq!(of("Bearer abc"), Some("abc".to_owned()));
        assert_eq!(of("bearer  abc"), Some("abc".to_owned()));
        assert_eq!(of("Basic abc"), None);
        assert_eq!(of("Bearer"), None);
        let mut twice = HeaderMap::new();
        twice.append(AUTHORIZATION, "Bearer a".parse().unwrap());
        twice.append(AUTHORIZATION, "Bearer b".parse().unwrap());
        assert!(matches!(bearer(&twice), Err(AuthError::TokenInvalid)));
    }
}
