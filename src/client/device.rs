//! A device's calls. Each brings what it needs: the certificate is renewed when it is time, the token before it ends,
//! and a refusal that a fresh token or certificate cures is cured once.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use secrecy::ExposeSecret;
use tokio::sync::Mutex;

use super::authorize::Session;
use super::enroll::{self, Enrollment};
use super::error::ClientError;
use super::exchange::{Answer, Call};
use super::readings::Batch;
use super::settings::Context;
use super::state::{Identity, StateDir, StateError};
use crate::domain::time::Boottime;
use crate::wire::device::{DeviceRef, GoodbyeRequest, HeartbeatAnswer, HeartbeatRequest, Me, ReadingsAnswer};
use crate::wire::problem::Slug;

/// After a renewal that failed, the next attempt comes between a half and the whole of this later.
const RENEW_AGAIN: Duration = Duration::from_mins(2);

/// Clones share one session.
#[derive(Clone)]
pub struct DeviceClient(Arc<Inner>);

struct Inner {
    context: Context,
    state: StateDir,
    session: ArcSwap<Session>,
    /// No renewal before this; held while one is under way.
    renewal: Mutex<Option<Boottime>>,
}

impl DeviceClient {
    /// Enrolls a device; its identity is on disk when this returns. Calling it again after a success, a kill or a lost
    /// answer gives the same device.
    pub async fn enroll(state: StateDir, asked: &Enrollment, context: Context) -> Result<Self, ClientError> {
        let identity = enroll::enroll(&context, &state, asked).await?;
        Self::with(state, identity, context)
    }

    /// The device that lives in the directory. `urls`: endpoints beside those that it knows, for when all have moved.
    pub fn open(state: StateDir, urls: &[String], context: Context) -> Result<Self, ClientError> {
        let found = state.load()?;
        let mut identity = found.ok_or_else(|| StateError::Empty { path: state.path().to_owned() })?;
        identity.record.endpoints.splice(..0, urls.iter().cloned());
        Self::with(state, identity, context)
    }

    fn with(state: StateDir, identity: Identity, context: Context) -> Result<Self, ClientError> {
        let session = Session::new(context.clone(), identity, None)?;
        let session = ArcSwap::from_pointee(session);
        Ok(Self(Arc::new(Inner { context, state, session, renewal: Mutex::new(None) })))
    }

    pub fn device(&self) -> DeviceRef {
        self.0.session.load().identity.record.device.clone()
    }

    pub fn state(&self) -> &StateDir {
        &self.0.state
    }

    pub fn endpoints(&self) -> Vec<String> {
        self.0.session.load().http.endpoints().urls().to_vec()
    }

    /// `POST /v1/heartbeat`. `next_in_s` is within a second and 30 days.
    pub async fn heartbeat(&self, request: &HeartbeatRequest) -> Result<HeartbeatAnswer, ClientError> {
        let answer = self.send(Call::post_json("/v1/heartbeat", request)?).await?;
        let mut beat: HeartbeatAnswer = answer.json()?;
        if !beat.next_in_s.is_finite() {
            return Err(answer.unexpected("next_in_s that is not a number"));
        }
        beat.next_in_s = beat.next_in_s.clamp(1.0, 2_592_000.0);
        Ok(beat)
    }

    /// `POST /v1/readings`. The answer accounts for each reading: stored, duplicate or rejected.
    pub async fn readings(&self, batch: &Batch) -> Result<ReadingsAnswer, ClientError> {
        let answer = self.send(batch.call()).await?;
        let outcome: ReadingsAnswer = answer.json()?;
        let sum = outcome.stored.checked_add(outcome.duplicates).and_then(|n| n.checked_add(outcome.rejected_total));
        if sum != Some(batch.count()) {
            return Err(answer.unexpected(format!("{outcome:?} for a batch of {}", batch.count())));
        }
        Ok(outcome)
    }

    /// `POST /v1/goodbye`
    pub async fn goodbye(&self, request: &GoodbyeRequest) -> Result<(), ClientError> {
        self.send(Call::post_json("/v1/goodbye", request)?).await.map(drop)
    }

    /// `GET /v1/me`
    pub async fn me(&self) -> Result<Me, ClientError> {
        self.send(Call::get("/v1/me")).await?.json()
    }

    /// Asks for the next certificate now. False: another process is doing so.
    pub async fn renew(&self) -> Result<bool, ClientError> {
        let session = self.0.session.load_full();
        let mut not_before = self.0.renewal.lock().await;
        self.renew_held(&session, &mut not_before).await
    }

    async fn renew_held(&self, old: &Session, not_before: &mut Option<Boottime>) -> Result<bool, ClientError> {
        let now = self.0.session.load_full();
        if now.identity.certificate_pem != old.identity.certificate_pem {
            return Ok(true); // another caller was faster
        }
        let later = self.0.context.random.scale(RENEW_AGAIN, 0.5, 1.0);
        *not_before = Some(self.0.context.clock.boottime().plus(later));
        let Some(identity) = enroll::renew(&now.http, &self.0.state, &now.identity).await? else {
            return Ok(false);
        };
        let fresh = Session::new(self.0.context.clone(), identity, Some(&now.http))?;
        tracing::info!(device = %fresh.identity.record.device.name, "the certificate was renewed");
        self.0.session.store(Arc::new(fresh));
        *not_before = None;
        Ok(true)
    }

    /// Renews when it is time. A failure is no failure of the call: the present certificate goes on to its end, and
    /// after that the call's own refusal says so.
    async fn renew_if_due(&self) {
        let session = self.0.session.load_full();
        if self.0.context.clock.wall() < session.renew_at {
            return;
        }
        // Whoever finds it under way goes on with what there is.
        let Ok(mut not_before) = self.0.renewal.try_lock() else { return };
        if not_before.is_some_and(|at| self.0.context.clock.boottime() < at) {
            return;
        }
        if let Err(error) = self.renew_held(&session, &mut not_before).await {
            tracing::warn!(device = %session.identity.record.device.name, %error, "the certificate was not renewed");
        }
    }

    async fn send(&self, call: Call) -> Result<Answer, ClientError> {
        self.renew_if_due().await;
        let (mut fresh_token, mut fresh_certificate) = (false, false);
        loop {
            let session = self.0.session.load_full();
            let (error, token) = match session.token().await {
                Err(error) => (error, None),
                Ok(token) => match session.http.send(&call.clone().bearer(token.expose_secret())?).await {
                    Ok(answer) => return Ok(answer),
                    Err(error) => (error, Some(token)),
                },
            };
            match (error.slug(), token) {
                (Some(Slug::TokenExpired | Slug::TokenInvalid | Slug::TokenMismatch), Some(token)) if !fresh_token => {
                    fresh_token = true;
                    session.forget_token(&token).await;
                }
                // Our clock is behind, or we slept: an expired certificate may still be renewed for a while.
                (Some(Slug::CertificateExpired), _) if !fresh_certificate => {
                    fresh_certificate = true;
                    let mut not_before = self.0.renewal.lock().await;
                    if !self.renew_held(&session, &mut not_before).await? {
                        return Err(error);
                    }
                }
                _ => return Err(error),
            }
        }
    }
}
