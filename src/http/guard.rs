//! Between the frame and the handler: what can be refused without reading the body is refused here, the cheapest
//! first, and the permission of the route becomes a proof. For want of room ([`enter`]) the frame refuses itself, before
//! it does anything else.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::Request;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::accept;
use super::authn::{Operator, WithCert, WithCertAndToken, WithOldCert, bearer};
use super::body::{Bounds, Reading, check_declared};
use super::dialect::Dialect;
use super::error::{self, ApiError, raised};
use super::frame::Row;
use super::route::Permission;
use super::{form, quota};
use crate::admission::{Admission, Permit, Refused, Sender, Spent, Waiting};
use crate::identity::{AuthError, Denied, DeviceCaller, Identity, OperatorCaller};
use crate::net::{ConnInfo, Peer, Rejection};
use crate::observe::admission::Attempt;
use crate::observe::net::Port;
use crate::presence::Contact;
use crate::wire::problem::{FieldError, Slug};

/// Lets a request of this route pass, or says why not. `permit`: held until there is an answer, but while a slow body is
/// waited for.
pub(super) async fn guard(row: Arc<Row>, permit: Option<Permit>, request: Request, next: Next) -> Response {
    let turn = Arc::new(Turn { row, permit: Mutex::new(permit) });
    let response = admit(&turn, request, next).await.unwrap_or_else(IntoResponse::into_response);
    turn.leave();
    response
}

/// A request's place in its class. Among the extensions of a request that may have a body.
pub(super) struct Turn {
    row: Arc<Row>,
    /// `None`: outside.
    permit: Mutex<Option<Permit>>,
}

impl Turn {
    /// Out of the class, to wait for a body.
    pub(super) fn step_out(&self, sender: Option<Sender>) -> Result<Option<Waiting>, ApiError> {
        self.leave();
        let waiting = self.row.shared.admission.as_ref().zip(sender).map(|(admission, sender)| {
            admission.wait(self.row.info.class, sender).map_err(|refused| shed(&self.row, refused))
        });
        waiting.transpose()
    }

    /// In again. There may be no room any more.
    pub(super) fn step_in(&self) -> Result<(), ApiError> {
        let row = &*self.row;
        let again = |admission: &Admission| admission.enter_again(row.info.class).map_err(|refused| shed(row, refused));
        *self.place() = row.shared.admission.as_ref().map(again).transpose()?;
        Ok(())
    }

    fn leave(&self) {
        let permit = self.place().take();
        drop(permit);
    }

    fn place(&self) -> MutexGuard<'_, Option<Permit>> {
        self.permit.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who sends the body: the device, once its certificate was found good.
fn sender(parts: &Parts) -> Option<Sender> {
    let with_token = parts.extensions.get::<WithCertAndToken>().map(|WithCertAndToken(caller)| caller);
    let caller = with_token.or_else(|| parts.extensions.get::<WithCert>().map(|WithCert(caller)| caller));
    caller.map(|caller| Sender::Device(caller.device.id)).or_else(|| address(parts).map(Sender::at))
}

async fn admit(turn: &Arc<Turn>, request: Request, next: Next) -> Result<Response, ApiError> {
    let row = &*turn.row;
    let (mut parts, body) = request.into_parts();
    // Probes and scrapers send what they like, and have to be answered.
    let refused = |media: &&'static str| row.info.port != Port::Ops && !accept::takes(&parts.headers, media);
    if let Some(media) = row.info.produces().filter(refused) {
        return Err(ApiError::because(Slug::NotAcceptable, format!("The answer is {media}.")));
    }
    let bounds = bounds(row);
    check_declared(&parts.headers, bounds)?;
    if row.info.takes_readings {
        let patience = patience(row, &parts)?;
        parts.extensions.insert(patience);
    }
    let mut spent = Spent::default();
    let operator = authenticate(row, &mut parts, &mut spent).await?;
    known_query(row, &parts)?;
    parts.extensions.insert(Reading { bounds, sender: sender(&parts), turn: turn.clone() });
    let from = address(&parts);
    // Clients of HTTP Basic ask without it first (RFC 7235, 2.1): who has not tried has not failed.
    let has_tried = row.info.dialect != Dialect::Est || parts.headers.contains_key(AUTHORIZATION);
    let mut response = next.run(Request::from_parts(parts, body)).await;
    // Identity judges the token, wherever the route has it from.
    let is_refused = raised(&response) == Some(Slug::EnrollmentTokenInvalid);
    if row.info.permission == Permission::EnrollmentToken && is_refused && has_tried {
        failed(row, Attempt::Enrollment, from);
    }
    if let (Some(admission), Some(limit)) = (row.shared.admission.as_ref(), error::full(&response)) {
        return Err(shed(row, admission.queue_full(row.info.class, limit)));
    }
    if response.status().is_success() && operator.is_some_and(|operator| !operator.has_asked()) {
        return Err(ApiError::internal("a handler succeeded without asking whether its operator may"));
    }
    response.headers_mut().extend(quota::left(&spent));
    Ok(response)
}

/// How long the caller waits for its answer.
#[derive(Clone, Copy, Debug)]
pub struct Patience(pub Duration);

const DEADLINE: HeaderName = HeaderName::from_static("x-request-deadline-ms");

/// May one more request of this route be under way?
pub(super) fn enter(row: &Row) -> Result<Option<Permit>, Refused> {
    let Some(admission) = row.shared.admission.as_ref() else { return Ok(None) };
    admission.enter(row.info.class).map(Some).inspect_err(|refused| note(row, *refused))
}

/// What the header says, if that can be read.
pub(super) fn stated_patience(headers: &HeaderMap) -> Option<Duration> {
    headers.get(DEADLINE)?.to_str().ok()?.parse().ok().map(Duration::from_millis)
}

fn shed(row: &Row, refused: Refused) -> ApiError {
    note(row, refused);
    let error = ApiError::from(refused);
    match row.refusals.get(refused) {
        Some(refusal) => error.beforehand(refusal.clone()),
        None => error,
    }
}

/// A caller of ours that is sent away did nothing wrong: its silence does not count.
fn note(row: &Row, refused: Refused) {
    // Who finds a queue full was heard before.
    let is_ours = matches!(
        refused,
        Refused::Full { .. } | Refused::Database { .. } | Refused::TooLate { .. } | Refused::AllBodies { .. }
    );
    if let Some(presence) = row.shared.presence.as_ref().filter(|_| is_ours) {
        presence.shed();
    }
}

/// What the header says, within our own deadline. A request that cannot be answered in time is not begun.
fn patience(row: &Row, parts: &Parts) -> Result<Patience, ApiError> {
    let own = row.shared.settings.submit_deadline;
    if !parts.headers.contains_key(DEADLINE) {
        return Ok(Patience(own));
    }
    let stated = stated_patience(&parts.headers).filter(|span| !span.is_zero()).ok_or_else(|| {
        ApiError::because(Slug::Malformed, "X-Request-Deadline-Ms is a whole number of milliseconds, at least 1.")
    })?;
    if let Some(admission) = row.shared.admission.as_ref() {
        admission.in_time(row.info.class, stated).map_err(|refused| shed(row, refused))?;
    }
    Ok(Patience(stated.min(own)))
}

/// A parameter that the route does not have is a mistake that the caller should hear of, as is one given twice. Callers
/// are known by now: whoever sends a token in the query is told first that it does not count there.
fn known_query(row: &Row, parts: &Parts) -> Result<(), ApiError> {
    let Some(query) = parts.uri.query().filter(|_| row.info.port != Port::Ops) else {
        return Ok(());
    };
    // Where secrets are sent, no input is repeated: not even the name of a parameter.
    let pointer = |name: &str| if row.info.has_secrets { "?".to_owned() } else { format!("?{name}") };
    let pairs = form::pairs(query.as_bytes()).map_err(|bad| ApiError::field(pointer(&bad.name), bad.detail))?;
    let unknown = pairs.iter().filter(|(name, _)| row.info.query.iter().all(|parameter| parameter.name != *name));
    let error =
        |name: &str| FieldError { pointer: pointer(name), detail: "this route has no such parameter".to_owned() };
    let errors: Vec<FieldError> = unknown.map(|(name, _)| error(name)).collect();
    if errors.is_empty() { Ok(()) } else { Err(ApiError::fields(errors)) }
}

fn bounds(row: &Row) -> Bounds {
    let settings = &row.shared.settings;
    let max_bytes = if row.info.takes_readings { row.shared.readings_max_bytes } else { settings.body_max_bytes };
    Bounds { max_bytes, deadline: settings.body_deadline }
}

/// Puts the proof that the permission stands for among the request's extensions; an operator's is also returned.
async fn authenticate(row: &Row, parts: &mut Parts, spent: &mut Spent) -> Result<Option<Operator>, ApiError> {
    match row.info.permission {
        Permission::Public => {}
        // The token of an enrollment is for its handler to find; identity checks it before anything else.
        Permission::EnrollmentToken => may_try(row, address(parts))?,
        Permission::Cert => {
            let caller = device(row, parts, spent, false).await?;
            parts.extensions.insert(WithCert(caller));
        }
        Permission::CertAndToken => {
            let caller = device(row, parts, spent, true).await?;
            parts.extensions.insert(WithCertAndToken(caller));
        }
        Permission::CertMaybeExpired => {
            let connection = connection(parts)?;
            may_be_expired(&connection.peer)?;
            parts.extensions.insert(WithOldCert(connection));
        }
        Permission::Operator(action) => {
            let operator = Operator::new(operator(row, parts).await?, action);
            parts.extensions.insert(operator.clone());
            return Ok(Some(operator));
        }
    }
    Ok(None)
}

/// Whose token was verified here before is not asked how often others at the same address have failed.
async fn operator(row: &Row, parts: &Parts) -> Result<OperatorCaller, ApiError> {
    let (identity, bearer, from) = (identity(row)?, bearer(&parts.headers)?, address(parts));
    if !identity.has_verified(bearer).await {
        may_try(row, from)?;
    }
    let caller = identity.operator(bearer).await;
    if let Err(AuthError::TokenInvalid | AuthError::TokenExpired) = &caller {
        failed(row, Attempt::Operator, from);
    }
    Ok(caller?)
}

/// The caller's, where there is a connection.
fn address(parts: &Parts) -> Option<IpAddr> {
    parts.extensions.get::<Arc<ConnInfo>>().map(|connection| connection.remote.ip())
}

fn may_try(row: &Row, from: Option<IpAddr>) -> Result<(), ApiError> {
    match (row.shared.admission.as_ref(), from) {
        (Some(admission), Some(from)) => Ok(admission.may_try(row.info.class, from)?),
        _ => Ok(()),
    }
}

fn failed(row: &Row, attempt: Attempt, from: Option<IpAddr>) {
    if let (Some(admission), Some(from)) = (row.shared.admission.as_ref(), from) {
        admission.failures().failed(attempt, from);
    }
}

fn identity(row: &Row) -> Result<&Identity, ApiError> {
    row.shared.identity.as_ref().ok_or_else(|| ApiError::internal("this listener knows no callers"))
}

fn connection(parts: &Parts) -> Result<Arc<ConnInfo>, ApiError> {
    let connection = parts.extensions.get::<Arc<ConnInfo>>().cloned();
    connection.ok_or_else(|| ApiError::internal("a request without its connection"))
}

async fn device(row: &Row, parts: &Parts, spent: &mut Spent, with_token: bool) -> Result<Arc<DeviceCaller>, ApiError> {
    let (identity, connection) = (identity(row)?, connection(parts)?);
    let token = with_token.then(|| bearer(&parts.headers));
    let admit = |caller: &DeviceCaller| spend(row, caller).map(|left| *spent = left);
    let judged = judge(identity, &connection, token, row.info.may_be_blind, admit).await;
    if let Some(presence) = row.shared.presence.as_ref() {
        match &judged {
            Ok(caller) if row.info.is_contact => presence.touch(contact(caller)),
            // The device was here, and it is our fault that nobody noted it.
            Err(Denied::Auth(AuthError::Blind | AuthError::Store(_))) => presence.shed(),
            _ => {}
        }
    }
    if matches!(&judged, Err(Denied::Auth(error)) if error.blames_certificate()) {
        connection.outcast.make();
    }
    let caller = judged.map_err(|denied| match denied {
        Denied::Auth(error) => error.into(),
        Denied::Turned(error) => error,
    })?;
    connection.pace.begin(caller.device.heartbeat_interval_ms);
    Ok(caller)
}

/// One request of this device. Asked when its certificate is good, whatever else it has sent: who shows tokens that are
/// not has a rate, too.
fn spend(row: &Row, caller: &DeviceCaller) -> Result<Spent, ApiError> {
    let Some(admission) = row.shared.admission.as_ref() else { return Ok(Spent::default()) };
    admission.spend(row.info.class, caller.device.id, caller.device.fleet).map_err(|refused| {
        // It was here, with a good certificate: however often it or its fleet sends, it is not silent.
        // But for a goodbye, which may be the repetition of one that was stored.
        let is_sign_of_life = row.info.is_contact || row.info.may_be_blind;
        if let Some(presence) = row.shared.presence.as_ref().filter(|_| is_sign_of_life) {
            presence.touch(contact(caller));
        }
        let left = quota::refused(admission, refused);
        left.into_iter().fold(shed(row, refused), |error, (name, value)| match name {
            Some(name) => error.header(name, value),
            None => error,
        })
    })
}

/// `token`: what was sent, where the route asks for one. The certificate first: without one, a token says nothing.
async fn judge(
    identity: &Identity,
    connection: &ConnInfo,
    token: Option<Result<&str, AuthError>>,
    may_be_blind: bool,
    mut admit: impl FnMut(&DeviceCaller) -> Result<(), ApiError>,
) -> Result<Arc<DeviceCaller>, Denied<ApiError>> {
    let bearer = match token {
        Some(Ok(bearer)) => bearer,
        Some(Err(none)) => {
            match identity.device(connection).await {
                Ok(caller) => admit(&caller).map_err(Denied::Turned)?,
                Err(AuthError::Blind) if may_be_blind => {}
                Err(error) => return Err(error.into()),
            }
            return Err(none.into());
        }
        None => {
            let caller = identity.device(connection).await?;
            admit(&caller).map_err(Denied::Turned)?;
            return Ok(caller);
        }
    };
    match identity.device_with_token(connection, bearer, &mut admit).await {
        // A heartbeat is a sign of life, not a change: what was known when we last saw the log will do.
        Err(Denied::Auth(AuthError::Blind)) if may_be_blind => identity.device_cached(connection, bearer, admit).await,
        judged => judged,
    }
}

/// What presence hears of a request.
pub fn contact(caller: &DeviceCaller) -> Contact {
    Contact {
        device: caller.device.id,
        fingerprint: caller.certificate.fingerprint,
        interval_ms: caller.device.heartbeat_interval_ms,
        interval_max_ms: caller.device.heartbeat_interval_max_ms,
        requested_ms: None,
        heartbeat: false,
    }
}

/// Lets through what identity may still accept for a renewal, and says of the rest why not.
fn may_be_expired(peer: &Peer) -> Result<(), AuthError> {
    match peer {
        Peer::Verified(_) | Peer::Rejected(Rejection::Expired, Some(_)) => Ok(()),
        Peer::None => Err(AuthError::CertificateRequired),
        Peer::Rejected(Rejection::Expired, None) => Err(AuthError::CertificateExpired),
        Peer::Rejected(Rejection::NotYetValid, _) => Err(AuthError::CertificateNotYetValid),
        Peer::Rejected(Rejection::UntrustedIssuer | Rejection::WrongUse | Rejection::Malformed, _) => {
            Err(AuthError::CertificateUntrusted)
        }
    }
}
