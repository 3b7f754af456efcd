//! The statements of leases (design: leases). The row decides, the epoch fences, the advisory lock only speeds up
//! take-over. Every function runs one statement on a dedicated session; its error means that nothing is known to
//! have changed, and extends nothing.
//!
//! A session has a `statement_timeout` here, unlike those of readings: PostgreSQL disarms it before it commits
//! (`finish_xact_command`; tried on 15: an INSERT under `statement_timeout=500` went on waiting for its standby), so
//! it bounds the wait for locks and never cuts the wait for the standby short.

use std::time::Duration;

use time::OffsetDateTime;
use uuid::Uuid;

use super::error::StoreError;
use super::session::Session;
use super::{Abort, ControlStore};
use crate::domain::ids::ReplicaId;
use crate::domain::lease::{Fence, Seen};
use crate::statements;

/// Rung when a lease is given back, in a transaction of its own. Whoever hears it campaigns for its own duty.
pub const DOORBELL: &str = "everbeat_lease";

statements! {
    LOCK = "lease_lock";
    UNLOCK = "lease_unlock";
    CAMPAIGN = "lease_campaign";
    RENEW = "lease_renew";
    RESIGN = "lease_resign";
    EFFECT = "lease_effect";
    UNBLOCK = "lease_unblock";
    FENCE_CHECK = "fence_check";
}

/// Who wants the lease of which duty.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    pub role: &'static str,
    pub holder: ReplicaId,
    pub addr: &'a str,
    pub ttl: Duration,
}

/// A lease's row as a campaign found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub seen: Seen,
    /// On the database's clock.
    pub expires_at: OffsetDateTime,
    pub effect_pid: Option<i32>,
}

/// How a campaign ended. `found`: the row before it, if there was one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Campaign {
    Won { fence: Fence, found: Option<Found> },
    Lost { found: Option<Found> },
}

/// Tries for the session's advisory lock.
pub async fn try_lock(session: &Session, role: &'static str, limit: Duration) -> Result<bool, StoreError> {
    let rows = session.query(&LOCK, &[&role], limit).await?;
    Ok(rows.first().is_some_and(|row| row.get("locked")))
}

/// Gives back all advisory locks of the session.
pub async fn unlock(session: &Session, limit: Duration) -> Result<(), StoreError> {
    session.query(&UNLOCK, &[], limit).await.map(drop)
}

/// Campaigns. `has_lock`: this session holds the advisory lock. `stale`: what was seen unchanged for a full TTL on
/// one's own clock.
pub async fn campaign(
    session: &Session,
    candidate: &Candidate<'_>,
    has_lock: bool,
    stale: Option<Seen>,
    limit: Duration,
) -> Result<Campaign, StoreError> {
    let (holder, epoch, renewed_at) = split(stale);
    let rows = session
        .query(
            &CAMPAIGN,
            &[
                &candidate.role,
                &candidate.holder.0,
                &millis(candidate.ttl),
                &has_lock,
                &candidate.addr,
                &holder,
                &epoch,
                &renewed_at,
            ],
            limit,
        )
        .await?;
    let Some(row) = rows.first() else {
        return Ok(Campaign::Lost { found: None });
    };
    let found = row.get::<_, Option<i64>>("epoch").map(|epoch| Found {
        seen: Seen { holder: row.get("holder"), epoch, renewed_at: row.get("renewed_at") },
        expires_at: row.get("expires_at"),
        effect_pid: row.get("effect_pid"),
    });
    let won: Option<i64> = row.get("won_epoch");
    Ok(match won {
        Some(epoch) => {
            Campaign::Won { fence: Fence { role: candidate.role, epoch, timeline: row.get("won_timeline") }, found }
        }
        None => Campaign::Lost { found },
    })
}

/// Renews. False: the row is another's, or the timeline has changed; step down.
pub async fn renew(
    session: &Session,
    candidate: &Candidate<'_>,
    fence: &Fence,
    has_lock: bool,
    limit: Duration,
) -> Result<bool, StoreError> {
    let rows = session
        .query(
            &RENEW,
            &[&fence.role, &candidate.holder.0, &fence.epoch, &fence.timeline, &millis(candidate.ttl), &has_lock],
            limit,
        )
        .await?;
    Ok(!rows.is_empty())
}

/// Gives the lease back: row and epoch stay, so that the next token is higher. False: it was another's already.
pub async fn resign(session: &Session, holder: ReplicaId, fence: &Fence, limit: Duration) -> Result<bool, StoreError> {
    let rows = session.query(&RESIGN, &[&fence.role, &holder.0, &fence.epoch, &fence.timeline], limit).await?;
    Ok(!rows.is_empty())
}

/// Rings [`DOORBELL`]. After the commit of what it announces: a notifier that waits for the standby holds up all
/// others.
pub async fn ring(session: &Session, limit: Duration) -> Result<(), StoreError> {
    session.batch("lease_ring", "notify everbeat_lease", limit).await
}

/// Listens for [`DOORBELL`].
pub async fn listen(session: &Session, limit: Duration) -> Result<(), StoreError> {
    session.batch("lease_listen", "listen everbeat_lease", limit).await
}

/// Makes this session the effect session of the fence's duty: names it, and writes its pid into the row. A backend
/// that stood there before is ended, so that a duty has one effect under way at most. False: deposed.
pub async fn become_effect(
    session: &Session,
    holder: ReplicaId,
    fence: &Fence,
    limit: Duration,
) -> Result<bool, StoreError> {
    let name = format!("set application_name = 'everbeat/effect/{}'", fence.role);
    session.batch("lease_effect_name", &name, limit).await?;
    let rows = session.query(&EFFECT, &[&fence.role, &holder.0, &fence.epoch, &fence.timeline], limit).await?;
    Ok(rows.first().is_some_and(|row| row.get::<_, i64>("held") > 0))
}

/// Ends the effect backend that keeps a winnable lease's fence from this candidate. True: there was one.
pub async fn unblock(
    session: &Session,
    candidate: &Candidate<'_>,
    has_lock: bool,
    stale: Option<Seen>,
    limit: Duration,
) -> Result<bool, StoreError> {
    let (holder, epoch, renewed_at) = split(stale);
    let rows = session
        .query(&UNBLOCK, &[&candidate.role, &candidate.holder.0, &has_lock, &holder, &epoch, &renewed_at], limit)
        .await?;
    Ok(rows.iter().any(|row| row.get("ended")))
}

/// Does the fence hold? For effects that cannot carry it in their own statement; right before them.
pub async fn fence_holds(session: &Session, fence: &Fence, limit: Duration) -> Result<bool, StoreError> {
    let rows = session.query(&FENCE_CHECK, &[&fence.role, &fence.epoch, &fence.timeline], limit).await?;
    Ok(!rows.is_empty())
}

/// A lease as operators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseView {
    pub role: String,
    /// `None`: it was given back.
    pub holder: Option<Uuid>,
    pub addr: String,
    pub epoch: i64,
    pub timeline: i32,
    pub acquired_at: OffsetDateTime,
    pub renewed_at: OffsetDateTime,
    pub expires_at: OffsetDateTime,
    /// On the database's clock.
    pub expired: bool,
}

/// All leases, by role.
pub async fn list(store: &ControlStore) -> Result<Vec<LeaseView>, StoreError> {
    store
        .read("lease_list", |connection| {
            Box::pin(async move {
                sqlx::query_as!(
                    LeaseView,
                    r#"-- lease_list: all leases, by role
                    select role, holder, addr, epoch, timeline, acquired_at, renewed_at, expires_at,
                           expires_at <= clock_timestamp() as "expired!"
                    from leader_lease order by role"#
                )
                .fetch_all(connection)
                .await
                .map_err(Abort::Sql)
            })
        })
        .await
}

fn split(seen: Option<Seen>) -> (Option<Uuid>, Option<i64>, Option<OffsetDateTime>) {
    (seen.and_then(|seen| seen.holder), seen.map(|seen| seen.epoch), seen.map(|seen| seen.renewed_at))
}

fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}
