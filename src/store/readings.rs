//! Readings: many are stored in one commit, few are read at a time.
//!
//! An insert takes its rows in the order of the key, so that two batches cannot deadlock, and leaves rows that exist
//! alone; what those hold is read afterwards, in a transaction that writes WAL: the commit of one that only read would
//! not wait for the standby, and would acknowledge what a failover may lose.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use deadpool_postgres::Transaction;
use time::{Date, OffsetDateTime};
use tokio::time::Instant;
use tokio_postgres::Row;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use uuid::Uuid;

use super::statement::{Params, left};
use super::{Durability, Fault, FleetStore, StoreError};
use crate::domain::ids::DeviceId;

crate::statements! {
    INSERT = "readings_insert";
    EXISTING = "readings_existing";
    WAL_WRITE = "wal_write";
    PARTITION = "readings_partition";
    PAGE_ASC = "readings_page_asc";
    PAGE_DESC = "readings_page_desc";
    LATEST = "readings_latest";
}

/// Rows to store, column by column, sorted by `(device, ts, digest)`, each key once.
#[derive(Debug, Default)]
pub struct NewReadings {
    pub devices: Vec<Uuid>,
    pub ts: Vec<OffsetDateTime>,
    pub digests: Vec<i64>,
    pub contents: Vec<i64>,
    /// JSON.
    pub values: Vec<Box<str>>,
}

impl NewReadings {
    pub fn len(&self) -> usize {
        self.devices.len()
    }

    pub fn is_empty(&self) -> bool {
        self.devices.is_empty()
    }
}

/// What became of one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowOutcome {
    Stored,
    /// A row with this key was there, with this digest of its content.
    Exists {
        content: i64,
    },
    /// A row stood in the way of the insert and was gone when it was looked at: not stored.
    Vanished,
}

type Key = (Uuid, OffsetDateTime, i64);

/// Stores `rows[range]`; one outcome for each row, in order, and where they are now.
pub async fn insert(
    store: &FleetStore,
    rows: &Arc<NewReadings>,
    range: Range<usize>,
    limit: Duration,
) -> Result<(Vec<RowOutcome>, Durability), StoreError> {
    let begun = Instant::now();
    // Nearly always all of it is new, and the statement commits by itself: one round trip.
    let (stored, durability) = store.write_within(limit, &INSERT, columns(rows, &range)).await?;
    if stored.len() == range.len() {
        return Ok((vec![RowOutcome::Stored; stored.len()], durability));
    }
    let mut outcomes: HashMap<Key, RowOutcome> = stored.iter().map(|row| (key(row), RowOutcome::Stored)).collect();
    let keys = || range.clone().map(|row| (rows.devices[row], rows.ts[row], rows.digests[row]));
    let missing: Arc<[Key]> = keys().filter(|key| !outcomes.contains_key(key)).collect();
    let there = existing(store, missing, left(begun, limit)).await;
    let (there, durability_there) = there.map_err(|error| StoreError {
        // Some of it was done; or this statement was refused, which says nothing about the rows.
        fault: if stored.is_empty() && error.fault != Fault::Unknown { Fault::Unavailable } else { Fault::Unknown },
        ..error
    })?;
    outcomes.extend(there.iter().map(|row| (key(row), RowOutcome::Exists { content: row.get(3) })));
    let outcomes = keys().map(|key| outcomes.get(&key).copied().unwrap_or(RowOutcome::Vanished)).collect();
    let is_full = durability == Durability::Full && durability_there == Durability::Full;
    Ok((outcomes, if is_full { Durability::Full } else { Durability::Degraded }))
}

/// What was there already, in a transaction that writes WAL first: its commit waits for the standby, which then has what
/// was read in it.
async fn existing(store: &FleetStore, keys: Arc<[Key]>, limit: Duration) -> Result<(Vec<Row>, Durability), StoreError> {
    store
        .commit("readings_commit", limit, move |transaction| {
            let keys = keys.clone();
            Box::pin(async move { existing_in(transaction, &keys).await })
        })
        .await
}

async fn existing_in(transaction: &Transaction<'_>, keys: &[Key]) -> Result<Vec<Row>, tokio_postgres::Error> {
    transaction.execute(WAL_WRITE.sql, &[]).await?;
    let devices: Vec<Uuid> = keys.iter().map(|key| key.0).collect();
    let ts: Vec<OffsetDateTime> = keys.iter().map(|key| key.1).collect();
    let digests: Vec<i64> = keys.iter().map(|key| key.2).collect();
    let existing = transaction.prepare_cached(EXISTING.sql).await?;
    transaction.query(&existing, &[&devices, &ts, &digests, &ts.iter().min(), &ts.iter().max()]).await
}

/// A range of one column, as a parameter.
struct Part<T: 'static> {
    rows: Arc<NewReadings>,
    range: Range<usize>,
    column: fn(&NewReadings) -> &[T],
}

/// The parameters of [`INSERT`].
fn columns(rows: &Arc<NewReadings>, range: &Range<usize>) -> Params {
    vec![
        Box::new(Part::of(rows, range, |rows| &rows.devices)),
        Box::new(Part::of(rows, range, |rows| &rows.ts)),
        Box::new(Part::of(rows, range, |rows| &rows.digests)),
        Box::new(Part::of(rows, range, |rows| &rows.contents)),
        Box::new(Part::of(rows, range, |rows| &rows.values)),
    ]
}

impl<T> Part<T> {
    fn of(rows: &Arc<NewReadings>, range: &Range<usize>, column: fn(&NewReadings) -> &[T]) -> Self {
        Self { rows: rows.clone(), range: range.clone(), column }
    }
}

impl<T> std::fmt::Debug for Part<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rows {:?}", self.range)
    }
}

impl<T: ToSql + Sync> ToSql for Part<T> {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        (&(self.column)(&self.rows)[self.range.clone()]).to_sql(ty, out)
    }

    fn accepts(ty: &Type) -> bool {
        <&[T]>::accepts(ty)
    }

    to_sql_checked!();
}

fn key(row: &Row) -> Key {
    (row.get(0), row.get(1), row.get(2))
}

/// Makes the partition of one day (UTC), outside any ingest transaction. True: it was not there.
pub async fn ensure_partition(store: &FleetStore, day: Date) -> Result<bool, StoreError> {
    let rows = store.upkeep(&PARTITION, vec![Box::new(day)]).await?;
    Ok(rows.first().is_some_and(|row| row.get(0)))
}

/// A reading as it was stored.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredReading {
    pub device: DeviceId,
    pub ts: OffsetDateTime,
    pub digest: i64,
    pub received_at: OffsetDateTime,
    pub values: serde_json::Value,
}

impl StoredReading {
    fn of(row: &Row) -> Self {
        Self {
            device: DeviceId(row.get(0)),
            ts: row.get(1),
            digest: row.get(2),
            received_at: row.get(3),
            values: row.get(4),
        }
    }

    /// Where a page that begins after this reading begins.
    pub fn cursor(&self) -> Cursor {
        Cursor { ts: self.ts, digest: self.digest }
    }
}

/// A place between two readings of a device: after the one with this key, in the order of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    pub ts: OffsetDateTime,
    pub digest: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    OldestFirst,
    NewestFirst,
}

/// Which readings of a device.
#[derive(Clone, Debug)]
pub struct PageQuery {
    pub device: DeviceId,
    /// The first time of the range.
    pub from: OffsetDateTime,
    /// The first time after the range.
    pub to: OffsetDateTime,
    pub order: Order,
    /// Only readings that have this metric.
    pub metric: Option<String>,
    pub after: Option<Cursor>,
    pub limit: u32,
}

/// One page, and the cursor of the next one if there is one.
pub async fn page(store: &FleetStore, query: PageQuery) -> Result<(Vec<StoredReading>, Option<Cursor>), StoreError> {
    let (mut from, mut to) = (query.from, query.to);
    let tick = time::Duration::MICROSECOND;
    // A cursor narrows the range too, so that partitions on its other side are not looked at.
    let (statement, after) = match query.order {
        Order::OldestFirst => {
            let start = Cursor { ts: from.saturating_sub(tick), digest: i64::MAX };
            let after = query.after.filter(|after| after.ts >= from).unwrap_or(start);
            from = from.max(after.ts);
            (&PAGE_ASC, after)
        }
        Order::NewestFirst => {
            let start = Cursor { ts: to, digest: i64::MIN };
            let after = query.after.filter(|after| after.ts < to).unwrap_or(start);
            to = to.min(after.ts.saturating_add(tick));
            (&PAGE_DESC, after)
        }
    };
    let limit = query.limit as usize;
    let params: Params = vec![
        Box::new(query.device.0),
        Box::new(from),
        Box::new(to),
        Box::new(after.ts),
        Box::new(after.digest),
        Box::new(query.metric),
        // One more, to know whether there is a next page.
        Box::new(i64::from(query.limit) + 1),
    ];
    let rows = store.browse(statement, params).await?;
    let items: Vec<StoredReading> = rows.iter().take(limit).map(StoredReading::of).collect();
    let next = if rows.len() > limit { items.last().map(StoredReading::cursor) } else { None };
    Ok((items, next))
}

/// The newest reading of a device.
pub async fn latest(store: &FleetStore, device: DeviceId) -> Result<Option<StoredReading>, StoreError> {
    Ok(latest_of(store, &[device]).await?.remove(&device))
}

/// The newest reading of each of these devices, of those that have one.
pub async fn latest_of(
    store: &FleetStore,
    devices: &[DeviceId],
) -> Result<HashMap<DeviceId, StoredReading>, StoreError> {
    let devices: Vec<Uuid> = devices.iter().map(|device| device.0).collect();
    let rows = store.browse(&LATEST, vec![Box::new(devices)]).await?;
    Ok(rows.iter().map(StoredReading::of).map(|reading| (reading.device, reading)).collect())
}
