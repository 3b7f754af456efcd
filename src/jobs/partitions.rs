//! The partitions duty: days made ahead, days past the retention dropped, tables trimmed by age, and certificates
//! announced that are near their end.

use std::time::Duration;

use super::effect::{Effects, ROWS_MAX, Stop};
use super::expiry;
use crate::observe::jobs::PassOutcome;
use crate::store::Session;
use crate::store::leases::fence_holds;
use crate::store::partitions::{self, Trim, Trimmed};
use crate::store::retention::{self, ClocksDisagree, RetentionClock};

/// Days dropped in one pass. One a day is due; more only after a stop or a shorter retention.
const DAYS_MAX: i64 = 4;
/// Statements for one table in one pass: 20,000 rows a minute.
const TRIM_STEPS_MAX: usize = 40;
/// Outages, and replicas that are gone, are kept so long for whoever asks why a device was offline.
const EVIDENCE_RETENTION_MS: u64 = 7 * 86_400_000;
/// A detach waits for every transaction that may still read the day. It holds no fence meanwhile, and a cancelled
/// one is finished by the next pass.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(20);
const REMOVAL_OPTIONS: &str = "-c lock_timeout=1000 -c statement_timeout=20000";

pub(super) async fn pass(effects: &mut Effects) -> Result<PassOutcome, Stop> {
    let made = make_ahead(effects).await?;
    let announced = expiry::announce(effects).await?;
    let (mut removed, mut trimmed) = (0, 0);
    if let Some(clock) = retention_clock(effects).await? {
        // A day that cannot be dropped just now keeps nothing else from its due.
        let days = remove_expired(effects, clock).await;
        trimmed = trim(effects, clock).await?;
        removed = days?;
    }
    if made > 0 || removed > 0 || trimmed > 0 || announced > 0 {
        tracing::info!(made, removed, trimmed, announced, "partitions, retention and certificates");
        return Ok(PassOutcome::Done);
    }
    Ok(PassOutcome::NothingDue)
}

/// What ages are counted from in this pass; `None`: the clocks disagree, and nothing may be dropped.
async fn retention_clock(effects: &mut Effects) -> Result<Option<RetentionClock>, Stop> {
    let (limit, wall) = (effects.limit(), effects.wall());
    let (session, _) = effects.ready().await?;
    Ok(match retention::clock(session, wall, limit).await? {
        Ok(clock) => Some(clock),
        Err(ClocksDisagree { database_ahead }) => {
            let database_ahead_s = database_ahead.whole_seconds();
            tracing::warn!(database_ahead_s, "the database's clock and ours are too far apart; nothing is dropped");
            None
        }
    })
}

async fn make_ahead(effects: &mut Effects) -> Result<i32, Stop> {
    let limit = effects.limit();
    // Yesterday, today, and those ahead.
    let days = i32::try_from(effects.settings().partitions_ahead_days).unwrap_or(i32::MAX - 2) + 2;
    let (session, fence) = effects.ready().await?;
    partitions::ensure(session, &fence, days, limit).await?.ok_or(Stop::Deposed)
}

async fn remove_expired(effects: &mut Effects, clock: RetentionClock) -> Result<u32, Stop> {
    let limit = effects.limit();
    let retention = i32::try_from(effects.settings().retention_days).unwrap_or(i32::MAX);
    let (session, _) = effects.ready().await?;
    let expired = partitions::expired(session, clock, retention, DAYS_MAX, limit).await?;
    if expired.is_empty() {
        return Ok(0);
    }
    let remover = effects.connect(REMOVAL_OPTIONS).await?;
    let mut days = 0;
    for day in expired {
        tracing::info!(partition = day.name(), "dropping a day past its retention");
        remove(effects, &remover, day).await?;
        days += 1;
    }
    Ok(days)
}

/// Detach, then drop. Each step can be repeated, and belief and the fence are checked right before it.
async fn remove(effects: &mut Effects, remover: &Session, day: partitions::ExpiredDay) -> Result<(), Stop> {
    let limit = effects.limit();
    let mut step = Some(day);
    while let Some(day) = step {
        let (session, fence) = effects.ready().await?;
        if !fence_holds(session, &fence, limit).await? {
            return Err(Stop::Deposed);
        }
        let then = partitions::remove_step(remover, &day, REMOVAL_TIMEOUT + limit).await?;
        step = then.map(|removal| day.at(removal));
    }
    Ok(())
}

async fn trim(effects: &mut Effects, clock: RetentionClock) -> Result<i64, Stop> {
    let settings = effects.settings();
    let ages = [
        (Trimmed::Changes, settings.changes_retention_ms),
        (Trimmed::Events, settings.events_retention_ms),
        (Trimmed::LeaderEffects, settings.effects_retention_ms),
        (Trimmed::IdempotencyKeys, settings.idempotency_retention_ms),
        (Trimmed::Outages, EVIDENCE_RETENTION_MS),
        (Trimmed::Replicas, EVIDENCE_RETENTION_MS),
    ];
    let limit = effects.limit();
    let mut all = 0;
    for (table, age_ms) in ages {
        for _ in 0..TRIM_STEPS_MAX {
            let (session, fence) = effects.ready().await?;
            let trim = Trim { table, age: Duration::from_millis(age_ms), rows_max: ROWS_MAX };
            let gone = partitions::trim(session, &fence, clock, trim, limit).await?.ok_or(Stop::Deposed)?;
            all += gone;
            if gone < ROWS_MAX {
                break;
            }
        }
    }
    Ok(all)
}
