//! Events as consumers follow them.
//!
//! - Numbers are drawn before their commit, so a page holds only events with `xid` below the xmin of its own
//!   snapshot, in `(xid, id)` order: whatever commits later comes after every page that was given.
//! - A [`Position`] is always that of an event that was committed and seen (or of the last one that retention
//!   dropped), never xmin itself: a failover may hand out again the numbers of transactions that wrote nothing.
//! - A position before the floor (what retention has dropped), or after the end of what this database has (another
//!   database's, or one whose end a failover lost), is stale: the consumer must hear of it, for the gap is not empty.

use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::control::{Abort, ControlStore};
use super::error::StoreError;
use crate::domain::ids::DeviceId;

/// One row of `events`.
#[derive(Clone, Debug)]
pub struct EventView {
    pub id: i64,
    pub xid: i64,
    pub at: OffsetDateTime,
    pub kind: String,
    pub fleet_id: Option<Uuid>,
    pub device_id: Option<Uuid>,
    pub status_seq: Option<i64>,
    pub cause: Option<String>,
    pub detail: serde_json::Value,
}

/// A place between two events: after the one with this `(xid, id)`, in the order of the page.
pub type Position = (i64, i64);

impl EventView {
    pub fn position(&self) -> Position {
        (self.xid, self.id)
    }
}

/// Which events, and in which order.
#[derive(Clone, Debug, Default)]
pub struct EventFilter {
    /// Only events of these fleets; `None`: all, those of no fleet too.
    pub scope: Option<Vec<Uuid>>,
    pub device: Option<DeviceId>,
    /// How the kind begins.
    pub kind_prefix: Option<String>,
    pub newest_first: bool,
    pub after: Option<Position>,
}

/// A page, and where the whole log ends for now.
#[derive(Clone, Debug)]
pub struct EventRows {
    pub rows: Vec<EventView>,
    /// The last event of all that may be given now, whatever the filter.
    pub end: Position,
}

/// Why there is no page.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EventsRefusal {
    /// The position is not one from which nothing is missing.
    #[error("the position is stale")]
    Stale,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Events, at most `rows_max`.
pub async fn page(store: &ControlStore, filter: EventFilter, rows_max: i64) -> Result<EventRows, EventsRefusal> {
    store
        .read("event_views", move |c| {
            let filter = filter.clone();
            Box::pin(async move {
                let (_, end) = bounds(c).await?;
                // Nothing at or before the end is still to come. What retention drops meanwhile moves the floor,
                // which is therefore read last.
                let rows = if filter.newest_first {
                    newest_first(c, &filter, end, rows_max).await?
                } else {
                    oldest_first(c, &filter, end, rows_max).await?
                };
                let (floor, _) = bounds(c).await?;
                let stale = filter.after.is_some_and(|after| after < floor || after > end);
                if stale && !filter.newest_first {
                    return Err(Abort::Refuse(EventsRefusal::Stale));
                }
                Ok(EventRows { rows, end })
            })
        })
        .await
}

/// The floor, and the last event that may be given.
async fn bounds(c: &mut PgConnection) -> Result<(Position, Position), sqlx::Error> {
    let row = sqlx::query!(
        r#"-- event_bounds: what retention has dropped, and where the log ends for now
        select f.xid::text::bigint as "floor_xid!", f.id as floor_id,
               l.xid::text::bigint as "last_xid?", l.id as "last_id?"
        from event_floor f left join lateral (
          select xid, id from events where xid < pg_snapshot_xmin(pg_current_snapshot())
          order by xid desc, id desc limit 1) l on true"#
    );
    let row = row.fetch_one(c).await?;
    let floor = (row.floor_xid, row.floor_id);
    Ok((floor, row.last_xid.zip(row.last_id).map_or(floor, |last| last.max(floor))))
}

/// The same statement in both directions: one text would have to sort by an expression that no index has.
macro_rules! select {
    ($name:ident, $beyond:literal, $order:literal, $start:expr) => {
        async fn $name(
            c: &mut PgConnection,
            filter: &EventFilter,
            end: Position,
            rows_max: i64,
        ) -> Result<Vec<EventView>, sqlx::Error> {
            let after = filter.after.unwrap_or($start);
            let rows = sqlx::query_as!(
                EventView,
                r#"-- event_views: a page of events
                select id, xid::text::bigint as "xid!", at, kind, fleet_id, device_id, status_seq, cause, detail
                from events
                where (xid, id) <= ($1::bigint::text::xid8, $2::bigint) and (xid, id) "#
                    + $beyond
                    + r#" ($3::bigint::text::xid8, $4::bigint)
                  and ($5::uuid[] is null or fleet_id = any($5)) and ($6::uuid is null or device_id = $6)
                  and ($7::text is null or starts_with(kind, $7))
                order by "#
                    + $order
                    + " limit $8",
                end.0,
                end.1,
                after.0,
                after.1,
                filter.scope.as_deref(),
                filter.device.map(|device| device.0),
                filter.kind_prefix.as_deref(),
                rows_max
            );
            rows.fetch_all(c).await
        }
    };
}

select!(oldest_first, ">", "xid, id", (0, 0));
select!(newest_first, "<", "xid desc, id desc", (i64::MAX, i64::MAX));
