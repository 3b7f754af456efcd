//! Certificates that are near their end and have no successor are announced, once each: the device should have renewed
//! by then. Done by the partitions duty, with the rest of its housekeeping.

use super::effect::{Effects, ROWS_MAX, Stop};
use crate::store::expiry;

/// Statements in one pass: 20,000 certificates a minute.
const STEPS_MAX: usize = 40;

/// How many were announced.
pub(super) async fn announce(effects: &mut Effects) -> Result<i64, Stop> {
    let limit = effects.limit();
    let share_percent = i32::try_from(effects.settings().expiring_percent).unwrap_or(i32::MAX);
    let mut announced = 0;
    for _ in 0..STEPS_MAX {
        let (session, fence) = effects.ready().await?;
        let noticed = expiry::notice(session, &fence, share_percent, ROWS_MAX, limit).await?.ok_or(Stop::Deposed)?;
        announced += noticed.announced;
        if noticed.judged < ROWS_MAX {
            break;
        }
    }
    Ok(announced)
}
