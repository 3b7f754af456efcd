//! The composition root: settings become pools, tasks, routers and listeners. The only file that knows everything;
//! the configuration is not kept after the wiring.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use uuid::Uuid;

use crate::admission::Admission;
use crate::config::Settings;
use crate::domain::database_clock::DatabaseClock;
use crate::domain::ids::ReplicaId;
use crate::domain::random::Random;
use crate::domain::time::Clock;
use crate::http::{self, AdminApi, DeviceApi, OpsApi};
use crate::identity::keyring::{Keeper, Keyring};
use crate::identity::keys::KeysError;
use crate::identity::pki::{self, Pki};
use crate::identity::{self, Identity, IdentitySettings};
use crate::ingest::Ingest;
use crate::jobs;
use crate::lifecycle::readiness::{Check, Readiness};
use crate::lifecycle::tasks::Tasks;
use crate::net::{self, Clearing, ClientAuth, Listener, TlsHandle, TlsSettings};
use crate::observe;
use crate::presence::{Presence, PresenceSettings};
use crate::store::changes::ChangeLog;
use crate::store::keys::PublicKeys;
use crate::store::presence::Me;
use crate::store::primary::Tracked;
use crate::store::{ControlStore, FleetStore, Policy, PrimaryWatch, StandbyWatch, StoreError, migrate, primary};

/// Between two lines of the log that say that there is no database yet.
const WAIT_REPORT: Duration = Duration::from_secs(5);
/// Between two questions to a database that does not answer at the start.
const CHECK_PAUSE: Duration = Duration::from_millis(500);
/// The metrics library folds its buckets this often.
const UPKEEP: Duration = Duration::from_secs(5);
/// Operators are few: within this time all of them leave a replica that is blind.
const OPERATORS_CLOSE_OVER: Duration = Duration::from_secs(2);

/// What every part gets.
#[derive(Clone)]
pub struct Ground {
    pub clock: Clock,
    pub random: Random,
    pub tasks: Tasks,
    pub metrics: PrometheusHandle,
}

/// A replica that serves.
pub struct Running {
    pub replica: ReplicaId,
    pub device_addr: SocketAddr,
    pub admin_addr: SocketAddr,
    pub ops_addr: SocketAddr,
    pub readiness: Readiness,
    tls: [TlsHandle; 2],
    keeper: Keeper,
}

impl Running {
    /// Reads certificates and keys again. What is not good is logged, and the old ones stay.
    pub async fn reload(&self) {
        self.keeper.pass().await;
        for handle in &self.tls {
            match handle.reload().await {
                Ok(outcome) => {
                    tracing::info!(listener = handle.listener().as_str(), ?outcome, "certificates read again");
                }
                Err(error) => {
                    tracing::error!(listener = handle.listener().as_str(), %error, "certificates not reloaded");
                }
            }
        }
    }
}

struct Sockets {
    device: TcpListener,
    admin: TcpListener,
    ops: TcpListener,
}

struct Stores {
    primary: PrimaryWatch,
    fleet: FleetStore,
    control: ControlStore,
}

/// Starts a replica. Sockets are bound first (a taken port is said at once), the ops listener answers while the
/// database is waited for, and nothing is accepted before schema and keys are known to be right.
///
/// # Errors
/// One sentence that says what to do.
pub async fn start(settings: Settings, ground: &Ground) -> Result<Running, String> {
    let readiness = Readiness::default();
    let pki = load_pki(&settings)?;
    let sockets = Sockets {
        device: net::bind(settings.device_addr)?,
        admin: net::bind(settings.admin_addr)?,
        ops: net::bind(settings.ops_addr)?,
    };
    let address = |socket: &TcpListener| socket.local_addr().map_err(|error| error.to_string());
    let (device_addr, admin_addr, ops_addr) =
        (address(&sockets.device)?, address(&sockets.admin)?, address(&sockets.ops)?);
    serve_ops(&settings, ground, &readiness, sockets.ops);
    let stores = open_stores(&settings, ground, &readiness).await?;
    let keyring = Keyring::new(&pki);
    keyring.publish(check_database(&stores.control, &pki, &readiness).await?);
    let tls = load_tls(&settings, ground).await?;

    let replica = ReplicaId(Uuid::now_v7());
    let log = ChangeLog::start(stores.control.clone(), &ground.tasks);
    let keys = (pki, keyring, tls.to_vec());
    let identity = start_identity(&settings, ground, keys, (&stores, log, replica, &readiness));
    let keeper = identity.keeper();
    // Nobody is let in before the listeners trust what the database says.
    keeper.pass().await;
    // The flush of presence keeps it true; ingest judges times by it.
    let clock = DatabaseClock::new(ground.clock.clone());
    let ingest = start_ingest(&settings, ground, (stores.fleet.clone(), clock.clone()));
    let me = Me { id: replica, addr: settings.replica_addr.clone(), version: env!("CARGO_PKG_VERSION") };
    let presence = start_presence(&settings, ground, stores.fleet.clone(), (me, clock), &readiness);
    let clearing = |over| Clearing::new(presence.blindness(), over, ground.random.clone());
    let devices_clearing = clearing(settings.presence.blind_close_over);
    let operators_clearing = clearing(OPERATORS_CLOSE_OVER);
    start_jobs(&settings, ground, stores.primary.clone(), replica);
    let drill = drilling(&settings).then_some(replica);
    let admission = Admission::start(&settings.admission, ingest.clone(), ground.clock.clone(), &ground.tasks);
    let device_api = DeviceApi {
        identity: identity.clone(),
        admission: admission.clone(),
        ingest,
        presence,
        clock: ground.clock.clone(),
        random: ground.random.clone(),
        settings: settings.http.clone(),
        drill,
    };
    let admin_api = AdminApi {
        identity,
        admission,
        store: stores.control.clone(),
        fleet: stores.fleet.clone(),
        clock: ground.clock.clone(),
        random: ground.random.clone(),
        settings: settings.http.clone(),
        drill,
        limits: (&settings.jobs.sweep).into(),
    };
    let [device_tls, admin_tls] = tls.clone();
    let (tasks, listener) = (&ground.tasks, settings.device_listener.clone());
    let device_router = http::device_router(device_api);
    let serving = net::serve(sockets.device, listener, device_tls, devices_clearing, tasks.clone(), device_router);
    tasks.essential("devices", serving);
    let listener = settings.admin_listener.clone();
    let admin_router = http::admin_router(admin_api);
    let serving = net::serve(sockets.admin, listener, admin_tls, operators_clearing, tasks.clone(), admin_router);
    tasks.essential("admin", serving);
    accepting(ground, &readiness);
    tracing::info!(%replica, %device_addr, %admin_addr, %ops_addr, "serving");
    Ok(Running { replica, device_addr, admin_addr, ops_addr, readiness, tls, keeper })
}

fn drilling(settings: &Settings) -> bool {
    if settings.drill {
        tracing::warn!(
            "observe.drill is on: answers name their replica, and the database may be reached without TLS; not for production"
        );
    }
    settings.drill
}

fn load_pki(settings: &Settings) -> Result<Arc<Pki>, String> {
    pki::load(&settings.pki_dir, settings.dev).map(Arc::new).map_err(|error| error.to_string())
}

fn serve_ops(settings: &Settings, ground: &Ground, readiness: &Readiness, socket: TcpListener) {
    let api = OpsApi {
        readiness: readiness.clone(),
        metrics: ground.metrics.clone(),
        clock: ground.clock.clone(),
        random: ground.random.clone(),
        settings: settings.http.clone(),
    };
    let (tasks, connections) = (&ground.tasks, settings.ops_connections.clone());
    tasks.essential("ops", net::serve_plain(socket, connections, tasks.clone(), http::ops_router(api)));
    let (shutdown, handle) = (tasks.shutdown().clone(), ground.metrics.clone());
    tasks.essential("metrics-upkeep", async move {
        while !shutdown.is_draining() {
            handle.run_upkeep();
            tokio::select! {
                () = shutdown.draining() => {}
                () = tokio::time::sleep(UPKEEP) => {}
            }
        }
    });
}

/// Finds the primary, however long that takes, and keeps readiness informed.
async fn open_stores(settings: &Settings, ground: &Ground, readiness: &Readiness) -> Result<Stores, String> {
    let Tracked { mut primary, standbys } = primary::track(settings.store.clone(), &ground.tasks);
    let (tasks, random) = (&ground.tasks, &ground.random);
    let fleet = FleetStore::start(settings.store.clone(), primary.clone(), tasks, random.clone());
    let control = ControlStore::start(settings.store.clone(), primary.clone(), tasks, random.clone());
    let (mut watch, ready, shutdown) = (primary.clone(), readiness.clone(), tasks.shutdown().clone());
    tasks.essential("primary-readiness", async move {
        loop {
            ready.set(Check::Database, watch.borrow_and_update().is_some());
            tokio::select! {
                () = shutdown.draining() => return,
                changed = watch.changed() => if changed.is_err() { return },
            }
        }
    });
    report_durability(settings.store.durability, standbys, readiness, tasks);
    while primary::wait_for_primary(&mut primary, WAIT_REPORT).await.is_none() {
        if tasks.shutdown().is_draining() {
            return Err("stopped before a database was found".to_owned());
        }
        tracing::warn!("no primary answers yet; waiting (see database.hosts and the users' passwords)");
    }
    Ok(Stores { primary, fleet, control })
}

fn report_durability(policy: Policy, mut standbys: StandbyWatch, readiness: &Readiness, tasks: &Tasks) {
    let (readiness, shutdown) = (readiness.clone(), tasks.shutdown().clone());
    tasks.essential("durability-readiness", async move {
        loop {
            let missing = *standbys.borrow_and_update() == Some(0);
            readiness.set_degraded(missing && policy != Policy::Single);
            tokio::select! {
                () = shutdown.draining() => return,
                changed = standbys.changed() => if changed.is_err() { return },
            }
        }
    });
}

/// Refuses to serve on a schema or with keys that are not this binary's and this deployment's. What the database
/// publishes.
async fn check_database(control: &ControlStore, pki: &Pki, readiness: &Readiness) -> Result<PublicKeys, String> {
    let schema = once_answered("schema", || migrate::check(control)).await;
    let schema = schema.map_err(|error| format!("the schema cannot be checked: {error}"))?;
    if let Some(advice) = schema.advice() {
        return Err(advice.to_owned());
    }
    readiness.set(Check::Schema, true);
    let halves = pki.public_halves();
    let ask = || async {
        match identity::keys::check(control, &halves).await {
            Err(KeysError::Store(error)) => Err(error),
            verdict => Ok(verdict),
        }
    };
    once_answered("keys", ask).await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}

/// Asks until the database answers, however long that takes: a replica that starts while the primary changes, or while
/// the machine is busy, waits and does not end.
async fn once_answered<T, F>(what: &'static str, ask: impl Fn() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    loop {
        match ask().await {
            Err(error) if error.retryable() => tracing::warn!(what, %error, "the database cannot be checked yet"),
            outcome => return outcome,
        }
        tokio::time::sleep(CHECK_PAUSE).await;
    }
}

async fn load_tls(settings: &Settings, ground: &Ground) -> Result<[TlsHandle; 2], String> {
    let files = |client_auth: ClientAuth| TlsSettings {
        certificate_file: settings.pki_dir.join("server.pem"),
        key_file: settings.pki_dir.join("server.key"),
        client_ca_file: (client_auth != ClientAuth::None).then(|| settings.pki_dir.join("ca.pem")),
        client_auth,
        dev: settings.dev,
    };
    let mut handles = Vec::new();
    for (listener, auth) in [(Listener::Device, ClientAuth::Optional), (Listener::Admin, settings.admin_client_auth)] {
        let handle = TlsHandle::load(listener, files(auth), ground.clock.clone()).await;
        let handle = handle.map_err(|error| error.to_string())?;
        handle.watch(&ground.tasks);
        handles.push(handle);
    }
    handles.try_into().map_err(|_| "two listeners have two configurations".to_owned())
}

type IdentityGround<'a> = (&'a Stores, ChangeLog, ReplicaId, &'a Readiness);

fn start_identity(
    settings: &Settings,
    ground: &Ground,
    (pki, keyring, tls): (Arc<Pki>, Keyring, Vec<TlsHandle>),
    (stores, log, replica, readiness): IdentityGround<'_>,
) -> Identity {
    let parts = identity::Parts {
        settings: IdentitySettings { endpoints: settings.endpoints.clone(), caches: settings.caches },
        store: settings.store.clone(),
        log,
        primary: stores.primary.clone(),
        pki,
        keyring,
        tls,
        replica,
        addr: settings.replica_addr.clone(),
        clock: ground.clock.clone(),
        random: ground.random.clone(),
        readiness: readiness.clone(),
    };
    Identity::start(parts, &ground.tasks)
}

fn start_ingest(settings: &Settings, ground: &Ground, (store, clock): (FleetStore, DatabaseClock)) -> Ingest {
    Ingest::start(settings.ingest.clone(), store, clock, ground.random.clone(), &ground.tasks)
}

fn start_presence(
    settings: &Settings,
    ground: &Ground,
    store: FleetStore,
    (me, clock): (Me, DatabaseClock),
    readiness: &Readiness,
) -> Presence {
    let p = &settings.presence;
    let settings = PresenceSettings {
        me,
        flush_interval: p.flush_interval,
        flush_rows_max: p.flush_rows_max,
        devices_max: p.devices_max,
        blind_max: p.blind_max,
        promise_trust: p.promise_trust,
        tick_interval: p.tick_interval,
        tick_gap_max: p.tick_gap_max,
        cap: p.cap,
    };
    Presence::start(settings, store, readiness.clone(), clock, ground.random.clone(), &ground.tasks)
}

fn start_jobs(settings: &Settings, ground: &Ground, primary: PrimaryWatch, replica: ReplicaId) {
    let parts = jobs::Parts {
        store: settings.store.clone(),
        primary,
        replica,
        addr: settings.replica_addr.clone(),
        clock: ground.clock.clone(),
        random: ground.random.clone(),
    };
    jobs::start(settings.jobs.clone(), &parts, &ground.tasks);
}

fn accepting(ground: &Ground, readiness: &Readiness) {
    readiness.set(Check::Accepting, true);
    let (shutdown, readiness) = (ground.tasks.shutdown().clone(), readiness.clone());
    ground.tasks.essential("readiness", async move {
        shutdown.draining().await;
        readiness.set(Check::Accepting, false);
    });
}

/// Describes the metrics and installs their recorder; one for each process.
///
/// # Errors
/// When there is one already.
pub fn install_metrics() -> Result<PrometheusHandle, String> {
    observe::install().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::store::Fault;

    #[tokio::test]
    async fn a_start_waits_for_an_answer_and_a_refusal_is_one() {
        let error = |fault| StoreError::new("t", fault, "");
        let asked = Cell::new(0);
        let third = || {
            asked.set(asked.get() + 1);
            let silent = [Fault::Unavailable, Fault::Unknown];
            std::future::ready(silent.get(asked.get() - 1).map_or(Ok(asked.get()), |fault| Err(error(*fault))))
        };
        assert_eq!(once_answered("t", third).await.unwrap(), 3);
        let refused = once_answered("t", || std::future::ready(Err::<(), _>(error(Fault::Refused)))).await;
        assert_eq!(refused.unwrap_err().fault, Fault::Refused);
    }
}
