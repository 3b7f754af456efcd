//! The control plane: sqlx, with statements checked at compile time. For everything that a person triggers, and for
//! what changes who exists: enrollment, renewal, revocation.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use futures_util::future::BoxFuture;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgSslMode};
use sqlx::{Connection, PgConnection, PgPool};
use tokio::time::Instant;

use super::durability::{self, Asks, Durability, Position, Witness};
use super::error::{Fault, Stage, StoreError};
use super::gate::Gate;
use super::primary::{Primary, PrimaryWatch};
use super::settings::{ALWAYS, Login, StoreSettings, TlsMode};
use super::statement::{left, measured};
use crate::domain::random::Random;
use crate::lifecycle::tasks::{self, Tasks};

const RETRY_BASE: Duration = Duration::from_millis(20);
const RETRY_CAP: Duration = Duration::from_millis(250);

/// Why a transaction is given up.
#[derive(Debug)]
pub enum Abort<E> {
    /// The database failed.
    Sql(sqlx::Error),
    /// The caller's own rule says no: roll back, and answer with this.
    Refuse(E),
}

impl<E> From<sqlx::Error> for Abort<E> {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

/// Work on one connection. It may run several times, so it is `Fn`.
pub trait ControlWork<T, E>:
    for<'c> Fn(&'c mut PgConnection) -> BoxFuture<'c, Result<T, Abort<E>>> + Send + Sync + 'static
{
}

impl<T, E, F> ControlWork<T, E> for F where
    F: for<'c> Fn(&'c mut PgConnection) -> BoxFuture<'c, Result<T, Abort<E>>> + Send + Sync + 'static
{
}

struct ControlPool {
    pool: PgPool,
    /// For reads, half of the connections: the server ends those that are too slow.
    reads: PgPool,
    gate: Arc<Gate>,
}

/// Clones share the pool.
#[derive(Clone)]
pub struct ControlStore {
    current: Arc<ArcSwapOption<ControlPool>>,
    deadline: Duration,
    random: Random,
    witness: Witness,
}

impl ControlStore {
    /// Builds a pool for each primary that `watch` names; connections open as they are needed.
    pub fn start(settings: Arc<StoreSettings>, mut watch: PrimaryWatch, tasks: &Tasks, random: Random) -> Self {
        let current = Arc::new(ArcSwapOption::empty());
        let witness = Witness::new(settings.durability, "control");
        let store = Self { current: current.clone(), deadline: settings.statement_deadline, random, witness };
        let shutdown = tasks.shutdown().clone();
        tasks.foundation("control-pool", async move {
            let mut host: Option<Arc<Primary>> = None;
            loop {
                let now = watch.borrow_and_update().clone();
                if let Some(primary) = now.as_ref().filter(|_| now != host) {
                    let fresh = Arc::new(build(&settings, &primary.host));
                    if let Some(old) = current.swap(Some(fresh)) {
                        old.gate.retire();
                        tasks::spawn(async move { tokio::join!(old.pool.close(), old.reads.close()) });
                    }
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

    /// Waits until there is a pool, at most `limit`: the pool follows the tracker a moment later.
    pub async fn opened(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        while self.current.load().is_none() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Runs work that only reads.
    pub async fn read<T, E, W>(&self, name: &'static str, work: W) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        W: ControlWork<T, E>,
    {
        self.retrying(name, Arc::new(work), false).await
    }

    /// Runs `work` in one transaction and commits. The transaction always writes WAL, also when the work turns out
    /// to change nothing: a commit without WAL does not wait for the standby, and a repeated revocation would be
    /// acknowledged on the strength of a first one that no standby has. A commit that the policy does not let anybody
    /// rely on is *unknown*.
    pub async fn write<T, E, W>(&self, name: &'static str, work: W) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        W: ControlWork<T, E>,
    {
        self.retrying(name, Arc::new(work), true).await
    }

    async fn retrying<T, E, W>(&self, name: &'static str, work: Arc<W>, write: bool) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        W: ControlWork<T, E>,
    {
        let begun = Instant::now();
        let mut tries = 0;
        loop {
            let fault = match self.attempt(name, begun, work.clone(), write).await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(refused)) => return Err(refused),
                Err(error) => error,
            };
            let pause = self.random.full_jitter(RETRY_BASE, RETRY_CAP, tries);
            if !fault.fault.certainly_not_done() || pause >= left(begun, self.deadline) {
                return Err(fault.into());
            }
            tokio::time::sleep(pause).await;
            tries += 1;
        }
    }

    async fn attempt<T, E, W>(
        &self,
        name: &'static str,
        begun: Instant,
        work: Arc<W>,
        write: bool,
    ) -> Result<Result<T, E>, StoreError>
    where
        T: Send + 'static,
        E: Send + 'static,
        W: ControlWork<T, E>,
    {
        let Some(control) = self.current.load_full() else {
            return Err(StoreError::new(name, Fault::Unavailable, "no primary answers"));
        };
        let pool = if write { &control.pool } else { &control.reads };
        let acquired = Box::pin(tokio::time::timeout(left(begun, self.deadline), pool.acquire()));
        let mut connection = match control.gate.unless_retired(name, acquired).await? {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return Err(StoreError::from_control(name, Stage::Before, &error)),
            Err(_) => return Err(StoreError::new(name, Fault::Unavailable, "no free connection in time")),
        };
        let witness = self.witness.clone();
        let late = if write { Fault::Unknown } else { Fault::Unavailable };
        let attempt = async move {
            if write {
                let outcome = transaction(name, &mut connection, work.as_ref()).await?;
                if outcome.is_err() || !witness.asks() {
                    return Ok((outcome, Durability::Full));
                }
                let first = connection.position().await;
                let durability = witness.verdict(name, durability::covered(&mut *connection, first).await)?;
                Ok((outcome, durability))
            } else {
                Ok((judge(name, work(&mut connection).await)?, Durability::Full))
            }
        };
        let done = measured(name, control.gate.run(name, left(begun, self.deadline), late, attempt)).await;
        done.map(|(outcome, durability)| {
            durability::tell(durability);
            outcome
        })
    }
}

fn judge<T, E>(name: &'static str, outcome: Result<T, Abort<E>>) -> Result<Result<T, E>, StoreError> {
    match outcome {
        Ok(value) => Ok(Ok(value)),
        Err(Abort::Refuse(error)) => Ok(Err(error)),
        Err(Abort::Sql(error)) => Err(StoreError::from_control(name, Stage::Before, &error)),
    }
}

async fn transaction<T, E, W>(
    name: &'static str,
    connection: &mut PgConnection,
    work: &W,
) -> Result<Result<T, E>, StoreError>
where
    W: ControlWork<T, E>,
{
    let before = |error: sqlx::Error| StoreError::from_control(name, Stage::Before, &error);
    let mut transaction = connection.begin().await.map_err(before)?;
    let outcome = judge(name, work(&mut transaction).await);
    match outcome {
        Ok(Ok(value)) => {
            sqlx::query("select pg_logical_emit_message(true, 'everbeat', '')")
                .execute(&mut *transaction)
                .await
                .map_err(before)?;
            let commit = transaction.commit().await;
            commit.map_err(|error| StoreError::from_control(name, Stage::Committing, &error))?;
            Ok(Ok(value))
        }
        failed => {
            let _ = transaction.rollback().await;
            failed
        }
    }
}

impl Asks for PgConnection {
    async fn position(&mut self) -> Option<Position> {
        let asked = sqlx::query_as::<_, (i64, Option<i64>, bool)>(durability::POSITION.sql);
        let (flushed, standby, named) = asked.fetch_one(self).await.ok()?;
        Some(Position { flushed, standby, named })
    }
}

/// sqlx's form of the settings, for one host and one user.
pub(super) fn connect_options(settings: &StoreSettings, host: &(String, u16), login: &Login) -> PgConnectOptions {
    use secrecy::ExposeSecret;
    let options = PgConnectOptions::new_without_pgpass()
        .host(&host.0)
        .port(host.1)
        .database(&settings.database)
        .username(&login.user)
        .password(login.password.expose_secret())
        .application_name("everbeat/control")
        .options(ALWAYS)
        .options([("lock_timeout", "1000"), ("idle_in_transaction_session_timeout", "10000")]);
    match (settings.tls, &settings.ca_file) {
        (TlsMode::VerifyFull, Some(ca)) => options.ssl_mode(PgSslMode::VerifyFull).ssl_root_cert(ca),
        (TlsMode::VerifyFull, None) => options.ssl_mode(PgSslMode::VerifyFull),
        (TlsMode::Disable, _) => options.ssl_mode(PgSslMode::Disable),
    }
}

fn build(settings: &StoreSettings, host: &(String, u16)) -> ControlPool {
    let reading = (settings.control_connections_max / 2).max(1);
    let writing = settings.control_connections_max.saturating_sub(reading).max(1);
    let options = connect_options(settings, host, &settings.control);
    let limit_ms = settings.statement_deadline.as_millis().to_string();
    let reads = options.clone().options([("statement_timeout", limit_ms.as_str())]);
    ControlPool {
        pool: pool(settings, writing, options),
        reads: pool(settings, reading, reads),
        gate: Gate::new("control"),
    }
}

fn pool(settings: &StoreSettings, size: usize, options: PgConnectOptions) -> PgPool {
    PgPoolOptions::new()
        .max_connections(u32::try_from(size).unwrap_or(1))
        .acquire_timeout(settings.connect_deadline)
        .idle_timeout(Duration::from_mins(5))
        .connect_lazy_with(options)
}
