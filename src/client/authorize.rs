//! A device's session: one identity, the connections made with it, and the access token bound to it (RFC 8705).
//! A renewed certificate begins a new session, so that token and certificate can never be of two.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use secrecy::{ExposeSecret, SecretString};
use time::OffsetDateTime;
use tokio::sync::Mutex;

use super::endpoints::Endpoints;
use super::error::ClientError;
use super::exchange::Http;
use super::settings::Context;
use super::state::Identity;
use super::transport::Call;
use super::trust::Trust;
use crate::domain::time::Boottime;
use crate::wire::device::TokenAnswer;

/// A token is fetched anew after this share of its life, and no two devices of a fleet at the same moment.
const REFRESH_FROM: f64 = 0.7;
const REFRESH_UNTIL: f64 = 0.9;
/// A certificate is renewed after `renew_after` and up to this share of what is left of its life, for the same reason.
const RENEW_SPREAD: f64 = 0.2;

pub(super) struct Session {
    context: Context,
    pub http: Http,
    pub identity: Identity,
    /// When this device asks for the next certificate.
    pub renew_at: OffsetDateTime,
    token: Mutex<Option<Token>>,
}

#[derive(Clone)]
struct Token {
    text: SecretString,
    refresh_at: Boottime,
    ends_at: Boottime,
}

impl Session {
    /// `previous`: the client whose budget goes on, and whose endpoint, if it is still one.
    pub fn new(context: Context, identity: Identity, previous: Option<&Http>) -> Result<Self, ClientError> {
        let trust = Trust::from_pem(&identity.ca_pem)?;
        let tls = trust.as_device(&identity.certificate_pem, identity.key_pem.expose_secret())?;
        let record = &identity.record;
        let endpoints = Arc::new(Endpoints::new(&record.endpoints, &context.random)?);
        let http = match previous {
            Some(http) => http.with_tls(tls, endpoints),
            None => Http::new(context.clone(), tls, endpoints),
        };
        let left = Duration::try_from(record.not_after - record.renew_after).unwrap_or_default();
        let renew_at = record.renew_after + context.random.scale(left, 0.0, RENEW_SPREAD);
        Ok(Self { context, http, identity, renew_at, token: Mutex::new(None) })
    }

    /// A token that is good for a while. A single caller fetches it, the others wait. When the service cannot give a
    /// new one now, the old one is used to its end.
    pub async fn token(&self) -> Result<SecretString, ClientError> {
        let mut slot = self.token.lock().await;
        let now = self.context.clock.boottime();
        if let Some(token) = slot.as_ref().filter(|token| now < token.refresh_at) {
            return Ok(token.text.clone());
        }
        match self.fetch_token().await {
            Ok(token) => Ok(slot.insert(token).text.clone()),
            Err(error) if error.is_retryable() => {
                let old = slot.as_ref().filter(|token| self.context.clock.boottime() < token.ends_at);
                old.map(|token| token.text.clone()).ok_or(error)
            }
            Err(error) => Err(error),
        }
    }

    /// The service does not take this token: fetch another one next time.
    pub async fn forget_token(&self, refused: &SecretString) {
        let mut slot = self.token.lock().await;
        if slot.as_ref().is_some_and(|token| token.text.expose_secret() == refused.expose_secret()) {
            *slot = None;
        }
    }

    async fn fetch_token(&self) -> Result<Token, ClientError> {
        // Its life is counted from before the request: at worst we fetch too early.
        let now = self.context.clock.boottime();
        let call = Call {
            content_type: Some("application/x-www-form-urlencoded"),
            ..Call::post("/v1/token", Bytes::from_static(b"grant_type=client_credentials"))
        };
        let answer = self.http.send(&call).await?;
        let token: TokenAnswer = answer.json()?;
        if !token.token_type.eq_ignore_ascii_case("bearer") || token.access_token.is_empty() {
            return Err(answer.unexpected("a token that is not a bearer token"));
        }
        let life = Duration::from_secs(token.expires_in);
        let refresh = self.context.random.scale(life, REFRESH_FROM, REFRESH_UNTIL);
        Ok(Token { text: token.access_token.into(), refresh_at: now.plus(refresh), ends_at: now.plus(life) })
    }
}
