//! What the handlers of each listener work with.

use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;

use crate::admission::Admission;
use crate::domain::ids::ReplicaId;
use crate::domain::random::Random;
use crate::domain::time::Clock;
use crate::identity::Identity;
use crate::ingest::Ingest;
use crate::lifecycle::readiness::Readiness;
use crate::presence::Presence;
use crate::presence::detector::Limits;
use crate::store::{ControlStore, FleetStore};

/// Bounds of a request.
#[derive(Clone, Debug)]
pub struct HttpSettings {
    /// Of a request's body, where the route has no limit of its own. Too small: a CSR with its attributes does not
    /// fit. Too large: callers without a certificate may make us hold that much each.
    pub body_max_bytes: usize,
    /// From the end of the header section to the body's end. Too short: a full batch over a slow radio link never
    /// arrives. Too long: slow senders hold their slots.
    pub body_deadline: Duration,
    /// How long a request for readings waits for its commit; then its outcome is unknown. Too short: a failover makes
    /// every device send again. Too long: devices give up first, and hold connections meanwhile.
    pub submit_deadline: Duration,
}

/// The device listener. `drill`: answers say that they come from this replica, and how far it had read the change log.
#[derive(Clone)]
pub struct DeviceApi {
    pub identity: Identity,
    pub admission: Admission,
    pub ingest: Ingest,
    pub presence: Presence,
    pub clock: Clock,
    pub random: Random,
    pub settings: Arc<HttpSettings>,
    pub drill: Option<ReplicaId>,
}

/// The admin listener. `drill` as for devices.
#[derive(Clone)]
pub struct AdminApi {
    pub identity: Identity,
    pub admission: Admission,
    pub store: ControlStore,
    pub fleet: FleetStore,
    pub clock: Clock,
    pub random: Random,
    pub settings: Arc<HttpSettings>,
    pub drill: Option<ReplicaId>,
    /// The sweep's, for whoever asks why a device is offline.
    pub limits: Limits,
}

/// The ops listener.
#[derive(Clone)]
pub struct OpsApi {
    pub readiness: Readiness,
    pub metrics: PrometheusHandle,
    pub clock: Clock,
    pub random: Random,
    pub settings: Arc<HttpSettings>,
}

/// What frame and guard need, whichever listener they stand at. What a listener does not have, its routes cannot ask
/// for: the guard fails closed.
#[derive(Clone)]
pub(super) struct Shared {
    pub identity: Option<Identity>,
    pub presence: Option<Presence>,
    /// The ops listener has none: probes and scrapers are few, and have to be answered.
    pub admission: Option<Admission>,
    /// Of a body of readings, before and after decompression.
    pub readings_max_bytes: usize,
    pub clock: Clock,
    pub random: Random,
    pub settings: Arc<HttpSettings>,
    pub drill: Option<ReplicaId>,
}

impl From<&DeviceApi> for Shared {
    fn from(api: &DeviceApi) -> Self {
        Self {
            identity: Some(api.identity.clone()),
            presence: Some(api.presence.clone()),
            admission: Some(api.admission.clone()),
            readings_max_bytes: api.ingest.limits().body_max_bytes,
            clock: api.clock.clone(),
            random: api.random.clone(),
            settings: api.settings.clone(),
            drill: api.drill,
        }
    }
}

impl From<&AdminApi> for Shared {
    fn from(api: &AdminApi) -> Self {
        Self {
            identity: Some(api.identity.clone()),
            presence: None,
            admission: Some(api.admission.clone()),
            readings_max_bytes: api.settings.body_max_bytes,
            clock: api.clock.clone(),
            random: api.random.clone(),
            settings: api.settings.clone(),
            drill: api.drill,
        }
    }
}

impl From<&OpsApi> for Shared {
    fn from(api: &OpsApi) -> Self {
        Self {
            identity: None,
            presence: None,
            admission: None,
            readings_max_bytes: api.settings.body_max_bytes,
            clock: api.clock.clone(),
            random: api.random.clone(),
            settings: api.settings.clone(),
            drill: None,
        }
    }
}
