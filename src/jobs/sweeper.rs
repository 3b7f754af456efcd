//! The sweeper duty: devices whose silence has gone on for too long become suspect, then offline. The statement
//! itself carries the fence, and refuses to judge anybody while the write path is not proved fresh.

use super::effect::{Effects, Stop};
use crate::observe::jobs::PassOutcome;
use crate::store::presence;

/// Statements in one pass: 50,000 devices. What is left waits for the next pass.
const STEPS_MAX: usize = 100;

pub(super) async fn pass(effects: &mut Effects) -> Result<PassOutcome, Stop> {
    let limit = effects.limit();
    let settings = effects.settings().sweep;
    let (mut suspect, mut offline) = (0, 0);
    for _ in 0..STEPS_MAX {
        let (session, fence) = effects.ready().await?;
        let swept = presence::sweep(session, &fence, &settings, limit).await?;
        if !swept.fence_held {
            return Err(Stop::Deposed);
        }
        if !swept.tick_fresh {
            return Ok(PassOutcome::TickNotFresh);
        }
        suspect += swept.suspect;
        offline += swept.offline;
        // Due, but nothing changed: it is held back on purpose, and to ask again at once would change nothing.
        if swept.due < settings.rows_max || swept.suspect + swept.offline == 0 {
            break;
        }
    }
    if suspect + offline == 0 {
        return Ok(PassOutcome::NothingDue);
    }
    tracing::info!(suspect, offline, "devices fell silent");
    Ok(PassOutcome::Done)
}
