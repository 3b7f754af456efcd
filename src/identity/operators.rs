//! Tokens that operators make or are given: access tokens for people and services, enrollment tokens for devices.

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use uuid::Uuid;

use super::enroll::new_id;
use super::error::keyless;
use super::jwt::TokenKeys;
use super::{Identity, enrollment_token};
use crate::domain::access::Grants;
use crate::domain::ids::{FleetId, OperatorId};
use crate::domain::name::NamePattern;
use crate::domain::time::Clock;
use crate::store::changes::{ChangeError, ChangeLog};
use crate::store::enrollment::{self, NewToken, TokenFilter, TokenRow};
use crate::store::idempotency::{Made, Once};
use crate::store::operators::{self, NewOperatorToken, Subject};

/// For whom a token is minted, and for how long.
#[derive(Clone, Debug)]
pub struct Mint {
    /// 1 to 200 characters.
    pub subject: String,
    /// Replaces all roles of the operator; `None`: they stay (a new operator has none).
    pub grants: Option<Grants>,
    pub ttl: Duration,
}

/// A token for an operator. `text` is a secret, shown once.
#[derive(Clone)]
pub struct Minted {
    pub text: String,
    pub jti: Uuid,
    pub operator: OperatorId,
    pub expires_at: OffsetDateTime,
}

/// Makes or updates the operator, and records the token's `jti`: a token that is not recorded is not accepted.
pub async fn mint(log: &ChangeLog, keys: TokenKeys, clock: &Clock, mint: Mint) -> Result<Minted, ChangeError> {
    let length = mint.subject.chars().count();
    if length == 0 || length > 200 || mint.subject.chars().any(char::is_control) {
        return Err(ChangeError::Conflict("a subject is 1 to 200 characters, none of them a control character"));
    }
    let (now, ttl) = (clock.wall(), mint.ttl);
    let sign = move |operator, session_version| sign(&keys, operator, session_version, (now, ttl));
    let subject = Subject { fresh_id: OperatorId(new_id(clock)), subject: mint.subject, grants: mint.grants };
    let (operator, token) = operators::mint(log, subject, Arc::new(sign)).await?;
    Ok(Minted { text: token.signed, jti: token.jti, operator, expires_at: token.expires_at })
}

fn sign(
    keys: &TokenKeys,
    operator: OperatorId,
    session_version: i32,
    (now, ttl): (OffsetDateTime, Duration),
) -> Result<NewOperatorToken<String>, String> {
    let token = keys.operator_token(operator, session_version, now, ttl).map_err(|error| error.to_string())?;
    let [_, key] = keys.public();
    Ok(NewOperatorToken { jti: token.jti, kid: key.kid, expires_at: token.expires_at, signed: token.text })
}

/// What an enrollment token is for.
#[derive(Clone, Debug)]
pub struct EnrollmentTokenRequest {
    pub fleet: FleetId,
    /// `None`: any name.
    pub name_pattern: Option<NamePattern>,
    /// 1 to 1,000,000.
    pub uses_max: i32,
    pub expires_in: Duration,
    /// The operator's subject.
    pub by: String,
}

/// Makes an enrollment token; `pki`: whose CA is pinned in it. The text is a secret, shown once.
pub async fn create_enrollment_token(
    log: &ChangeLog,
    pki: &super::pki::Pki,
    clock: &Clock,
    request: EnrollmentTokenRequest,
) -> Result<(TokenRow, String), ChangeError> {
    let (row, text) = create_once(log, (pki, clock), request, None).await?;
    // Without a key nothing is repeated.
    Ok((row, text.ok_or(ChangeError::NotFound)?))
}

/// The text is missing when `once` repeats an earlier request.
async fn create_once(
    log: &ChangeLog,
    (pki, clock): (&super::pki::Pki, &Clock),
    request: EnrollmentTokenRequest,
    once: Option<Once>,
) -> Result<(TokenRow, Option<String>), ChangeError> {
    let unlucky = |_| ChangeError::Conflict("no randomness for a secret");
    let token = enrollment_token::generate(pki.pin).map_err(unlucky)?;
    let new = NewToken {
        id: token.id().to_owned(),
        secret_sha256: token.secret_sha256(),
        fleet: request.fleet,
        name_pattern: request.name_pattern,
        uses_max: request.uses_max,
        expires_at: clock.wall() + request.expires_in,
        created_by: request.by,
    };
    let (id, text) = match enrollment::create(log, new, once).await? {
        Made::Now(id) => (id, Some(token.to_string())),
        Made::Before(id) => (id, None),
    };
    let filter = TokenFilter { id: Some(id), ..TokenFilter::default() };
    let row = enrollment::list(log.control(), filter, 1).await?.pop().ok_or(ChangeError::NotFound)?;
    Ok((row, text))
}

impl Identity {
    /// [`create_enrollment_token`], with what this replica has.
    pub async fn create_enrollment_token(
        &self,
        request: EnrollmentTokenRequest,
    ) -> Result<(TokenRow, String), ChangeError> {
        create_enrollment_token(&self.0.log, &self.0.pki, &self.0.clock, request).await
    }

    /// The same for a request that may carry an idempotency key; the text is missing when it is a repetition.
    pub async fn create_enrollment_token_once(
        &self,
        request: EnrollmentTokenRequest,
        once: Option<Once>,
    ) -> Result<(TokenRow, Option<String>), ChangeError> {
        create_once(&self.0.log, (&self.0.pki, &self.0.clock), request, once).await
    }

    /// [`mint`], with what this replica has.
    pub async fn mint(&self, request: Mint) -> Result<Minted, ChangeError> {
        let keys = self.0.keyring.ring().tokens.clone().ok_or_else(|| keyless("token_key"))?;
        mint(&self.0.log, keys, &self.0.clock, request).await
    }
}
