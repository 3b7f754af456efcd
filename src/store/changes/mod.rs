//! The change log. Whatever changes who may do what appends rows `(kind, key)` to `changes` in its own transaction;
//! every replica follows the log ([`super::follow`]) and forgets what it had cached under these keys.
//!
//! - The doorbell, a NOTIFY without content, is rung after the commit and in a transaction of its own that waits for
//!   no standby: a notifier that waits holds the queue's lock and would block every other NOTIFY. A ring that is
//!   lost costs time only, for followers poll.
//! - Numbers are drawn before their commit, so readers go by `xid` and by what their last snapshot could not see,
//!   never by `id`.
//!
//! Deliberately absent: contents. A follower loads what it needs when it is asked for it.

mod freshness;

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use sqlx::PgConnection;
use tokio::sync::Notify;
use uuid::Uuid;

use super::control::{Abort, ControlStore, ControlWork};
use super::error::StoreError;
use crate::lifecycle::tasks::Tasks;

pub use freshness::Freshness;

/// The channel of the doorbell.
pub const CHANNEL: &str = "everbeat_changes";

/// Between two rings of one replica: a storm of enrollments rings fifty times a second, not thousands.
const RING_PAUSE: Duration = Duration::from_millis(20);

/// What changed. Closed by a constraint of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChangeKind {
    /// Key: the device's id.
    Device,
    /// Key: the fingerprint in lower-case hexadecimal.
    Credential,
    /// Key: the fleet's id.
    Fleet,
    /// Key: the operator's id.
    Operator,
    /// Key: the token's `jti`.
    OperatorToken,
    /// Key: the token's id.
    EnrollmentToken,
    /// Key: the `kid`.
    TokenKey,
    /// Key: the certificate's fingerprint in hexadecimal.
    Ca,
}

impl ChangeKind {
    pub const ALL: [Self; 8] = [
        Self::Device,
        Self::Credential,
        Self::Fleet,
        Self::Operator,
        Self::OperatorToken,
        Self::EnrollmentToken,
        Self::TokenKey,
        Self::Ca,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Credential => "credential",
            Self::Fleet => "fleet",
            Self::Operator => "operator",
            Self::OperatorToken => "operator_token",
            Self::EnrollmentToken => "enrollment_token",
            Self::TokenKey => "token_key",
            Self::Ca => "ca",
        }
    }

    pub fn from_column(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// Why a change was not made.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ChangeError {
    #[error("there is no such thing")]
    NotFound,
    /// The row's version is another one than the caller expected (`If-Match`).
    #[error("the row has changed")]
    PreconditionFailed,
    /// The present state does not allow it; the sentence is for the caller.
    #[error("{0}")]
    Conflict(&'static str),
    /// The idempotency key was used otherwise, or is in use; the sentence is for the caller.
    #[error("{0}")]
    KeyReused(&'static str),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The only way to change what replicas cache: a transaction, then the doorbell. Clones share both.
#[derive(Clone)]
pub struct ChangeLog {
    control: ControlStore,
    ringer: Option<Arc<Notify>>,
}

impl ChangeLog {
    /// For a replica: the bell is rung by a task, so that no request waits for it.
    pub fn start(control: ControlStore, tasks: &Tasks) -> Self {
        let bell = Arc::new(Notify::new());
        let (wake, store, shutdown) = (bell.clone(), control.clone(), tasks.shutdown().clone());
        tasks.foundation("doorbell", async move {
            loop {
                tokio::select! {
                    () = shutdown.aborting() => return,
                    () = wake.notified() => {}
                }
                ring(&store).await;
                tokio::time::sleep(RING_PAUSE).await;
            }
        });
        Self { control, ringer: Some(bell) }
    }

    /// For a command: each change waits for its ring.
    pub fn direct(control: ControlStore) -> Self {
        Self { control, ringer: None }
    }

    /// For work that only reads.
    pub fn control(&self) -> &ControlStore {
        &self.control
    }

    /// [`ControlStore::write`], then the bell. It is rung after a failure too: an unknown outcome may be a commit.
    pub async fn write<T, E, W>(&self, name: &'static str, work: W) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        W: ControlWork<T, E>,
    {
        let outcome = self.control.write(name, work).await;
        match &self.ringer {
            Some(bell) => bell.notify_one(),
            None => ring(&self.control).await,
        }
        outcome
    }
}

/// Rings once. Failures are only logged: every follower polls.
async fn ring(control: &ControlStore) {
    let rung: Result<(), StoreError> = control
        .read("doorbell", |c| {
            Box::pin(async move {
                // One message, hence one implicit transaction. Without the first half it would wait for the standby.
                sqlx::raw_sql("set local synchronous_commit = off; notify everbeat_changes").execute(c).await?;
                Ok(())
            })
        })
        .await;
    if let Err(error) = rung {
        tracing::debug!(%error, "the doorbell was not rung");
    }
}

/// Appends to the log, inside the transaction that makes the change.
pub async fn append(c: &mut PgConnection, kind: ChangeKind, key: &str) -> Result<(), sqlx::Error> {
    sqlx::query!("insert into changes (kind, key) values ($1, $2)", kind.as_str(), key).execute(c).await?;
    Ok(())
}

/// Appends many keys of one kind.
pub async fn append_all(c: &mut PgConnection, kind: ChangeKind, keys: &[String]) -> Result<(), sqlx::Error> {
    sqlx::query!("insert into changes (kind, key) select $1, key from unnest($2::text[]) as key", kind.as_str(), keys)
        .execute(c)
        .await?;
    Ok(())
}

/// An event for operators, recorded in the transaction that makes the change.
pub struct NewEvent<'a> {
    pub kind: &'static str,
    pub fleet: Option<Uuid>,
    pub device: Option<Uuid>,
    pub cause: Option<&'a str>,
    pub detail: Value,
}

/// Records an event.
pub async fn record(c: &mut PgConnection, event: &NewEvent<'_>) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "insert into events (kind, fleet_id, device_id, cause, detail) values ($1, $2, $3, $4, $5)",
        event.kind,
        event.fleet,
        event.device,
        event.cause,
        event.detail,
    )
    .execute(c)
    .await?;
    Ok(())
}

/// Gives up the transaction with the caller's own answer.
pub(super) fn refuse<T, E>(error: E) -> Result<T, Abort<E>> {
    Err(Abort::Refuse(error))
}
