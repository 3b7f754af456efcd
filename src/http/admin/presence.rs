//! `/v1/devices/{device}/presence`: what is believed, and why.
//!
//! The deadlines are those of `presence::detector`, from the same evidence and with the same limits as the sweep's.
//! They hold if the device stays silent, no outage comes, and the replica that heard it last goes on flushing.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use time::OffsetDateTime;

use super::fleets::seconds;
use super::resolve;
use crate::domain::presence::{Cause, Deadlines, State as Belief};
use crate::http::api::AdminApi;
use crate::http::authn::Operator;
use crate::http::error::ApiError;
use crate::http::extract::PathOf;
use crate::http::reference::DeviceRef;
use crate::presence::detector::{self, Evidence, Limits, Verdict, judge, restarting};
use crate::store::device_views::PresenceView;
use crate::store::replica_views::{self, Hearing, OutageView};
use crate::wire::admin::{JudgedOutage, Outage, Presence, Why};

/// Outages that an answer names; all of them are judged.
const OUTAGES_SHOWN: usize = 20;

pub async fn get(
    State(api): State<Arc<AdminApi>>,
    operator: Operator,
    PathOf(device): PathOf<DeviceRef>,
) -> Result<Json<Presence>, ApiError> {
    let device = resolve::device(&api, &operator, device).await?;
    let view = device.presence.ok_or_else(|| ApiError::internal("a device without its row in presence"))?;
    let since = contact(&view) - api.limits.window;
    let hearing = replica_views::hearing(&api.store, view.replica, since).await?;
    Ok(Json(Presence { why: Some(why(&view, hearing, device.state == "active", &api.limits)), ..presence_of(&view) }))
}

pub(super) fn presence_of(view: &PresenceView) -> Presence {
    Presence {
        state: view.state,
        cause: view.cause,
        since: view.since,
        last_seen: view.last_seen,
        promised_interval_s: seconds(view.promise_ms),
        status_seq: view.status_seq,
        why: None,
    }
}

fn contact(view: &PresenceView) -> OffsetDateTime {
    view.last_seen.unwrap_or(view.since)
}

fn why(view: &PresenceView, hearing: Hearing, is_active: bool, limits: &Limits) -> Why {
    let promise = std::time::Duration::from_millis(view.promise_ms.unsigned_abs());
    let evidence = Evidence {
        state: view.state,
        state_since: view.since,
        last_seen: view.last_seen,
        promise,
        promised_until: view.promised_until,
        flushed_through: hearing.flushed_through,
    };
    // Before the first tick nothing is judged, and nothing is known beyond the contact.
    let tick = hearing.tick.unwrap_or_else(|| contact(view));
    let marked = marked(hearing.outages, limits);
    let spans: Vec<_> = marked.iter().map(|(outage, restarts)| (span(outage), *restarts)).collect();
    let verdict = judge(&evidence, &spans, tick, limits);
    let is_judged = is_active && matches!(view.state, Belief::Online | Belief::Suspect);
    let at = |deadline: std::time::Duration| {
        let deadline = time::Duration::try_from(deadline).ok()?;
        verdict.until.checked_add(deadline.checked_sub(verdict.silence)?)
    };
    let deadlines = Deadlines::of(promise);
    let since_contact = || marked.iter().filter(|(outage, _)| outage.ended_at > contact(view));
    Why {
        because: because(view, is_active).to_owned(),
        silent_from: verdict.base,
        silent_s: verdict.silence.as_seconds_f64().max(0.0),
        suspect_at: at(deadlines.suspect).filter(|_| is_judged && view.state == Belief::Online),
        offline_at: at(deadlines.offline).filter(|_| is_judged),
        promised_until: view.promised_until,
        heard_by: view.replica,
        cut_off_since: hearing.flushed_through.filter(|through| *through < tick - limits.blind_max),
        seq: view.device_seq,
        status: view.device_status.clone(),
        outage: since_contact().next().map(|(outage, _)| Outage::from(outage.clone())),
        outages: since_contact().take(OUTAGES_SHOWN).map(|(outage, r)| judged(outage, *r, &verdict)).collect(),
        judged_through: hearing.tick.map(|_| verdict.until),
    }
}

fn span(outage: &OutageView) -> detector::Outage {
    detector::Outage { started_at: outage.started_at, ended_at: outage.ended_at }
}

/// Each with whether it restarts deadlines, the newest first: everybody's and the replica's are counted apart.
fn marked(outages: Vec<OutageView>, limits: &Limits) -> Vec<(OutageView, bool)> {
    let (everybodys, replicas): (Vec<_>, Vec<_>) = outages.into_iter().partition(|outage| outage.replica.is_none());
    let mut marked = Vec::new();
    for kind in [everybodys, replicas] {
        let spans: Vec<_> = kind.iter().map(span).collect();
        let restarts = restarting(&spans, limits).into_iter().map(|(_, restarts)| restarts);
        marked.extend(kind.into_iter().zip(restarts));
    }
    marked.sort_by_key(|(outage, _)| std::cmp::Reverse((outage.ended_at, outage.id)));
    marked
}

fn judged(outage: &OutageView, restarts: bool, verdict: &Verdict) -> JudgedOutage {
    let because = match (restarts, outage.ended_at.cmp(&verdict.base)) {
        (true, std::cmp::Ordering::Equal) => "Silence counts from its end.",
        (_, std::cmp::Ordering::Less | std::cmp::Ordering::Equal) => "Silence counts from a later moment anyway.",
        (false, _) => "Too many outages lately: its length is no silence, but the deadline does not start again.",
        (true, _) => "It is not over for those who judge.",
    };
    JudgedOutage { outage: Outage::from(outage.clone()), restarts, because: because.to_owned() }
}

fn because(view: &PresenceView, is_active: bool) -> &'static str {
    match (is_active, view.state, view.cause) {
        (false, ..) => "The device is not active, so its silence is not judged.",
        (true, Belief::NeverSeen, _) => "The device has enrolled and was never heard since.",
        (true, _, Cause::Enrolled) => "The device has enrolled.",
        (true, _, Cause::Contact) => "The device was heard within what it promised.",
        (true, Belief::Suspect, Cause::Silence) => "The device was silent for 1.5 times the promised interval.",
        (true, _, Cause::Silence) => "The device was silent for 3.3 times the promised interval and 10 seconds.",
        (true, _, Cause::Goodbye) => "The device said goodbye.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::time::from_unix_us;
    use crate::store::replica_views::OutageView;

    fn at(second: i64) -> OffsetDateTime {
        from_unix_us(second * 1_000_000).unwrap()
    }

    fn view() -> PresenceView {
        PresenceView {
            state: Belief::Online,
            cause: Cause::Contact,
            since: at(0),
            last_seen: Some(at(1_000)),
            promise_ms: 30_000,
            promised_until: None,
            status_seq: 1,
            replica: None,
            device_seq: None,
            device_status: None,
        }
    }

    const LIMITS: Limits =
        Limits { blind_max: time::Duration::seconds(10), restarts_max: 2, window: time::Duration::seconds(3_600) };

    fn outage(id: i64, from: i64, end: i64) -> OutageView {
        OutageView { id, started_at: at(from), ended_at: at(end), cause: "gap".to_owned(), replica: None }
    }

    fn judged_at(tick: i64, outages: Vec<OutageView>) -> Hearing {
        Hearing { tick: Some(at(tick)), outages, ..Hearing::default() }
    }

    fn why_at(view: &PresenceView, hearing: Hearing) -> Why {
        why(view, hearing, true, &LIMITS)
    }

    #[test]
    fn deadlines_count_from_the_last_evidence() {
        let answer = why_at(&view(), Hearing::default());
        assert_eq!((answer.suspect_at, answer.offline_at), (Some(at(1_045)), Some(at(1_109))));
        let over = || judged_at(1_020, vec![outage(1, 0, 1_010)]);
        let answer = why_at(&view(), over());
        assert_eq!((answer.suspect_at, answer.silent_s), (Some(at(1_055)), 10.0));
        assert_eq!(answer.outages[0].because, "Silence counts from its end.");
        let asleep = PresenceView { promised_until: Some(at(5_000)), ..view() };
        let answer = why_at(&asleep, over());
        assert_eq!((answer.silent_from, answer.silent_s), (at(5_000), 0.0));
        assert_eq!(answer.outages[0].because, "Silence counts from a later moment anyway.");
        let suspect = PresenceView { state: Belief::Suspect, cause: Cause::Silence, ..view() };
        let answer = why_at(&suspect, Hearing::default());
        assert_eq!((answer.suspect_at, answer.offline_at), (None, Some(at(1_109))));
        assert_eq!(why(&view(), Hearing::default(), false, &LIMITS).offline_at, None);
    }

    #[test]
    fn beyond_the_cap_an_outage_only_takes_its_length_out() {
        let flood = |n: i64| outage(n, 950 + n * 20, 953 + n * 20);
        let before = [flood(1), flood(2)];
        // Both ended before the contact or use the cap up; the third and fourth restart nothing.
        let outages = before.into_iter().chain([outage(3, 1_020, 1_023), outage(4, 1_030, 1_035)]);
        let answer = why_at(&view(), judged_at(1_040, outages.rev().collect()));
        assert_eq!(answer.silent_from, at(1_000));
        assert_eq!((answer.suspect_at, answer.offline_at), (Some(at(1_053)), Some(at(1_117))));
        assert!((answer.silent_s - 32.0).abs() < f64::EPSILON);
        let shown: Vec<(i64, bool)> = answer.outages.iter().map(|judged| (judged.outage.id, judged.restarts)).collect();
        assert_eq!(shown, [(4, false), (3, false)], "the newest first, and none from before the contact");
        assert!(answer.outages[0].because.starts_with("Too many outages lately"));
        assert_eq!(answer.outage.map(|outage| outage.id), Some(4));
    }

    #[test]
    fn a_replica_that_is_cut_off_is_said_and_moves_the_deadline() {
        let through = |second| Hearing { flushed_through: Some(at(second)), ..judged_at(1_050, Vec::new()) };
        let lags = why_at(&view(), through(1_040));
        assert_eq!((lags.cut_off_since, lags.judged_through), (None, Some(at(1_040))));
        assert_eq!(lags.suspect_at, Some(at(1_045)), "once it has flushed that far");
        let cut_off = why_at(&view(), through(1_039));
        assert_eq!((cut_off.cut_off_since, cut_off.judged_through), (Some(at(1_039)), Some(at(1_050))));
        assert_eq!(cut_off.silent_from, at(1_049), "it may have acknowledged heartbeats until then");
        assert_eq!((cut_off.suspect_at, cut_off.offline_at), (Some(at(1_094)), Some(at(1_158))));
    }
}
