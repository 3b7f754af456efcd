//! The fleet plane: tokio-postgres under deadpool. For what devices do, many times a second.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Transaction};
use futures_util::future::BoxFuture;
use tokio::time::Instant;
use tokio_postgres::types::ToSql;
use tokio_postgres::{NoTls, Row};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::error::{Fault, Stage, StoreError, spoils_connection};
use super::gate::Gate;
use super::primary::{Primary, PrimaryWatch};
use super::settings::{Plane, StoreSettings};
use super::statement::{Params, Statement, left, measured};
use crate::domain::random::Random;
use crate::lifecycle::tasks::Tasks;

/// A lock is given up before the deadline, so that a wait for a row never becomes an unknown outcome.
/// No `statement_timeout`: a cancelled wait for the standby would report success.
const SESSION_OPTIONS: &str = "-c lock_timeout=1000 -c idle_in_transaction_session_timeout=10000";
/// For reads of operators, on connections of their own: the server ends what its caller no longer waits for.
fn browse_options(settings: &StoreSettings) -> String {
    let limit_ms = settings.statement_deadline.as_millis();
    format!("-c lock_timeout=1000 -c default_transaction_read_only=on -c statement_timeout={limit_ms}")
}

/// First ceiling of the back-off between two tries inside one request.
const RETRY_BASE: Duration = Duration::from_millis(20);
const RETRY_CAP: Duration = Duration::from_millis(250);

/// Work inside one transaction. It may run several times, so it is `Fn` and takes what it needs by reference.
pub trait FleetWork<T>:
    for<'t> Fn(&'t Transaction<'t>) -> BoxFuture<'t, Result<T, tokio_postgres::Error>> + Send + Sync + 'static
{
}

impl<T, F> FleetWork<T> for F where
    F: for<'t> Fn(&'t Transaction<'t>) -> BoxFuture<'t, Result<T, tokio_postgres::Error>> + Send + Sync + 'static
{
}

/// What a statement is for: which connections it may use, and what its caller knows past the deadline.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lane {
    Read,
    Browse,
    Write,
}

impl Lane {
    fn late(self) -> Fault {
        match self {
            Self::Read | Self::Browse => Fault::Unavailable,
            Self::Write => Fault::Unknown,
        }
    }
}

impl FleetPool {
    fn of(&self, lane: Lane) -> &Pool {
        match lane {
            Lane::Read | Lane::Write => &self.pool,
            Lane::Browse => &self.browse,
        }
    }
}

/// One use of a connection; it says how far it had come when it failed.
type ConnectionWork<T> =
    Box<dyn for<'c> FnOnce(&'c mut Object) -> BoxFuture<'c, Result<T, (Stage, tokio_postgres::Error)>> + Send>;

struct FleetPool {
    /// For devices.
    pool: Pool,
    /// For people: a quarter of the connections, so that no query of theirs can stop a device.
    browse: Pool,
    gate: Arc<Gate>,
}

/// Clones share the pool.
#[derive(Clone)]
pub struct FleetStore {
    current: Arc<ArcSwapOption<FleetPool>>,
    deadline: Duration,
    random: Random,
}

impl FleetStore {
    /// Builds a pool for each primary that `watch` names; connections open as they are needed.
    pub fn start(settings: Arc<StoreSettings>, mut watch: PrimaryWatch, tasks: &Tasks, random: Random) -> Self {
        let current = Arc::new(ArcSwapOption::empty());
        let store = Self { current: current.clone(), deadline: settings.statement_deadline, random };
        let shutdown = tasks.shutdown().clone();
        tasks.foundation("fleet-pool", async move {
            let mut host: Option<Arc<Primary>> = None;
            loop {
                let now = watch.borrow_and_update().clone();
                if now.is_some() && now != host {
                    replace(&current, &settings, now.as_deref());
                    host = now;
                }
                tokio::select! {
                    () = shutdown.aborting() => return,
                    changed = watch.changed() => if changed.is_err() { return },
                }
            }
        });
        store
    }

    /// The default deadline of a statement.
    pub fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Runs one quick statement that reads, for a device's request.
    pub async fn read(&self, statement: &'static Statement, params: Params) -> Result<Vec<Row>, StoreError> {
        self.single(statement, params, Lane::Read).await
    }

    /// Runs one statement that reads for a person, and may be slow: on connections of its own, and ended by the
    /// server at the deadline.
    pub async fn browse(&self, statement: &'static Statement, params: Params) -> Result<Vec<Row>, StoreError> {
        self.single(statement, params, Lane::Browse).await
    }

    /// Runs one statement that writes, and commits by itself. Its deadline makes it *unknown*.
    pub async fn write(&self, statement: &'static Statement, params: Params) -> Result<Vec<Row>, StoreError> {
        self.single(statement, params, Lane::Write).await
    }

    async fn single(&self, statement: &'static Statement, params: Params, lane: Lane) -> Result<Vec<Row>, StoreError> {
        let begun = Instant::now();
        let params = Arc::new(params);
        let stage = if lane == Lane::Write { Stage::Committing } else { Stage::Before };
        let name = statement.name;
        self.retrying(begun, self.deadline, || {
            let params = params.clone();
            let work: ConnectionWork<Vec<Row>> = Box::new(move |connection| {
                Box::pin(async move {
                    let prepared = connection.prepare_cached(statement.sql).await.map_err(|e| (Stage::Before, e))?;
                    let params: Vec<&(dyn ToSql + Sync)> = params.iter().map(|p| &**p as &(dyn ToSql + Sync)).collect();
                    connection.query(&prepared, &params).await.map_err(|e| (stage, e))
                })
            });
            self.on_connection(name, begun + self.deadline, lane, work)
        })
        .await
    }

    /// Runs `work` in one transaction and commits. Tried again while the deadline allows and the failure says that
    /// nothing was done; past the deadline the outcome is *unknown*.
    pub async fn transact<T, W>(&self, name: &'static str, limit: Duration, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FleetWork<T>,
    {
        let begun = Instant::now();
        let work = Arc::new(work);
        self.retrying(begun, limit, || {
            let work = work.clone();
            let work: ConnectionWork<T> = Box::new(move |connection| {
                Box::pin(async move {
                    let transaction = connection.transaction().await.map_err(|e| (Stage::Before, e))?;
                    let value = work(&transaction).await.map_err(|e| (Stage::Before, e))?;
                    transaction.commit().await.map_err(|e| (Stage::Committing, e))?;
                    Ok(value)
                })
            });
            self.on_connection(name, begun + limit, Lane::Write, work)
        })
        .await
    }

    async fn retrying<T, F>(&self, begun: Instant, limit: Duration, attempt: impl Fn() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut tries = 0;
        loop {
            let error = match attempt().await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            // A missing partition needs somebody to make it; everything else that was not done may be tried again.
            let again = error.fault.certainly_not_done() && error.fault != Fault::MissingPartition;
            let pause = self.random.full_jitter(RETRY_BASE, RETRY_CAP, tries);
            if !again || pause >= left(begun, limit) {
                return Err(error);
            }
            tokio::time::sleep(pause).await;
            tries += 1;
        }
    }

    async fn on_connection<T: Send + 'static>(
        &self,
        name: &'static str,
        deadline: Instant,
        lane: Lane,
        work: ConnectionWork<T>,
    ) -> Result<T, StoreError> {
        let Some(fleet) = self.current.load_full() else {
            return Err(StoreError::new(name, Fault::Unavailable, "no primary answers"));
        };
        let connection = match tokio::time::timeout_at(deadline, fleet.of(lane).get()).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return Err(no_connection(name, &error)),
            Err(_) => return Err(StoreError::new(name, Fault::Unavailable, "no free connection in time")),
        };
        let attempt = async move {
            let mut connection = connection;
            match work(&mut connection).await {
                Ok(value) => Ok(value),
                Err((stage, error)) => {
                    if spoils_connection(&error) {
                        drop(Object::take(connection));
                    }
                    Err(StoreError::from_fleet(name, stage, &error))
                }
            }
        };
        measured(name, fleet.gate.run(name, deadline.saturating_duration_since(Instant::now()), lane.late(), attempt))
            .await
    }
}

fn no_connection(name: &'static str, error: &PoolError) -> StoreError {
    StoreError::new(name, Fault::Unavailable, error.to_string())
}

/// Points at a new primary; every connection of the old one is evicted. Those in use are dropped when they come back.
fn replace(current: &ArcSwapOption<FleetPool>, settings: &StoreSettings, primary: Option<&Primary>) {
    let built = primary.map(|primary| build(settings, &primary.host)).transpose();
    let fresh = match built {
        Ok(fresh) => fresh,
        Err(error) => {
            tracing::error!(error, "no pool for the new primary");
            None
        }
    };
    if let Some(old) = current.swap(fresh.map(Arc::new)) {
        for pool in [&old.pool, &old.browse] {
            pool.retain(|_, _| false);
            pool.close();
        }
    }
}

fn build(settings: &StoreSettings, host: &(String, u16)) -> Result<FleetPool, String> {
    let browsing = (settings.fleet_connections_max / 4).max(1);
    let devices = settings.fleet_connections_max.saturating_sub(browsing).max(1);
    Ok(FleetPool {
        pool: pool(settings, host, SESSION_OPTIONS, devices)?,
        browse: pool(settings, host, &browse_options(settings), browsing)?,
        gate: Gate::new("fleet"),
    })
}

fn pool(settings: &StoreSettings, host: &(String, u16), options: &str, size: usize) -> Result<Pool, String> {
    let config = settings.driver_config(host, Plane::Fleet, options);
    let manager_config = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    let manager = match settings.rustls_config()? {
        None => Manager::from_config(config, NoTls, manager_config),
        Some(tls) => Manager::from_config(config, MakeRustlsConnect::new((*tls).clone()), manager_config),
    };
    Pool::builder(manager)
        .max_size(size)
        .runtime(deadpool_postgres::Runtime::Tokio1)
        .wait_timeout(Some(settings.statement_deadline))
        .create_timeout(Some(settings.connect_deadline))
        .recycle_timeout(Some(settings.connect_deadline))
        .build()
        .map_err(|error| error.to_string())
}
