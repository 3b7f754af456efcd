//! How a device comes to its identity, and to the next one.

use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};

use super::endpoints::{self, Endpoints};
use super::error::ClientError;
use super::exchange::{Answer, Call, Http};
use super::keys;
use super::settings::Context;
use super::state::{DeviceFile, Identity, Lock, StateDir, StateError};
use super::trust::{self, Trust};
use crate::domain::enrollment::EnrollmentToken;
use crate::domain::name::Name;
use crate::wire::device::{EnrollAnswer, EnrollRequest, RenewRequest};
use crate::wire::problem::Slug;

/// More are not kept: a service that moves often would fill the list.
const ENDPOINTS_MAX: usize = 16;

/// What an operator gave the device.
#[derive(Clone)]
pub struct Enrollment {
    /// Base URLs of the device listener.
    pub urls: Vec<String>,
    pub name: Name,
    pub token: EnrollmentToken,
    /// The CA bundle (PEM), if it was handed over by other means; otherwise it is fetched, and judged by the pin.
    pub ca_pem: Option<String>,
    pub tags: Vec<String>,
}

/// Enrolls a device in an empty directory. If a device of this name lives there already, that is the answer: a first
/// attempt may have been killed after it succeeded.
pub(super) async fn enroll(context: &Context, state: &StateDir, asked: &Enrollment) -> Result<Identity, ClientError> {
    let lock = state.lock()?;
    if let Some(identity) = state.load()? {
        let name = identity.record.device.name.clone();
        let same = name == asked.name.as_str();
        return if same { Ok(identity) } else { Err(StateError::Occupied { path: state.path().into(), name }.into()) };
    }
    let endpoints = Arc::new(Endpoints::new(&asked.urls, &context.random)?);
    let trust = match &asked.ca_pem {
        Some(bundle) => Trust::from_pem(bundle)?,
        None => fetch_trust(context, &endpoints, asked).await?,
    };
    let key_pem = state.pending_key(&lock)?;
    let request = EnrollRequest {
        token: asked.token.to_string(),
        name: asked.name.to_string(),
        csr: keys::signing_request(&key_pem, asked.name.as_str())?,
        tags: asked.tags.clone(),
        attributes: None,
    };
    let http = Http::new(context.clone(), trust.anonymous()?, endpoints);
    let answer = http.send(&Call::post_json("/v1/enroll", &request)?).await?;
    let identity = identity(&answer, key_pem, http.endpoints().urls())?;
    if identity.record.device.name != asked.name.as_str() {
        return Err(answer.unexpected("a certificate for another device"));
    }
    commit(state, &identity, lock).await?;
    Ok(identity)
}

/// The next certificate, with a new key. `http` is a client with the present identity. `None`: another process is
/// asking, or has put a newer identity on disk, which then is the answer.
pub(super) async fn renew(http: &Http, state: &StateDir, now: &Identity) -> Result<Option<Identity>, ClientError> {
    let lock = match state.lock() {
        Err(StateError::Locked { .. }) => return Ok(None),
        other => other?,
    };
    if let Some(newer) = state.load()?.filter(|disk| disk.certificate_pem != now.certificate_pem) {
        return Ok(Some(newer));
    }
    let key_pem = state.pending_key(&lock)?;
    let csr = keys::signing_request(&key_pem, &now.record.device.name)?;
    let answer = match http.send(&Call::post_json("/v1/renew", &RenewRequest { csr })?).await {
        Err(error) if matches!(error.slug(), Some(Slug::KeyTaken | Slug::BadCsr)) => {
            // This key will never be certified: the next attempt makes another.
            state.drop_pending_key(&lock)?;
            return Err(error);
        }
        other => other?,
    };
    let identity = identity(&answer, key_pem, &now.record.endpoints)?;
    if identity.record.device.id != now.record.device.id {
        return Err(answer.unexpected("a certificate for another device"));
    }
    commit(state, &identity, lock).await?;
    Ok(Some(identity))
}

/// The files are synced, which may take a while: off the runtime's threads.
async fn commit(state: &StateDir, identity: &Identity, lock: Lock) -> Result<(), ClientError> {
    let (state, identity) = (state.clone(), identity.clone());
    let work = tokio::task::spawn_blocking(move || state.commit(&identity, &lock));
    work.await.map_err(|error| ClientError::Crypto(format!("the identity was not written: {error}")))??;
    Ok(())
}

/// Fetches the CA bundle from a server that nobody vouches for yet, and keeps of it what the token's pin vouches for.
async fn fetch_trust(context: &Context, endpoints: &Arc<Endpoints>, asked: &Enrollment) -> Result<Trust, ClientError> {
    let http = Http::new(context.clone(), trust::unverified()?, endpoints.clone());
    let answer = http.send(&Call::get("/v1/ca")).await?;
    let bundle = std::str::from_utf8(&answer.body).map_err(|_| answer.unexpected("a CA bundle that is not text"))?;
    let pinned = Trust::pinned(bundle, asked.token.pin()).map_err(|error| answer.unexpected(error.to_string()))?;
    pinned.ok_or(ClientError::WrongPin { endpoint: answer.endpoint })
}

/// Reads the answer of enrollment or renewal; refuses what would not work. `known`: endpoints that work today.
fn identity(answer: &Answer, key_pem: SecretString, known: &[String]) -> Result<Identity, ClientError> {
    let fields: EnrollAnswer = answer.json()?;
    let refuse = |error: ClientError| answer.unexpected(error.to_string());
    if !keys::certifies(&fields.certificate, &key_pem).map_err(refuse)? {
        return Err(answer.unexpected("a certificate for another key"));
    }
    let trust = Trust::from_pem(&fields.ca).map_err(refuse)?;
    trust.as_device(&fields.certificate, key_pem.expose_secret()).map_err(refuse)?;
    let record = DeviceFile {
        device: fields.device,
        endpoints: merge_endpoints(&fields.endpoints, known),
        not_after: fields.not_after,
        renew_after: fields.renew_after.min(fields.not_after),
    };
    Ok(Identity { record, key_pem, certificate_pem: fields.certificate, ca_pem: fields.ca })
}

/// Those that the service names, then those that we came by: the former may not be reachable from here. What is no
/// endpoint is left out.
fn merge_endpoints(named: &[String], known: &[String]) -> Vec<String> {
    let mut merged: Vec<String> = Vec::new();
    for url in named.iter().chain(known).filter_map(|url| endpoints::base_url(url).ok()) {
        if merged.len() < ENDPOINTS_MAX && !merged.contains(&url) {
            merged.push(url);
        }
    }
    merged
}
