//! Readings: many are stored in one commit, few are read at a time.
//!
//! An insert takes its rows in the order of the key, so that two batches cannot deadlock, and leaves rows that exist
//! alone; what they hold is read in the same transaction. The transaction always writes WAL: the commit of one that
//! found everything stored would not wait for the standby, and would acknowledge what a failover may lose.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::Transaction;
use time::{Date, OffsetDateTime};
use tokio_postgres::Row;
use uuid::Uuid;

use super::{Durability, FleetStore, StoreError};
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

/// Stores `rows[range]` in one transaction; one outcome for each row, in order, and where they are now.
pub async fn insert(
    store: &FleetStore,
    rows: &Arc<NewReadings>,
    range: Range<usize>,
    limit: Duration,
) -> Result<(Vec<RowOutcome>, Durability), StoreError> {
    let rows = rows.clone();
    store
        .commit("readings_commit", limit, move |transaction| {
            let (rows, range) = (rows.clone(), range.clone());
            Box::pin(async move { insert_in(transaction, &rows, range).await })
        })
        .await
}

async fn insert_in(
    transaction: &Transaction<'_>,
    rows: &NewReadings,
    range: Range<usize>,
) -> Result<Vec<RowOutcome>, tokio_postgres::Error> {
    let (devices, ts) = (&rows.devices[range.clone()], &rows.ts[range.clone()]);
    let (digests, contents) = (&rows.digests[range.clone()], &rows.contents[range.clone()]);
    let values = &rows.values[range];
    let insert = transaction.prepare_cached(INSERT.sql).await?;
    let stored = transaction.query(&insert, &[&devices, &ts, &digests, &contents, &values]).await?;
    if stored.len() == devices.len() {
        return Ok(vec![RowOutcome::Stored; stored.len()]);
    }
    if stored.is_empty() {
        transaction.execute(WAL_WRITE.sql, &[]).await?;
    }
    let mut outcomes: HashMap<Key, RowOutcome> = stored.iter().map(|row| (key(row), RowOutcome::Stored)).collect();
    let keys = || devices.iter().zip(ts).zip(digests).map(|((device, ts), digest)| (*device, *ts, *digest));
    let missing: Vec<Key> = keys().filter(|key| !outcomes.contains_key(key)).collect();
    for row in existing(transaction, &missing).await? {
        outcomes.insert(key(&row), RowOutcome::Exists { content: row.get(3) });
    }
    Ok(keys().map(|key| outcomes.get(&key).copied().unwrap_or(RowOutcome::Vanished)).collect())
}

async fn existing(transaction: &Transaction<'_>, keys: &[Key]) -> Result<Vec<Row>, tokio_postgres::Error> {
    let devices: Vec<Uuid> = keys.iter().map(|key| key.0).collect();
    let ts: Vec<OffsetDateTime> = keys.iter().map(|key| key.1).collect();
    let digests: Vec<i64> = keys.iter().map(|key| key.2).collect();
    let existing = transaction.prepare_cached(EXISTING.sql).await?;
    transaction.query(&existing, &[&devices, &ts, &digests, &ts.iter().min(), &ts.iter().max()]).await
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
    let params: super::statement::Params = vec![
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
