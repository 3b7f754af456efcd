//! How often the table of presence is looked through, and who is judged in between.
//!
//! To look takes as long as there are devices, and changes nothing for nearly all of them: who was heard a moment ago
//! will not be due for a minute. So a look through a large table also finds who *may* fall due in the time until the
//! next one, and the sweeps of that time judge those alone, each by its row as it is then. To be heard only makes a
//! deadline later, but for a promise that gets shorter and a device that comes back; for their sake all whose promise is
//! short are among those found. What is left is late by one look, about ten seconds: who falls silent just after a long
//! promise was changed to a short one, or after having enrolled with a short one; whose contact was written long after
//! it was made; whose row, with a short promise, moved to pages that the look had behind it; or by which the database's
//! clock was set forward.
//!
//! Small tables are looked through every time, and so are those of which too many may fall due to be remembered.

use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use crate::observe::jobs as observe;
use crate::store::sweep::{Horizon, Looked};

/// Pages of one statement of a look: 16 MiB, some 100,000 devices. So many may be due at once, and each is looked up in
/// `devices` then: more pages, and the statement is longer than an effect may be. A table of no more pages is small.
pub(super) const PAGES: i64 = 2_048;
/// Looks take one part in so many of the time, as long as they need not be further apart than [`WITHIN_MAX`].
const SHARE: u32 = 50;
/// From one look to the next. What is late by one look is late by so much.
const WITHIN_MAX: Duration = Duration::from_secs(10);
/// Devices that are remembered.
const DEVICES_MAX: usize = 10_000;
/// Where more may fall due, no look sees more than half as far for so long.
const CROWDED: Duration = Duration::from_mins(1);

/// What is known from one look to the next.
#[derive(Debug, Default)]
pub(super) struct Outlook {
    known: Option<(Vec<Uuid>, Instant)>,
    took: Duration,
    pages: i64,
    /// How far is too far, until when.
    crowded: Option<(Duration, Instant)>,
}

/// One look, some pages after the others.
#[derive(Debug)]
pub(super) struct Look {
    begun: Instant,
    horizon: Horizon,
    devices: Vec<Uuid>,
    next: i64,
    took: Duration,
    pages: Option<i64>,
    /// Too many were within this time.
    too_far: Option<Duration>,
}

impl Outlook {
    /// All who may fall due at this moment, if that is known.
    pub(super) fn devices(&self, now: Instant) -> Option<&[Uuid]> {
        self.known.as_ref().filter(|(_, until)| now < *until).map(|(devices, _)| &**devices)
    }

    /// `interval`: between two sweeps. `lag`: how old a contact may be that is written now.
    pub(super) fn begin(&mut self, now: Instant, interval: Duration, lag: Duration) -> Look {
        self.known = None;
        self.crowded = self.crowded.filter(|(_, until)| now < *until);
        let within_max = self.crowded.map_or(WITHIN_MAX, |(too_far, _)| too_far / 2);
        let within = (self.took * SHARE).min(within_max);
        // One too many tells that they are.
        let far = Horizon { within, soon: within + lag, devices_max: Some(DEVICES_MAX + 1) };
        let pays = self.pages > PAGES && within >= interval * 2;
        Look {
            begun: now,
            horizon: if pays { far } else { Horizon::default() },
            devices: Vec::new(),
            next: 0,
            took: Duration::ZERO,
            pages: None,
            too_far: None,
        }
    }

    /// A look that is not complete says no more than how far is too far.
    pub(super) fn end(&mut self, look: Look) {
        if let Some(too_far) = look.too_far {
            self.crowded = Some((too_far, look.begun + CROWDED));
        }
        let Some(pages) = look.pages else { return };
        observe::looked(look.took);
        (self.took, self.pages) = (look.took, pages);
        if look.horizon.sees_ahead() {
            self.known = Some((look.devices, look.begun + look.horizon.within));
        }
    }
}

impl Look {
    pub(super) fn horizon(&self) -> Horizon {
        self.horizon
    }

    /// The first page that has not been looked at.
    pub(super) fn next(&self) -> i64 {
        self.next
    }

    pub(super) fn is_complete(&self) -> bool {
        self.pages.is_some()
    }

    /// Takes in what was found on the next [`PAGES`] in this time. False: more than can be remembered. The same pages are
    /// next again then, for who is due now, as are all that follow.
    pub(super) fn takes(&mut self, looked: &Looked, time: Duration) -> bool {
        self.took += time;
        if self.horizon.sees_ahead() {
            if self.devices.len() + looked.devices.len() > DEVICES_MAX {
                self.too_far = Some(self.horizon.within);
                (self.horizon, self.devices) = (Horizon::default(), Vec::new());
                return false;
            }
            self.devices.extend(&looked.devices);
        }
        self.next += PAGES;
        self.pages = (self.next >= looked.pages).then_some(looked.pages);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const NOW: Horizon = Horizon { within: Duration::ZERO, soon: Duration::ZERO, devices_max: None };

    fn some(n: usize, pages: i64) -> Looked {
        Looked { devices: (0..n as u128).map(Uuid::from_u128).collect(), pages }
    }

    /// A look that takes `ms` for each statement, which find so many devices.
    fn look(outlook: &mut Outlook, now: Instant, ms: u64, found: &[usize]) -> Horizon {
        let mut look = outlook.begin(now, SECOND, SECOND * 10);
        let horizon = look.horizon();
        let pages = PAGES * i64::try_from(found.len()).unwrap();
        for found in found {
            assert!(!look.is_complete() && look.takes(&some(*found, pages), Duration::from_millis(ms)));
        }
        assert!(look.is_complete());
        outlook.end(look);
        horizon
    }

    #[test]
    fn small_tables_are_looked_through_every_time() {
        let (mut outlook, now) = (Outlook::default(), Instant::now());
        for _ in 0..3 {
            assert_eq!(look(&mut outlook, now, 500, &[5]), NOW, "however long a look may take");
            assert_eq!(outlook.devices(now), None);
        }
        for _ in 0..3 {
            assert_eq!(look(&mut outlook, now, 19, &[5, 5]), NOW, "and those of which one takes no time");
        }
    }

    #[test]
    fn large_ones_as_seldom_as_their_size_asks_for() {
        let (mut outlook, now) = (Outlook::default(), Instant::now());
        assert_eq!(look(&mut outlook, now, 50, &[5, 0]), NOW, "how long one takes is not known");
        let horizon = look(&mut outlook, now, 500, &[2, 3]);
        assert_eq!((horizon.within, horizon.soon), (SECOND * 5, SECOND * 15));
        assert_eq!(outlook.devices(now + SECOND * 5 - Duration::from_millis(1)).map(<[Uuid]>::len), Some(5));
        assert_eq!(outlook.devices(now + SECOND * 5), None, "it is time to look again");
        assert_eq!(look(&mut outlook, now, 5, &[0, 0]).within, WITHIN_MAX, "and no more seldom than that");
        assert_eq!(outlook.devices(now), Some([].as_slice()), "nobody may fall due");
        assert_eq!(look(&mut outlook, now, 500, &[0]), NOW, "looks have become quick");
        assert_eq!(look(&mut outlook, now, 500, &[0, 0]), NOW, "the table has become small");
    }

    #[test]
    fn where_too_many_may_fall_due_looks_see_less_far() {
        let (mut outlook, now) = (Outlook::default(), Instant::now());
        look(&mut outlook, now, 50, &[0, 0]);
        for (within, then) in [(SECOND * 5, SECOND * 5 / 2), (SECOND * 5 / 2, Duration::ZERO)] {
            let mut crowded = outlook.begin(now, SECOND, SECOND);
            assert_eq!((crowded.horizon().within, crowded.horizon().devices_max), (within, Some(DEVICES_MAX + 1)));
            let step = Duration::from_millis(50);
            assert!(crowded.takes(&some(DEVICES_MAX, PAGES * 2), step));
            assert!(!crowded.takes(&some(1, PAGES * 2), step), "one too many");
            assert_eq!((crowded.next(), crowded.horizon()), (PAGES, NOW), "the same again, for who is due now");
            assert!(crowded.takes(&some(DEVICES_MAX * 2, PAGES * 2), Duration::ZERO), "however many");
            assert!(crowded.is_complete());
            outlook.end(crowded);
            assert_eq!(outlook.devices(now), None);
            assert_eq!(outlook.begin(now + CROWDED - SECOND, SECOND, SECOND).horizon().within, then);
        }
        let later = outlook.begin(now + CROWDED, SECOND, SECOND).horizon();
        assert_eq!(later.within, SECOND * 5, "perhaps they are fewer now");
    }

    #[test]
    fn what_was_not_finished_says_nothing() {
        let (mut outlook, now) = (Outlook::default(), Instant::now());
        look(&mut outlook, now, 50, &[0, 0]);
        look(&mut outlook, now, 50, &[7, 0]);
        assert!(outlook.devices(now).is_some());
        let mut half = outlook.begin(now, SECOND, SECOND);
        assert!(half.takes(&some(1, PAGES * 2), SECOND) && !half.is_complete());
        outlook.end(half);
        assert_eq!(outlook.devices(now), None);
        assert_eq!(outlook.begin(now, SECOND, SECOND).horizon().within, SECOND * 5, "nor how long one takes");
    }
}
