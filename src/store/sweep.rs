//! Judging silence, on the session of the sweeper duty: a look finds who may be due, a sweep judges them. The rule is
//! `presence::detector`'s.

use std::ops::Range;
use std::time::Duration;

use time::OffsetDateTime;
use uuid::Uuid;

use super::presence::{RestartCap, ms};
use super::{Session, StoreError};
use crate::domain::lease::Fence;

crate::statements! {
    /// Devices that may fall due within a time.
    LOOK = "presence_look";
    /// Silent devices become suspect and offline.
    SWEEP = "presence_sweep";
}

/// No `Default`: the same values must reach the ticks of every replica and the sweep.
#[derive(Clone, Copy, Debug)]
pub struct SweepSettings {
    /// Devices in one statement: the fence is held as long as it runs. At most 500.
    pub rows_max: i64,
    /// A tick older than this proves nothing: the sweep changes nothing.
    pub tick_fresh: Duration,
    /// How long a replica that cannot flush goes on acknowledging heartbeats; a replica that has not flushed for
    /// longer is cut off or dead. The same as the replicas' own `blind_max`, or longer.
    pub blind_max: Duration,
    pub cap: RestartCap,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// False: deposed. Nothing was changed.
    pub fence_held: bool,
    /// False: no fresh tick on this primary, or a clock that was set back. Nothing was changed.
    pub tick_fresh: bool,
    /// Devices that were found due. `rows_max` of them: sweep again at once.
    pub due: i64,
    pub suspect: i64,
    pub offline: i64,
    /// The effect's number, drawn under the fence, if anything was changed.
    pub seq: Option<i64>,
    pub restarts: Restarts,
}

/// Which outages gave devices a new deadline, and when: of one replica's, or (`None`) of everybody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restarts {
    replicas: Vec<Option<Uuid>>,
    at: Vec<OffsetDateTime>,
}

/// How far a look sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Horizon {
    /// Devices whose silence may be due within this time. Zero: now.
    pub within: Duration,
    /// And all whose shortest deadline is less than this: it may come about unseen before the next look. Zero: none.
    pub soon: Duration,
    /// No more than so many.
    pub devices_max: Option<usize>,
}

impl Horizon {
    pub fn sees_ahead(&self) -> bool {
        self.within > Duration::ZERO
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Looked {
    /// Whoever else falls due within the horizon has been heard, or changed, since.
    pub devices: Vec<Uuid>,
    /// Of the table.
    pub pages: i64,
}

/// Looks through some pages of the table, without the fence: it changes nothing, and takes no row that [`sweep`] would
/// not judge again. `restarts`: what the last sweep said.
pub async fn look(
    session: &Session,
    pages: Range<i64>,
    horizon: Horizon,
    restarts: &Restarts,
    limit: Duration,
) -> Result<Looked, StoreError> {
    let (within, soon) = (ms(horizon.within), ms(horizon.soon));
    let max = horizon.devices_max.and_then(|max| i64::try_from(max).ok());
    let Restarts { replicas, at } = restarts;
    let rows = session.query(&LOOK, &[&pages.start, &pages.end, &within, &soon, replicas, at, &max], limit).await?;
    Ok(rows.first().map_or_else(Looked::default, |row| Looked { devices: row.get("devices"), pages: row.get("pages") }))
}

/// One sweep over `devices` under the fence and within `limit`.
pub async fn sweep(
    session: &Session,
    fence: &Fence,
    settings: &SweepSettings,
    devices: &[Uuid],
    limit: Duration,
) -> Result<Swept, StoreError> {
    let (fresh, blind, window) = (ms(settings.tick_fresh), ms(settings.blind_max), ms(settings.cap.window));
    let rows = session
        .query(
            &SWEEP,
            &[
                &fence.role,
                &fence.epoch,
                &fence.timeline,
                &settings.rows_max,
                &fresh,
                &blind,
                &settings.cap.restarts_max,
                &window,
                &devices,
            ],
            limit,
        )
        .await?;
    Ok(rows.first().map_or_else(Swept::default, |row| Swept {
        fence_held: row.get("fence_held"),
        tick_fresh: row.get("tick_fresh"),
        due: row.get("due"),
        suspect: row.get("suspect"),
        offline: row.get("offline"),
        seq: row.get("seq"),
        restarts: Restarts {
            replicas: row.get::<_, Option<_>>("restarted").unwrap_or_default(),
            at: row.get::<_, Option<_>>("restarted_at").unwrap_or_default(),
        },
    }))
}
