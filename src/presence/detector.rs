//! The rule that turns silence into a belief. Pure; the database applies the same rule to many rows at once
//! (`store/sql/presence_sweep.sql`), and tests/presence.rs compares the two on random rows.
//!
//! Silence is judged **as of the last tick** (later than that nothing is known), and for a device that was last heard
//! by a replica that still flushes, as of that replica's `flushed_through`: what it holds in memory is younger.
//!
//! A replica that has not flushed for `blind_max` acknowledges nothing any more (it answers 503), so the last
//! heartbeat that it can have acknowledged from memory is as old as `flushed_through + blind_max`. From there its
//! devices get one full deadline to be heard elsewhere, whether it is dead or cut off. While it is cut off for less,
//! their silence stops counting at `flushed_through`. When it comes back it flushes what it holds, and records the
//! time in which it refused heartbeats as an outage of its own.
//!
//! An outage restarts the deadline of every device it concerns, unless more than `restarts_max` outages of the same
//! kind have ended within the window up to its end: then its length is taken out of the silence and nothing more.
//! (Letting the *newest* N restart deadlines would bound nothing: the newest always counts.)
//!
//! A device that was never seen stays `never_seen`: it made no promise, so its silence breaks none. `offline` is
//! left by a contact only. Suspended and decommissioned devices are not judged; the caller leaves them out.

use time::{Duration, OffsetDateTime};

use crate::domain::presence::{Deadlines, State};
use crate::store::sweep::SweepSettings;

/// What the database knows of one device.
#[derive(Clone, Debug)]
pub struct Evidence {
    pub state: State,
    pub state_since: OffsetDateTime,
    pub last_seen: Option<OffsetDateTime>,
    /// The promised interval.
    pub promise: std::time::Duration,
    /// A planned sleep: silence before this was agreed upon.
    pub promised_until: Option<OffsetDateTime>,
    /// `flushed_through` of the replica that heard the device last, if that replica is on record.
    pub flushed_through: Option<OffsetDateTime>,
}

/// An interval in which we could not have heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outage {
    pub started_at: OffsetDateTime,
    pub ended_at: OffsetDateTime,
}

/// Why, with the numbers: for the sweep's twin and for whoever asks why a device is offline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The belief to change to, if it changes.
    pub next: Option<State>,
    /// Silence counts from here …
    pub base: OffsetDateTime,
    /// … to here …
    pub until: OffsetDateTime,
    /// … less the outages in between. Negative when the device was heard after `until`.
    pub silence: Duration,
}

/// The limits of the rule, shared with the sweep.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub blind_max: Duration,
    pub restarts_max: usize,
    pub window: Duration,
}

impl From<&SweepSettings> for Limits {
    fn from(sweep: &SweepSettings) -> Self {
        let span = |span| Duration::try_from(span).unwrap_or(Duration::WEEK);
        Self {
            blind_max: span(sweep.blind_max),
            restarts_max: usize::try_from(sweep.cap.restarts_max).unwrap_or(0),
            window: span(sweep.cap.window),
        }
    }
}

/// Which outages of one kind (everybody's, or one replica's) restart deadlines: those with at most `restarts_max`
/// outages, themselves included, that ended within the window up to their own end.
pub fn restarting(kind: &[Outage], limits: &Limits) -> Vec<(Outage, bool)> {
    let recent = |of: &Outage| {
        let window = of.ended_at - limits.window..=of.ended_at;
        kind.iter().filter(|other| window.contains(&other.ended_at)).count()
    };
    kind.iter().map(|outage| (*outage, recent(outage) <= limits.restarts_max)).collect()
}

/// Judges one device as of `tick`. `outages`: everybody's and those of the replica that heard the device last, each
/// with whether it restarts deadlines.
pub fn judge(evidence: &Evidence, outages: &[(Outage, bool)], tick: OffsetDateTime, limits: &Limits) -> Verdict {
    let (held_until, cut_off_base) = match evidence.flushed_through {
        Some(through) if through >= tick - limits.blind_max => (through.min(tick), None),
        Some(through) => (tick, Some(through + limits.blind_max)),
        None => (tick, None),
    };
    let restarted = outages.iter().filter(|(_, restarts)| *restarts).map(|(outage, _)| outage.ended_at).max();
    let contact = evidence.last_seen.unwrap_or(evidence.state_since);
    let base = [evidence.promised_until, restarted, cut_off_base].into_iter().flatten().fold(contact, Ord::max);
    let lost: Duration = outages
        .iter()
        .filter(|(_, restarts)| !restarts)
        .map(|(outage, _)| (outage.ended_at.min(held_until) - outage.started_at.max(base)).max(Duration::ZERO))
        .sum();
    let silence = held_until - base - lost;
    Verdict { next: next(evidence.state, silence, evidence.promise), base, until: held_until, silence }
}

fn next(state: State, silence: Duration, promise: std::time::Duration) -> Option<State> {
    let deadlines = Deadlines::of(promise);
    match state {
        State::Online | State::Suspect if silence >= deadlines.offline => Some(State::Offline),
        State::Online if silence >= deadlines.suspect => Some(State::Suspect),
        State::NeverSeen | State::Online | State::Suspect | State::Offline => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::time::from_unix_us;

    const LIMITS: Limits =
        Limits { blind_max: Duration::seconds(10), restarts_max: 2, window: Duration::seconds(3_600) };

    fn at(second: i64) -> OffsetDateTime {
        from_unix_us((1_800_000_000 + second) * 1_000_000).unwrap()
    }

    fn outage(from: i64, to: i64) -> Outage {
        Outage { started_at: at(from), ended_at: at(to) }
    }

    /// Last seen at 0, promised 30 s: suspect at 45 s, offline at 109 s.
    fn online() -> Evidence {
        Evidence {
            state: State::Online,
            state_since: at(-1_000),
            last_seen: Some(at(0)),
            promise: std::time::Duration::from_secs(30),
            promised_until: None,
            flushed_through: None,
        }
    }

    fn at_tick(evidence: &Evidence, outages: &[(Outage, bool)], tick: i64) -> Option<State> {
        judge(evidence, outages, at(tick), &LIMITS).next
    }

    #[test]
    fn thresholds() {
        let suspect = Evidence { state: State::Suspect, ..online() };
        for (tick, from_online, from_suspect) in [
            (-5, None, None),
            (44, None, None),
            (45, Some(State::Suspect), None),
            (108, Some(State::Suspect), None),
            (109, Some(State::Offline), Some(State::Offline)),
            (99_999, Some(State::Offline), Some(State::Offline)),
        ] {
            assert_eq!(at_tick(&online(), &[], tick), from_online, "{tick}");
            assert_eq!(at_tick(&suspect, &[], tick), from_suspect, "{tick}");
        }
    }

    #[test]
    fn only_contact_leaves_offline_and_never_seen() {
        for state in [State::NeverSeen, State::Offline] {
            assert_eq!(at_tick(&Evidence { state, last_seen: None, ..online() }, &[], 1_000_000), None);
        }
    }

    #[test]
    fn a_planned_sleep_is_agreed_silence() {
        let asleep = Evidence { promised_until: Some(at(1_000)), ..online() };
        assert_eq!(at_tick(&asleep, &[], 1_044), None);
        assert_eq!(at_tick(&asleep, &[], 1_045), Some(State::Suspect));
    }

    #[test]
    fn an_outage_gives_one_full_deadline() {
        let over = [(outage(40, 400), true)];
        assert_eq!(at_tick(&online(), &over, 444), None);
        assert_eq!(at_tick(&online(), &over, 445), Some(State::Suspect));
        assert_eq!(at_tick(&online(), &over, 509), Some(State::Offline));
        let before = [(outage(-100, -10), true)];
        assert_eq!(at_tick(&online(), &before, 45), Some(State::Suspect), "it ended before the contact");
    }

    #[test]
    fn beyond_the_cap_an_outage_is_no_silence_but_restarts_nothing() {
        let flood: Vec<Outage> = (0..5).map(|n| outage(n * 100, n * 100 + 2)).collect();
        let marked = restarting(&flood, &LIMITS);
        assert_eq!(marked.iter().map(|(_, restarts)| *restarts).collect::<Vec<_>>(), [true, true, false, false, false]);
        // Deadlines restart at 102; then 109 s of silence, and the 2 s of one outage that is none.
        assert_eq!(at_tick(&online(), &marked, 102 + 109 + 1), Some(State::Suspect));
        assert_eq!(at_tick(&online(), &marked, 102 + 109 + 2), Some(State::Offline));
        // A long outage beyond the cap makes nobody offline either.
        assert_eq!(at_tick(&online(), &[(outage(10, 5_000), false)], 5_010), None);
    }

    #[test]
    fn a_replica_that_lags_stops_the_silence_where_it_flushed() {
        let held = |through| Evidence { flushed_through: Some(at(through)), ..online() };
        assert_eq!(at_tick(&held(44), &[], 54), None, "evidence ends at 44");
        assert_eq!(at_tick(&held(45), &[], 54), Some(State::Suspect));
        // Silent for more than blind_max: it acknowledges nothing after 54, and from there one deadline runs.
        assert_eq!(at_tick(&held(44), &[], 55), None);
        assert_eq!(at_tick(&held(44), &[], 54 + 44), None);
        assert_eq!(at_tick(&held(44), &[], 54 + 45), Some(State::Suspect));
        assert_eq!(at_tick(&held(44), &[], 54 + 109), Some(State::Offline));
    }

    proptest! {
        /// Whatever the outages: nobody is called offline before a full deadline of time in which we could hear.
        #[test]
        fn never_offline_on_less_than_a_deadline_of_heard_silence(
            spans in prop::collection::vec((0_i64..5_000, 1_i64..500), 0..12),
            tick in 0_i64..6_000,
            through in prop::option::of(0_i64..6_000),
        ) {
            let mut from = 0;
            let mut outages = Vec::new();
            for (pause, length) in spans {
                outages.push(outage(from + pause, from + pause + length));
                from += pause + length;
            }
            outages.retain(|outage| outage.ended_at <= at(tick));
            let evidence = Evidence { flushed_through: through.map(at), ..online() };
            let verdict = judge(&evidence, &restarting(&outages, &LIMITS), at(tick), &LIMITS);
            let deaf: Duration = outages.iter().map(|outage| outage.ended_at - outage.started_at).sum();
            prop_assert!(verdict.silence <= at(tick) - at(0) - deaf.min(at(tick) - at(0)));
            prop_assert_eq!(verdict.next == Some(State::Offline), verdict.silence >= Duration::seconds(109));
        }

        /// A later contact never makes the verdict worse.
        #[test]
        fn a_later_contact_only_helps(seen in 0_i64..500, later in 0_i64..500, tick in 0_i64..1_000, end in 0_i64..900) {
            let outages = [(outage(end / 2, end), end % 2 == 0)];
            let early = Evidence { last_seen: Some(at(seen)), ..online() };
            let late = Evidence { last_seen: Some(at(seen + later)), ..online() };
            let silence = |evidence| judge(evidence, &outages, at(tick), &LIMITS).silence;
            prop_assert!(silence(&late) <= silence(&early));
        }
    }
}
