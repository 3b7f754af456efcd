//! Reading the change log: the statements of one follower, on a session of its own.

use std::collections::HashSet;
use std::time::Duration;

use tokio_postgres::Row;
use uuid::Uuid;

use super::changes::{CHANNEL, ChangeKind};
use super::error::{Fault, StoreError};
use super::keys::TokenKeyRow;
use super::session::Session;
use crate::domain::ids::ReplicaId;

crate::statements! {
    /// The proof of freshness: an upsert of the replica's own row. Parameters: id, address, version.
    REPLICA_TICK = "replica_tick";
    /// What was committed since a snapshot. Parameter: that snapshot's xmin as text, or null for "from now on".
    CHANGES_SINCE = "changes_since";
    /// The token keys that are to be trusted.
    TOKEN_KEYS_TRUSTED = "token_keys_trusted";
}

/// More than this in one read, and forgetting everything is cheaper than applying it.
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

/// Where a follower stands. Worth something on one timeline only.
#[derive(Debug, Default)]
pub struct Cursor {
    xmin: Option<String>,
    /// Rows at or after `xmin` that were applied; they are read again as long as an old transaction holds xmin back.
    applied: HashSet<i64>,
}

impl Cursor {
    /// Has it been placed?
    pub fn is_set(&self) -> bool {
        self.xmin.is_some()
    }
}

/// Hears the bell from now on.
pub async fn listen(session: &Session, limit: Duration) -> Result<(), StoreError> {
    session.batch("listen", &format!("listen {CHANNEL}"), limit).await
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
    let rows = session.query(&CHANGES_SINCE, &[&cursor.xmin], limit).await?;
    let xmin: String = value(CHANGES_SINCE.name, rows.first(), "xmin")?;
    let mut seen = HashSet::with_capacity(rows.len());
    let mut changes = Vec::new();
    for row in &rows {
        let Some(id) = value::<Option<i64>>(CHANGES_SINCE.name, Some(row), "id")? else { continue };
        seen.insert(id);
        if !cursor.applied.contains(&id) {
            let kind: String = value(CHANGES_SINCE.name, Some(row), "kind")?;
            let key = value(CHANGES_SINCE.name, Some(row), "key")?;
            changes.push(Change { kind: ChangeKind::from_column(&kind), key });
        }
    }
    let overflow = seen.len() > ROWS_MAX;
    let moved = Cursor { xmin: Some(xmin), applied: if overflow { HashSet::new() } else { seen } };
    Ok((if overflow { Batch::Everything } else { Batch::Changes(changes) }, moved))
}

/// The public token keys in state `next` and `active`.
pub async fn token_keys(session: &Session, limit: Duration) -> Result<Vec<TokenKeyRow>, StoreError> {
    let rows = session.query(&TOKEN_KEYS_TRUSTED, &[], limit).await?;
    let name = TOKEN_KEYS_TRUSTED.name;
    rows.iter()
        .map(|row| {
            Ok(TokenKeyRow {
                kid: value(name, Some(row), "kid")?,
                audience: value(name, Some(row), "audience")?,
                public_key_pem: value(name, Some(row), "public_key_pem")?,
            })
        })
        .collect()
}

/// A key of the log as an id.
pub fn uuid_key(change: &Change) -> Option<Uuid> {
    Uuid::try_parse(&change.key).ok()
}

fn value<T: for<'a> tokio_postgres::types::FromSql<'a>>(
    name: &'static str,
    row: Option<&Row>,
    column: &str,
) -> Result<T, StoreError> {
    let row = row.ok_or_else(|| StoreError::new(name, Fault::Refused, "no row"))?;
    row.try_get(column).map_err(|error| StoreError::new(name, Fault::Refused, error.to_string()))
}
