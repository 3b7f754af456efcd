//! The sweeper duty: devices whose silence has gone on for too long become suspect, then offline. The statement
//! itself carries the fence, and refuses to judge anybody while the write path is not proved fresh.
//!
//! A pass sweeps over the devices that the last look found ([`Outlook`]), or looks again: without the fence, so that a
//! look through many pages keeps no successor out, and some pages at a time, so that no statement takes long.

use tokio::time::Instant;
use uuid::Uuid;

use super::effect::{Effects, Stop};
use super::outlook::{Outlook, PAGES};
use crate::observe::jobs::PassOutcome;
use crate::store::sweep::{self, Restarts};

/// Devices that one pass changes. Who is left waits for the next.
const CHANGES_MAX: i64 = 50_000;
/// Devices that one sweep is asked about: each that changes some of them goes through all.
const ASKED_MAX: usize = 2_000;

#[derive(Default)]
struct Pass {
    suspect: i64,
    offline: i64,
    /// The tick was not fresh.
    is_blind: bool,
    restarts: Restarts,
}

pub(super) async fn pass(effects: &mut Effects, outlook: &mut Outlook) -> Result<PassOutcome, Stop> {
    let mut pass = Pass::default();
    let known = outlook.devices(Instant::now());
    let is_known = known.is_some();
    let devices = known.unwrap_or_default();
    if devices.is_empty() {
        // Is the fence still ours, and is there a tick to judge by?
        pass.sweep(effects, &[]).await?;
    }
    pass.sweep_all(effects, devices).await?;
    if !is_known && !pass.is_over() {
        pass.look(effects, outlook).await?;
    }
    Ok(pass.outcome())
}

impl Pass {
    /// Looks through the whole table, and sweeps over those that are found.
    async fn look(&mut self, effects: &mut Effects, outlook: &mut Outlook) -> Result<(), Stop> {
        let (limit, blind_max) = (effects.limit(), effects.settings().sweep.blind_max);
        let mut look = outlook.begin(Instant::now(), effects.interval(), blind_max);
        while !look.is_complete() && !self.is_over() {
            let (session, _) = effects.ready().await?;
            let sent = Instant::now();
            let pages = look.next()..look.next() + PAGES;
            let looked = sweep::look(session, pages, look.horizon(), &self.restarts, limit).await?;
            if look.takes(&looked, sent.elapsed()) {
                self.sweep_all(effects, &looked.devices).await?;
            }
        }
        outlook.end(look);
        Ok(())
    }

    async fn sweep_all(&mut self, effects: &mut Effects, devices: &[Uuid]) -> Result<(), Stop> {
        for asked in devices.chunks(ASKED_MAX) {
            // Due, but nothing changed: it is held back on purpose, and to ask again at once would change nothing.
            while !self.is_over() && self.sweep(effects, asked).await? {}
        }
        Ok(())
    }

    /// One sweep. True: others may be due among the same.
    async fn sweep(&mut self, effects: &mut Effects, devices: &[Uuid]) -> Result<bool, Stop> {
        let (limit, settings) = (effects.limit(), effects.settings().sweep);
        let (session, fence) = effects.ready().await?;
        let swept = sweep::sweep(session, &fence, &settings, devices, limit).await?;
        if !swept.fence_held {
            return Err(Stop::Deposed);
        }
        self.is_blind = !swept.tick_fresh;
        self.restarts = swept.restarts;
        self.suspect += swept.suspect;
        self.offline += swept.offline;
        Ok(swept.due >= settings.rows_max && swept.suspect + swept.offline > 0)
    }

    fn changed(&self) -> i64 {
        self.suspect + self.offline
    }

    fn is_over(&self) -> bool {
        self.is_blind || self.changed() >= CHANGES_MAX
    }

    fn outcome(&self) -> PassOutcome {
        if self.changed() > 0 {
            tracing::info!(suspect = self.suspect, offline = self.offline, "devices fell silent");
        }
        match self.changed() {
            _ if self.is_blind => PassOutcome::TickNotFresh,
            0 => PassOutcome::NothingDue,
            _ => PassOutcome::Done,
        }
    }
}
