//! Replicas, outages and the tick as operators see them. Reads only.

use time::OffsetDateTime;
use uuid::Uuid;

use super::control::{Abort, ControlStore};
use super::error::StoreError;

/// One row of `replicas`.
#[derive(Clone, Debug)]
pub struct ReplicaView {
    pub id: Uuid,
    pub addr: String,
    pub version: String,
    pub started_at: OffsetDateTime,
    pub seen_at: OffsetDateTime,
    pub flushed_through: OffsetDateTime,
}

/// One row of `outages`.
#[derive(Clone, Debug)]
pub struct OutageView {
    pub id: i64,
    pub started_at: OffsetDateTime,
    pub ended_at: OffsetDateTime,
    pub cause: String,
    pub replica: Option<Uuid>,
}

/// Replicas in the order of their ids, which is that of their starts; those after `after`.
pub async fn replicas(
    store: &ControlStore,
    after: Option<Uuid>,
    rows_max: i64,
) -> Result<Vec<ReplicaView>, StoreError> {
    store
        .read("replica_views", move |c| {
            Box::pin(async move {
                let rows = sqlx::query_as!(
                    ReplicaView,
                    "-- replica_views: a page of replicas
                    select id, addr, version, started_at, seen_at, flushed_through from replicas
                    where $1::uuid is null or id > $1 order by id limit $2",
                    after,
                    rows_max
                )
                .fetch_all(c)
                .await?;
                Ok::<_, Abort<StoreError>>(rows)
            })
        })
        .await
}

/// Outages, the newest first; those recorded before `before`.
pub async fn outages(store: &ControlStore, before: Option<i64>, rows_max: i64) -> Result<Vec<OutageView>, StoreError> {
    store
        .read("outage_views", move |c| {
            Box::pin(async move {
                let rows = sqlx::query_as!(
                    OutageView,
                    "-- outage_views: a page of outages, the newest first
                    select id, started_at, ended_at, cause, replica from outages
                    where $1::bigint is null or id < $1 order by id desc limit $2",
                    before,
                    rows_max
                )
                .fetch_all(c)
                .await?;
                Ok::<_, Abort<StoreError>>(rows)
            })
        })
        .await
}

/// Outages that one answer looks at.
const OUTAGES_MAX: i64 = 2_000;

/// What the silence of a device is judged by, apart from the device itself.
#[derive(Clone, Debug, Default)]
pub struct Hearing {
    /// The last tick; `None`: nobody has ticked yet.
    pub tick: Option<OffsetDateTime>,
    /// Of the replica that heard the device last, if that is on record.
    pub flushed_through: Option<OffsetDateTime>,
    /// Everybody's and that replica's, the newest first.
    pub outages: Vec<OutageView>,
}

/// Could we have heard a device that was heard last through `replica`? Outages that ended after `since`: the last
/// contact, less the window in which outages are counted.
pub async fn hearing(
    store: &ControlStore,
    replica: Option<Uuid>,
    since: OffsetDateTime,
) -> Result<Hearing, StoreError> {
    store
        .read("hearing", move |c| {
            Box::pin(async move {
                let tick =
                    sqlx::query_scalar!("select at from tick where timeline > 0").fetch_optional(&mut *c).await?;
                let flushed_through = match replica {
                    None => None,
                    Some(id) => {
                        sqlx::query_scalar!("select flushed_through from replicas where id = $1", id)
                            .fetch_optional(&mut *c)
                            .await?
                    }
                };
                let outages = sqlx::query_as!(
                    OutageView,
                    "-- hearing: the outages that this silence may be judged by, the newest first
                    select id, started_at, ended_at, cause, replica from outages
                    where ended_at > $2 and (replica is null or replica = $1) order by ended_at desc, id desc limit $3",
                    replica,
                    since,
                    OUTAGES_MAX
                )
                .fetch_all(c)
                .await?;
                Ok::<_, Abort<StoreError>>(Hearing { tick, flushed_through, outages })
            })
        })
        .await
}
