//! `/v1/devices/{device}/presence`: what is believed, and why.
//!
//! The deadlines are those of `presence::detector`, from the same evidence, with two simplifications that make them
//! early at worst: the cap on outages that restart deadlines, and replicas that are cut off, are left to the sweep.

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
use crate::store::device_views::PresenceView;
use crate::store::replica_views::{self, Hearing};
use crate::wire::admin::{Outage, Presence, Why};

pub async fn get(
    State(api): State<AdminApi>,
    operator: Operator,
    PathOf(device): PathOf<DeviceRef>,
) -> Result<Json<Presence>, ApiError> {
    let device = resolve::device(&api, &operator, device).await?;
    let view = device.presence.ok_or_else(|| ApiError::internal("a device without its row in presence"))?;
    let hearing = replica_views::hearing(&api.store, view.replica, contact(&view)).await?;
    Ok(Json(Presence { why: Some(why(&view, hearing, device.state == "active")), ..presence_of(&view) }))
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

fn why(view: &PresenceView, hearing: Hearing, is_active: bool) -> Why {
    let outage_end = hearing.outage.as_ref().map(|outage| outage.ended_at);
    let silent_from = [view.promised_until, outage_end].into_iter().flatten().fold(contact(view), Ord::max);
    let deadlines = Deadlines::of(std::time::Duration::from_millis(view.promise_ms.unsigned_abs()));
    let is_judged = is_active && matches!(view.state, Belief::Online | Belief::Suspect);
    let at = |span: std::time::Duration| {
        let span = time::Duration::try_from(span).unwrap_or(time::Duration::MAX);
        silent_from.checked_add(span)
    };
    Why {
        because: because(view, is_active).to_owned(),
        silent_from,
        suspect_at: at(deadlines.suspect).filter(|_| is_judged && view.state == Belief::Online),
        offline_at: at(deadlines.offline).filter(|_| is_judged),
        promised_until: view.promised_until,
        heard_by: view.replica,
        outage: hearing.outage.map(Outage::from),
        judged_through: hearing.tick,
    }
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
        }
    }

    fn outage(end: i64) -> Hearing {
        let outage = OutageView { id: 1, started_at: at(0), ended_at: at(end), cause: "gap".to_owned(), replica: None };
        Hearing { tick: Some(at(2_000)), outage: Some(outage) }
    }

    #[test]
    fn deadlines_count_from_the_last_evidence() {
        let none = || Hearing { tick: None, outage: None };
        let answer = why(&view(), none(), true);
        assert_eq!((answer.suspect_at, answer.offline_at), (Some(at(1_045)), Some(at(1_109))));
        assert_eq!(why(&view(), outage(1_010), true).suspect_at, Some(at(1_055)));
        let asleep = PresenceView { promised_until: Some(at(5_000)), ..view() };
        assert_eq!(why(&asleep, outage(1_010), true).silent_from, at(5_000));
        let suspect = PresenceView { state: Belief::Suspect, cause: Cause::Silence, ..view() };
        let answer = why(&suspect, none(), true);
        assert_eq!((answer.suspect_at, answer.offline_at), (None, Some(at(1_109))));
        assert_eq!(why(&view(), none(), false).offline_at, None);
    }
}
