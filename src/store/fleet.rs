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

use super::durability::fleet::{commit_and_ask, position};
use super::durability::{Durability, Witness, covered, tell};
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

/// A pool could not be built, for want of a readable `ca_file`.
const BUILD_AGAIN: Duration = Duration::from_secs(1);
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
    /// A write whose success nobody is told.
    Upkeep,
}

impl Lane {
    fn late(self) -> Fault {
        match self {
            Self::Read | Self::Browse => Fault::Unavailable,
            Self::Write | Self::Upkeep => Fault::Unknown,
        }
    }

    fn stage(self) -> Stage {
        match self {
            Self::Read | Self::Browse => Stage::Before,
            Self::Write | Self::Upkeep => Stage::Committing,
        }
    }
}

impl FleetPool {
    fn of(&self, lane: Lane) -> &Pool {
        match lane {
            Lane::Read | Lane::Write | Lane::Upkeep => &self.pool,
            Lane::Browse => &self.browse,
        }
    }
}

/// One use of a connection; it says how far it had come when it failed.
type ConnectionWork<T> = Box<dyn for<'c> FnOnce(&'c mut Object) -> BoxFuture<'c, Result<T, Failed>> + Send>;

/// Why a use of a connection failed.
enum Failed {
    Driver(Stage, tokio_postgres::Error),
    /// In one message with a COMMIT, which may have gone through.
    Asking(tokio_postgres::Error),
    /// The connection is well: the policy says no.
    Policy(StoreError),
}

impl Failed {
    fn before(error: tokio_postgres::Error) -> Self {
        Self::Driver(Stage::Before, error)
    }

    fn committing(error: tokio_postgres::Error) -> Self {
        Self::Driver(Stage::Committing, error)
    }
}

struct FleetPool {
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
    witness: Witness,
}

impl FleetStore {
    /// Builds a pool for each primary that `watch` names; connections open as they are needed.
    pub fn start(settings: Arc<StoreSettings>, mut watch: PrimaryWatch, tasks: &Tasks, random: Random) -> Self {
        let current = Arc::new(ArcSwapOption::empty());
        let witness = Witness::new(settings.durability, "fleet");
        let store = Self { current: current.clone(), deadline: settings.statement_deadline, random, witness };
        let shutdown = tasks.shutdown().clone();
        tasks.foundation("fleet-pool", async move {
            let mut host: Option<Arc<Primary>> = None;
            loop {
                let now = watch.borrow_and_update().clone();
                if let Some(primary) = now.as_ref().filter(|_| now != host) {
                    host = if replace(&current, &settings, primary) { now } else { None };
                }
                tokio::select! {
                    () = shutdown.aborting() => return,
                    () = tokio::time::sleep(BUILD_AGAIN), if current.load().is_none() => {}
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
        Ok(self.single(statement, params, self.deadline, Lane::Read).await?.0)
    }

    /// Runs one statement that reads for a person, and may be slow: on connections of its own, and ended by the
    /// server at the deadline.
    pub async fn browse(&self, statement: &'static Statement, params: Params) -> Result<Vec<Row>, StoreError> {
        Ok(self.single(statement, params, self.deadline, Lane::Browse).await?.0)
    }

    /// Runs one statement that writes, and commits by itself. Its deadline makes it *unknown*, and so does a commit
    /// that the policy does not let anybody rely on.
    pub async fn write(&self, statement: &'static Statement, params: Params) -> Result<Vec<Row>, StoreError> {
        Ok(self.single(statement, params, self.deadline, Lane::Write).await?.0)
    }

    /// The same within `limit`, and says where it is then.
    pub async fn write_within(
        &self,
        limit: Duration,
        statement: &'static Statement,
        params: Params,
    ) -> Result<(Vec<Row>, Durability), StoreError> {
        self.single(statement, params, limit, Lane::Write).await
    }

    /// The same for what this replica writes for itself: nobody is told of a success, so that no standby is asked.
    pub async fn upkeep(&self, statement: &'static Statement, params: Params) -> Result<Vec<Row>, StoreError> {
        Ok(self.single(statement, params, self.deadline, Lane::Upkeep).await?.0)
    }

    async fn single(
        &self,
        statement: &'static Statement,
        params: Params,
        limit: Duration,
        lane: Lane,
    ) -> Result<(Vec<Row>, Durability), StoreError> {
        let begun = Instant::now();
        let params = Arc::new(params);
        let name = statement.name;
        let witness = self.witness_for(lane);
        self.retrying(begun, limit, || {
            let (params, witness) = (params.clone(), witness.clone());
            let work: ConnectionWork<(Vec<Row>, Durability)> = Box::new(move |connection| {
                Box::pin(async move {
                    let prepared = connection.prepare_cached(statement.sql).await.map_err(Failed::before)?;
                    let params: Vec<&(dyn ToSql + Sync)> = params.iter().map(|p| &**p as &(dyn ToSql + Sync)).collect();
                    let run = connection.query(&prepared, &params);
                    let Some(witness) = witness else {
                        let rows = run.await.map_err(|error| Failed::Driver(lane.stage(), error))?;
                        return Ok((rows, Durability::Full));
                    };
                    // In this order on the wire, or the question would be about the time before the commit.
                    let (rows, seen) = tokio::join!(biased; run, position(connection));
                    let rows = rows.map_err(Failed::committing)?;
                    let durability = witness.verdict(name, covered(&mut &*connection, seen.ok()).await);
                    Ok((rows, durability.map_err(Failed::Policy)?))
                })
            });
            self.on_connection(name, begun + limit, lane, work)
        })
        .await
        .inspect(|(_, durability)| tell(*durability))
    }

    fn witness_for(&self, lane: Lane) -> Option<Witness> {
        Some(self.witness.clone()).filter(|witness| lane == Lane::Write && witness.asks())
    }

    /// Runs `work` in one transaction and commits. Tried again while the deadline allows and the failure says that
    /// nothing was done; past the deadline the outcome is *unknown*. For what this replica writes for itself.
    pub async fn transact<T, W>(&self, name: &'static str, limit: Duration, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FleetWork<T>,
    {
        Ok(self.transaction(name, limit, Lane::Upkeep, work).await?.0)
    }

    /// The same for what is acknowledged to somebody: says where it is, or, by the policy, that it is *unknown*.
    pub async fn commit<T, W>(
        &self,
        name: &'static str,
        limit: Duration,
        work: W,
    ) -> Result<(T, Durability), StoreError>
    where
        T: Send + 'static,
        W: FleetWork<T>,
    {
        self.transaction(name, limit, Lane::Write, work).await
    }

    async fn transaction<T, W>(
        &self,
        name: &'static str,
        limit: Duration,
        lane: Lane,
        work: W,
    ) -> Result<(T, Durability), StoreError>
    where
        T: Send + 'static,
        W: FleetWork<T>,
    {
        let begun = Instant::now();
        let work = Arc::new(work);
        let witness = self.witness_for(lane);
        self.retrying(begun, limit, || {
            let (work, witness) = (work.clone(), witness.clone());
            let work: ConnectionWork<(T, Durability)> = Box::new(move |connection| {
                Box::pin(async move {
                    let transaction = connection.transaction().await.map_err(Failed::before)?;
                    let value = work(&transaction).await.map_err(Failed::before)?;
                    let Some(witness) = witness else {
                        transaction.commit().await.map_err(Failed::committing)?;
                        return Ok((value, Durability::Full));
                    };
                    let seen = commit_and_ask(transaction).await.map_err(Failed::Asking)?;
                    let durability = witness.verdict(name, covered(&mut &*connection, Some(seen)).await);
                    Ok((value, durability.map_err(Failed::Policy)?))
                })
            });
            self.on_connection(name, begun + limit, lane, work)
        })
        .await
        .inspect(|(_, durability)| tell(*durability))
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
        let got = Box::pin(tokio::time::timeout_at(deadline, fleet.of(lane).get()));
        let connection = match fleet.gate.unless_retired(name, got).await? {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return Err(no_connection(name, &error)),
            Err(_) => return Err(StoreError::new(name, Fault::Unavailable, "no free connection in time")),
        };
        let attempt = async move {
            let mut connection = connection;
            match work(&mut connection).await {
                Ok(value) => Ok(value),
                Err(Failed::Policy(error)) => Err(error),
                Err(Failed::Asking(error)) => {
                    drop(Object::take(connection));
                    Err(StoreError::new(name, Fault::Unknown, error.to_string()))
                }
                Err(Failed::Driver(stage, error)) => {
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

/// Points at a new primary; every connection of the old one is evicted, and what runs on them ends. False: there is
/// no pool for the new one, and none for the old one any more.
fn replace(current: &ArcSwapOption<FleetPool>, settings: &StoreSettings, primary: &Primary) -> bool {
    let fresh = build(settings, &primary.host)
        .inspect_err(|error| tracing::error!(error, "no pool for the new primary; trying again"))
        .ok();
    let is_built = fresh.is_some();
    if let Some(old) = current.swap(fresh.map(Arc::new)) {
        old.gate.retire();
        for pool in [&old.pool, &old.browse] {
            pool.retain(|_, _| false);
            pool.close();
        }
    }
    is_built
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
