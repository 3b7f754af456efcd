//! Presence in the database: the flush of contacts, promises, goodbyes, and the tick with its record of outages. Time
//! is the database's; a replica sends ages.
//!
//! **A contact's time is never later than the contact.** Ages are counted on the replica's boot clock back from the
//! moment at which the *anchor* arrived: the database's clock, read in the same transaction. So neither a queue, a
//! retry nor a wait for a lock moves a contact forward in time, past a goodbye that another replica took meanwhile;
//! the error is one round trip, into the past.
//!
//! **A late tick closes nothing too early.** The tick reads the clock under its row's lock and keeps the lock until
//! its COMMIT is through. If that waits for the standby, what becomes visible afterwards is the *old* moment: not
//! fresh for the sweep, and the next tick finds the gap and records it. Nobody ticks in between, so no interval is
//! cut short; a failover during the wait loses the tick and changes the timeline, which opens an interval as well.
//! Judging silence as of the tick, not as of now, closes the window between the two.
//!
//! Deliberately absent: any index on `presence` (it would end HOT updates), and inserting presence rows (enrollment
//! makes them).

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::Transaction;
use time::OffsetDateTime;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::readings::WAL_WRITE;
use super::statement::Params;
use super::{Durability, FleetStore, StoreError};
use crate::domain::database_clock::DatabaseClock;
use crate::domain::ids::{DeviceId, Fingerprint, ReplicaId};
use crate::domain::presence::Said;
use crate::domain::time::Boottime;

crate::statements! {
    /// The database's clock, for the ages of one flush.
    ANCHOR = "presence_anchor";
    /// Contacts of many devices.
    FLUSH = "presence_flush";
    /// The replica's own row, and how far it has flushed.
    WATERMARK = "presence_watermark";
    /// The replica's record of having refused heartbeats.
    SHED = "presence_shed";
    /// Stored promises.
    PROMISES = "presence_promises";
    /// Longer promises.
    EXTEND = "presence_extend";
    /// A device leaves on purpose.
    GOODBYE = "presence_goodbye";
    /// The write path works; the record of outages.
    TICK = "presence_tick";
}

/// Of any hour, so much may be taken out of the silence of one replica's devices because the replica refused their
/// heartbeats. Longer: a replica that sheds all the time hides that its devices are gone.
pub const SHED_MAX: Duration = Duration::from_mins(15);

/// The replica that writes, as its row in `replicas` says it.
#[derive(Clone, Debug)]
pub struct Me {
    pub id: ReplicaId,
    pub addr: String,
    pub version: &'static str,
}

/// All that one device said since the last flush.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contacts {
    pub device: DeviceId,
    /// Of the newest contact.
    pub fingerprint: Fingerprint,
    pub newest: Boottime,
    /// How many.
    pub count: i64,
    /// The newest promise that was given, in milliseconds, and when. Longer than the stored one only after [`extend`].
    pub promise: Option<(i64, Boottime)>,
    /// The newest of each.
    pub said: Said,
}

/// One transaction of a flush.
#[derive(Clone)]
pub struct Flush {
    pub me: Me,
    pub contacts: Arc<Vec<Contacts>>,
    /// Everything acknowledged before this moment is in the database once this transaction has committed.
    /// `None`: more is to come.
    pub through: Option<Boottime>,
    /// Heartbeats were refused since.
    pub refused_since: Option<Boottime>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flushed {
    /// Devices whose contacts were taken; the others are suspended, decommissioned or hold no live credential.
    pub applied: i64,
    /// Devices that came online.
    pub revived: i64,
    /// Refusals were not recorded: this replica has had [`SHED_MAX`] of them in the last hour.
    pub shed_beyond_cap: bool,
}

/// Writes contacts, and lets `clock` know what the database's clock says. Sent again after an unknown outcome it
/// changes nothing but `hb_seq`, which is evidence only.
pub async fn flush(store: &FleetStore, clock: &DatabaseClock, flush: Flush) -> Result<Flushed, StoreError> {
    let (clock, flush) = (clock.clone(), Arc::new(flush));
    // The work is called anew for each try, so that ages are counted from that try's anchor.
    store
        .transact(FLUSH.name, store.deadline(), move |transaction| {
            let (clock, flush) = (clock.clone(), flush.clone());
            Box::pin(async move { flush_in(transaction, &clock, &flush).await })
        })
        .await
}

async fn flush_in(
    transaction: &Transaction<'_>,
    clock: &DatabaseClock,
    flush: &Flush,
) -> Result<Flushed, tokio_postgres::Error> {
    let ask = prepared(transaction, &ANCHOR).await?;
    let sent = clock.own().boottime();
    let anchor: OffsetDateTime = transaction.query_one(&ask, &[]).await?.get("at");
    let now = clock.own().boottime();
    clock.observe(sent, anchor);
    let at = |moment: Boottime| anchor - time::Duration::microseconds(age_us(now, moment));
    let mut flushed = if flush.contacts.is_empty() {
        Flushed::default()
    } else {
        write_contacts(transaction, flush, anchor, now).await?
    };
    if let Some(since) = flush.refused_since {
        let shed = prepared(transaction, &SHED).await?;
        let row = transaction.query_one(&shed, &[&flush.me.id.0, &at(since), &ms(SHED_MAX)]).await?;
        flushed.shed_beyond_cap = !row.get::<_, bool>("recorded");
    }
    // After the record of refusals, so that no sweep sees the replica well and the record missing.
    let through = flush.through.map(at);
    let watermark = prepared(transaction, &WATERMARK).await?;
    transaction.execute(&watermark, &[&flush.me.id.0, &flush.me.addr, &flush.me.version, &through]).await?;
    Ok(flushed)
}

async fn write_contacts(
    transaction: &Transaction<'_>,
    flush: &Flush,
    anchor: OffsetDateTime,
    now: Boottime,
) -> Result<Flushed, tokio_postgres::Error> {
    let all = &flush.contacts;
    let devices: Vec<Uuid> = all.iter().map(|c| c.device.0).collect();
    let ages: Vec<i64> = all.iter().map(|c| age_us(now, c.newest)).collect();
    let fingerprints: Vec<&[u8]> = all.iter().map(|c| c.fingerprint.0.as_slice()).collect();
    let counts: Vec<i64> = all.iter().map(|c| c.count).collect();
    let promises: Vec<Option<i64>> = all.iter().map(|c| c.promise.map(|(ms, _)| ms)).collect();
    let promise_ages: Vec<Option<i64>> = all.iter().map(|c| c.promise.map(|(_, given)| age_us(now, given))).collect();
    let seqs: Vec<Option<i64>> = all.iter().map(|c| c.said.seq).collect();
    let statuses: Vec<Option<&str>> = all.iter().map(|c| c.said.status.as_deref()).collect();
    let statement = prepared(transaction, &FLUSH).await?;
    let me = flush.me.id.0;
    let columns: [&(dyn ToSql + Sync); 10] =
        [&devices, &ages, &fingerprints, &counts, &promises, &promise_ages, &anchor, &me, &seqs, &statuses];
    let row = transaction.query_one(&statement, &columns).await?;
    Ok(Flushed { applied: row.get("applied"), revived: row.get("revived"), shed_beyond_cap: false })
}

async fn prepared(
    transaction: &Transaction<'_>,
    statement: &'static super::Statement,
) -> Result<tokio_postgres::Statement, tokio_postgres::Error> {
    transaction.prepare_cached(statement.sql).await
}

/// Rounded up: a contact must never look younger than it is.
fn age_us(now: Boottime, moment: Boottime) -> i64 {
    let nanos = now.since(moment).as_nanos();
    i64::try_from(nanos.div_ceil(1_000)).unwrap_or(i64::MAX)
}

/// The stored promises, in milliseconds; a device without a row is missing from the answer. Writes nothing.
pub async fn promises(store: &FleetStore, devices: &[DeviceId]) -> Result<Vec<(DeviceId, i64)>, StoreError> {
    let devices: Vec<Uuid> = devices.iter().map(|device| device.0).collect();
    let rows = store.read(&PROMISES, vec![Box::new(devices)]).await?;
    Ok(rows.iter().map(promise).collect())
}

/// Commits something after [`promises`]: what those have seen is then where this is.
pub async fn settle(store: &FleetStore) -> Result<Durability, StoreError> {
    let (_, durability) = store.write_within(store.deadline(), &WAL_WRITE, Vec::new()).await?;
    Ok(durability)
}

/// Commits longer promises (milliseconds; at most one for each device) and returns what is stored now, which another
/// replica may have made longer still, and where it is. Counts as a contact with `me`. A device that is not active is
/// missing.
pub async fn extend(
    store: &FleetStore,
    me: ReplicaId,
    wanted: &[(DeviceId, i64)],
) -> Result<(Vec<(DeviceId, i64)>, Durability), StoreError> {
    let devices: Vec<Uuid> = wanted.iter().map(|(device, _)| device.0).collect();
    let promises: Vec<i64> = wanted.iter().map(|(_, ms)| *ms).collect();
    let params: Params = vec![Box::new(devices), Box::new(promises), Box::new(me.0)];
    let (rows, durability) = store.write_within(store.deadline(), &EXTEND, params).await?;
    Ok((rows.iter().map(promise).collect(), durability))
}

fn promise(row: &Row) -> (DeviceId, i64) {
    (DeviceId(row.get("device_id")), row.get("promise_ms"))
}

/// What a device says when it leaves.
#[derive(Clone, Debug)]
pub struct Goodbye {
    pub device: DeviceId,
    pub fingerprint: Fingerprint,
    pub reason: Option<String>,
    pub back_at: Option<OffsetDateTime>,
}

/// Commits a goodbye: the device is offline at once. False: the device or its credential is no longer live, and
/// nothing was written.
pub async fn goodbye(store: &FleetStore, me: ReplicaId, goodbye: Goodbye) -> Result<bool, StoreError> {
    let Goodbye { device, fingerprint, reason, back_at } = goodbye;
    let fingerprint = fingerprint.0.to_vec();
    let rows = store
        .write(
            &GOODBYE,
            vec![Box::new(device.0), Box::new(fingerprint), Box::new(reason), Box::new(back_at), Box::new(me.0)],
        )
        .await?;
    Ok(!rows.is_empty())
}

/// How many outages may restart deadlines.
#[derive(Clone, Copy, Debug)]
pub struct RestartCap {
    /// An outage that is preceded, within the window, by this many of its kind (everybody's, or one replica's)
    /// restarts nothing. Its length is not counted as silence all the same.
    pub restarts_max: i64,
    pub window: Duration,
}

/// What a tick found.
#[derive(Clone, Debug)]
pub struct Ticked {
    /// Why silence proves nothing since the last tick, where that is so: `gap`, `timeline`, `restart`, `start`.
    pub cause: Option<String>,
    /// A new outage began; false while one goes on.
    pub opened: bool,
    /// Since the last tick, in microseconds. Negative: the database's clock was set back.
    pub since_us: i64,
    /// False: so many outages lately that this one restarts no deadlines.
    pub restarts: bool,
}

/// Ticks. `gap_max`: a longer time since the last tick, of any replica, is an outage.
pub async fn tick(
    store: &FleetStore,
    me: ReplicaId,
    gap_max: Duration,
    cap: RestartCap,
) -> Result<Option<Ticked>, StoreError> {
    let rows = store
        .upkeep(
            &TICK,
            vec![Box::new(me.0), Box::new(ms(gap_max)), Box::new(ms(cap.window)), Box::new(cap.restarts_max)],
        )
        .await?;
    Ok(rows.first().map(|row| Ticked {
        cause: row.get("cause"),
        opened: row.get("opened"),
        since_us: row.get("since_us"),
        restarts: row.get("restarts"),
    }))
}

pub(super) fn ms(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}
