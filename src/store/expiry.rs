//! Certificates that end soon: how many, which, and the event that says so once. What counts is a device's newest live
//! certificate: one that has a successor may end, and nobody needs to hear of it. Devices that are not active are left
//! out: they may not call anyway.

use std::time::Duration;

use time::OffsetDateTime;
use uuid::Uuid;

use super::control::{Abort, ControlStore};
use super::error::StoreError;
use super::session::Session;
use crate::domain::ids::{DeviceId, Fingerprint};
use crate::domain::lease::Fence;

crate::statements! {
    /// Judges certificates that are near their end, and announces those without a successor.
    NOTICE = "expiry_notice";
}

/// Devices that will be without a certificate soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiring {
    pub within_1_day: i64,
    pub within_7_days: i64,
    pub within_30_days: i64,
}

/// Devices whose newest certificate ends soon. Reads the index on `not_after` from now on.
pub async fn count(store: &ControlStore) -> Result<Expiring, StoreError> {
    store
        .read("credentials_expiring", |c| {
            Box::pin(async move {
                // now(), which is one value for the statement: an index does not go with clock_timestamp().
                let row = sqlx::query_as!(
                    Expiring,
                    r#"-- credentials_expiring: devices whose newest certificate ends soon
                    select count(*) as "within_30_days!",
                           count(*) filter (where c.not_after <= now() + interval '7 days') as "within_7_days!",
                           count(*) filter (where c.not_after <= now() + interval '1 day') as "within_1_day!"
                    from credentials c join devices d on d.id = c.device_id and d.state = 'active'
                    where c.revoked_at is null and c.not_after > now() and c.not_after <= now() + interval '30 days'
                      and not exists (select from credentials newer where newer.device_id = c.device_id
                                        and newer.revoked_at is null
                                        and (newer.not_after, newer.fingerprint) > (c.not_after, c.fingerprint))"#
                )
                .fetch_one(c)
                .await?;
                Ok::<_, Abort<StoreError>>(row)
            })
        })
        .await
}

/// A certificate whose end a device will notice.
#[derive(Clone, Debug)]
pub struct EndingView {
    pub fingerprint: Fingerprint,
    pub device: DeviceId,
    pub device_name: String,
    pub fleet_name: String,
    pub not_before: OffsetDateTime,
    pub not_after: OffsetDateTime,
}

/// Which of them, the first to end first.
#[derive(Clone, Debug, Default)]
pub struct EndingFilter {
    /// The fleets that the caller may see; `None`: all.
    pub scope: Option<Vec<Uuid>>,
    /// Those that end before this.
    pub before: Option<OffsetDateTime>,
    /// Those that come after this one.
    pub after: Option<(OffsetDateTime, Fingerprint)>,
}

/// The newest live certificate of each device, at most `rows_max`.
pub async fn list(store: &ControlStore, filter: EndingFilter, rows_max: i64) -> Result<Vec<EndingView>, StoreError> {
    store
        .read("credentials_ending", move |c| {
            let filter = filter.clone();
            Box::pin(async move {
                let rows = sqlx::query!(
                    r#"-- credentials_ending: the newest certificate of each device, the first to end first
                    select k.fingerprint, k.device_id, d.name, f.name as fleet_name, k.not_before, k.not_after
                    from credentials k join devices d on d.id = k.device_id and d.state = 'active'
                    join fleets f on f.id = d.fleet_id
                    where k.revoked_at is null and k.not_after > now()
                      and ($1::timestamptz is null or k.not_after < $1)
                      and ($2::uuid[] is null or d.fleet_id = any($2))
                      and ($3::timestamptz is null or (k.not_after, k.fingerprint) > ($3, $4::bytea))
                      and not exists (select from credentials newer where newer.device_id = k.device_id
                                        and newer.revoked_at is null
                                        and (newer.not_after, newer.fingerprint) > (k.not_after, k.fingerprint))
                    order by k.not_after, k.fingerprint limit $5"#,
                    filter.before,
                    filter.scope.as_deref(),
                    filter.after.map(|after| after.0),
                    filter.after.as_ref().map(|after| &after.1.0[..]),
                    rows_max
                )
                .fetch_all(c)
                .await?;
                let views = rows.into_iter().filter_map(|row| {
                    Some(EndingView {
                        // The column's constraint says 32 bytes.
                        fingerprint: row.fingerprint.try_into().ok().map(Fingerprint)?,
                        device: DeviceId(row.device_id),
                        device_name: row.name,
                        fleet_name: row.fleet_name,
                        not_before: row.not_before,
                        not_after: row.not_after,
                    })
                });
                Ok::<_, Abort<StoreError>>(views.collect())
            })
        })
        .await
}

/// What one step found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noticed {
    /// `rows_max` of them: look again at once.
    pub judged: i64,
    pub announced: i64,
}

/// Judges certificates of whose life less than `share_percent` is left, each once, and writes `certificate.expiring`
/// for those without a successor. `None`: deposed.
pub async fn notice(
    session: &Session,
    fence: &Fence,
    share_percent: i32,
    rows_max: i64,
    limit: Duration,
) -> Result<Option<Noticed>, StoreError> {
    let params: [&(dyn tokio_postgres::types::ToSql + Sync); 5] =
        [&fence.role, &fence.epoch, &fence.timeline, &share_percent, &rows_max];
    let rows = session.query(&NOTICE, &params, limit).await?;
    let held = rows.first().filter(|row| row.get::<_, i64>("held") > 0);
    Ok(held.map(|row| Noticed { judged: row.get("judged"), announced: row.get("announced") }))
}
