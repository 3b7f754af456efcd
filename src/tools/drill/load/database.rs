//! The final database, as evidence.

use std::time::Duration;

use uuid::Uuid;

use crate::domain::time::{from_unix_us, unix_us};
use crate::store::drill_views::DrillView;
use crate::store::{Fault, StoreError, StoreSettings};
use crate::tools::drill::evidence::{Effect, FinalDatabase, OutageSpan, PresenceEvent, StoredReading};

/// Reads what the primary holds of the devices, and of leaders and outages, since `since_unix_us`: microseconds since
/// 1970, on the database's clock; of readings, on the devices' own, which is the drill's. `limit`: until a primary is
/// found.
pub async fn final_database(
    settings: &StoreSettings,
    devices: &[Uuid],
    since_unix_us: i64,
    limit: Duration,
) -> Result<FinalDatabase, StoreError> {
    let no_time = || StoreError::new("drill", Fault::Refused, format!("{since_unix_us} is no time"));
    let since = from_unix_us(since_unix_us).ok_or_else(no_time)?;
    let view = DrillView::open(settings, limit).await?;
    let readings = view.readings(devices, since).await?.into_iter().map(|row| StoredReading {
        device: row.device,
        ts_unix_us: unix_us(row.ts),
        // No device counts a reading as 0: the checker finds one that nobody sent.
        n: row.n.and_then(|n| n.try_into().ok()).unwrap_or(0),
    });
    let effects = view.effects(since).await?.into_iter();
    let presence = view.presence(devices, since).await?.into_iter();
    let outages = view.outages(since).await?.into_iter();
    Ok(FinalDatabase {
        readings: readings.collect(),
        effects: effects
            .map(|row| Effect { role: row.role, timeline: row.timeline, epoch: row.epoch, seq: row.seq })
            .collect(),
        presence: presence
            .map(|row| PresenceEvent {
                device: row.device,
                at_unix_us: unix_us(row.at),
                kind: row.kind,
                cause: row.cause,
            })
            .collect(),
        outages: outages
            .map(|row| OutageSpan {
                started_unix_us: unix_us(row.started_at),
                ended_unix_us: unix_us(row.ended_at),
                replica: row.replica,
            })
            .collect(),
        timeline: view.current_timeline().await?,
    })
}
