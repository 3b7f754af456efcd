//! Reading the change log: the statements of one follower, on a session of its own.

use std::time::Duration;

use tokio_postgres::Row;
use uuid::Uuid;

use super::changes::{CHANNEL, ChangeKind};
use super::error::{Fault, StoreError};
use super::keys::{CaRow, KeyState, PublicKeys, TokenKeyRow};
use super::session::Session;
use crate::domain::ids::{Fingerprint, ReplicaId};

crate::statements! {
    /// The proof of freshness: an upsert of the replica's own row. Parameters: id, address, version.
    REPLICA_TICK = "replica_tick";
    /// What was committed since a snapshot. Parameter: that snapshot as text, or null for "from now on".
    CHANGES_SINCE = "changes_since";
    /// The token keys that are to be trusted.
    TOKEN_KEYS_TRUSTED = "token_keys_trusted";
    /// The CAs of this installation.
    CA_CERTIFICATES_KNOWN = "ca_certificates_known";
}

/// More than this is new in one read, and forgetting everything is cheaper than applying it.
pub const ROWS_MAX: usize = 10_000;

/// One entry, or a kind that this binary does not know (a newer replica wrote it).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub kind: Option<ChangeKind>,
    pub key: String,
}

/// One read of the log.
#[derive(Debug)]
pub enum Batch {
    /// What is new, in any order.
    Changes(Vec<Change>),
    /// Too much to name: everything may have changed.
    Everything,
}

/// Where a follower stands: the snapshot of its last read. It names the transactions that were running then, so the
/// next read finds exactly what has become visible since, in whatever order it was committed. Worth something on one
/// timeline only.
#[derive(Debug, Default)]
pub struct Cursor {
    snapshot: Option<String>,
}

impl Cursor {
    /// Has it been placed?
    pub fn is_set(&self) -> bool {
        self.snapshot.is_some()
    }

    /// Every transaction with a lower id was read; `None` until the cursor is placed.
    pub fn xmin(&self) -> Option<u64> {
        // As PostgreSQL writes it: xmin:xmax:those in progress.
        self.snapshot.as_deref()?.split(':').next()?.parse().ok()
    }
}

/// What a follower's session calls itself in `pg_stat_activity`.
pub const APPLICATION: &str = "everbeat/listener";

/// Hears the bell from now on.
pub async fn listen(session: &Session, limit: Duration) -> Result<(), StoreError> {
    session.batch("listen", &format!("set application_name = '{APPLICATION}'; listen {CHANNEL}"), limit).await
}

/// Writes the replica's row and commits; the primary's timeline. It may wait for the standby, and a backend that is
/// left while it does so goes on waiting: hence the caller gives a long limit, and leaves early when the primary is
/// another.
pub async fn tick(session: &Session, replica: ReplicaId, addr: &str, limit: Duration) -> Result<i32, StoreError> {
    let version = env!("CARGO_PKG_VERSION");
    let rows = session.query(&REPLICA_TICK, &[&replica.0, &addr, &version], limit).await?;
    value(REPLICA_TICK.name, rows.first(), "timeline")
}

/// Reads what was committed since the cursor's snapshot. The new cursor is to be kept once the batch is applied.
pub async fn read(session: &Session, cursor: &Cursor, limit: Duration) -> Result<(Batch, Cursor), StoreError> {
    let name = CHANGES_SINCE.name;
    let rows = session.query(&CHANGES_SINCE, &[&cursor.snapshot], limit).await?;
    let moved = Cursor { snapshot: Some(value(name, rows.first(), "snapshot")?) };
    if rows.len() > ROWS_MAX {
        return Ok((Batch::Everything, moved));
    }
    let mut changes = Vec::new();
    for row in &rows {
        // One row without a change carries the snapshot when nothing is new.
        if value::<Option<i64>>(name, Some(row), "id")?.is_some() {
            let kind: String = value(name, Some(row), "kind")?;
            changes.push(Change { kind: ChangeKind::from_column(&kind), key: value(name, Some(row), "key")? });
        }
    }
    Ok((Batch::Changes(changes), moved))
}

/// Every CA, and the token keys that are accepted.
pub async fn keys(session: &Session, limit: Duration) -> Result<PublicKeys, StoreError> {
    let rows = session.query(&TOKEN_KEYS_TRUSTED, &[], limit).await?;
    let name = TOKEN_KEYS_TRUSTED.name;
    let token_key = |row| {
        Ok(TokenKeyRow {
            kid: value(name, Some(row), "kid")?,
            audience: value(name, Some(row), "audience")?,
            public_key_pem: value(name, Some(row), "public_key_pem")?,
            state: KeyState::from_column(value(name, Some(row), "state")?),
        })
    };
    let token_keys = rows.iter().map(token_key).collect::<Result<_, StoreError>>()?;
    let rows = session.query(&CA_CERTIFICATES_KNOWN, &[], limit).await?;
    let name = CA_CERTIFICATES_KNOWN.name;
    let ca = |row| {
        let print: &[u8] = value(name, Some(row), "fingerprint")?;
        let odd = |_| StoreError::new(name, Fault::Refused, "a fingerprint is 32 bytes");
        Ok(CaRow {
            kind: value(name, Some(row), "kind")?,
            fingerprint: Fingerprint(print.try_into().map_err(odd)?),
            certificate_pem: value(name, Some(row), "certificate_pem")?,
            state: KeyState::from_column(value(name, Some(row), "state")?),
        })
    };
    let certificates = rows.iter().map(ca).collect::<Result<_, StoreError>>()?;
    Ok(PublicKeys { certificates, token_keys })
}

/// A key of the log as an id.
pub fn uuid_key(change: &Change) -> Option<Uuid> {
    Uuid::try_parse(&change.key).ok()
}

fn value<'r, T: tokio_postgres::types::FromSql<'r>>(
    name: &'static str,
    row: Option<&'r Row>,
    column: &str,
) -> Result<T, StoreError> {
    let row = row.ok_or_else(|| StoreError::new(name, Fault::Refused, "no row"))?;
    row.try_get(column).map_err(|error| StoreError::new(name, Fault::Refused, error.to_string()))
}
