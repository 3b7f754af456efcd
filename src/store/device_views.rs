//! Devices as operators see them. Reads only; [`super::devices`] has what identity asks and changes.

use time::OffsetDateTime;
use uuid::Uuid;

use super::control::{Abort, ControlStore};
use super::error::StoreError;
use crate::domain::ids::{DeviceId, FleetId};
use crate::domain::presence::{Cause, State};

/// One row of `devices`, with its fleet's name.
#[derive(Clone, Debug)]
pub struct DeviceView {
    pub id: DeviceId,
    pub name: String,
    pub fleet: FleetId,
    pub fleet_name: String,
    pub state: String,
    pub tags: Vec<String>,
    pub attributes: serde_json::Value,
    pub row_version: i64,
    pub created_at: OffsetDateTime,
    /// `None`: there is no row yet.
    pub presence: Option<PresenceView>,
}

/// One row of `presence`.
#[derive(Clone, Debug)]
pub struct PresenceView {
    pub state: State,
    pub cause: Cause,
    pub since: OffsetDateTime,
    pub last_seen: Option<OffsetDateTime>,
    pub promise_ms: i64,
    pub promised_until: Option<OffsetDateTime>,
    pub status_seq: i64,
    pub replica: Option<Uuid>,
    /// The device's own counter.
    pub device_seq: Option<i64>,
    /// What it said of itself last.
    pub device_status: Option<String>,
}

/// Which devices, in the order of their ids, which is that of their enrollment.
#[derive(Clone, Debug, Default)]
pub struct DeviceFilter {
    pub id: Option<DeviceId>,
    /// The fleets that the caller may see; `None`: all.
    pub scope: Option<Vec<Uuid>>,
    pub fleet: Option<FleetId>,
    pub name: Option<String>,
    pub name_prefix: Option<String>,
    pub fleet_name: Option<String>,
    pub tag: Option<String>,
    pub presence: Option<State>,
    /// Those whose id comes after this one.
    pub after: Option<Uuid>,
}

/// Devices, at most `rows_max`.
pub async fn list(store: &ControlStore, filter: DeviceFilter, rows_max: i64) -> Result<Vec<DeviceView>, StoreError> {
    store
        .read("device_views", move |c| {
            let filter = filter.clone();
            Box::pin(async move {
                let rows = sqlx::query_as!(
                    Joined,
                    r#"-- device_views: devices with their presence, in the order of their ids
                    select d.id, d.name, d.fleet_id, f.name as fleet_name, d.state, d.tags, d.attributes, d.row_version,
                           d.created_at, p.state as "presence?", p.cause as "cause?", p.state_since as "since?",
                           p.last_seen, p.promise_ms as "promise_ms?", p.promised_until,
                           p.status_seq as "status_seq?", p.replica, p.device_seq, p.device_status
                    from devices d join fleets f on f.id = d.fleet_id left join presence p on p.device_id = d.id
                    where ($1::uuid is null or d.id = $1) and ($2::uuid[] is null or d.fleet_id = any($2))
                      and ($3::uuid is null or d.fleet_id = $3) and ($4::text is null or d.name = $4)
                      and ($5::text is null or starts_with(d.name, $5)) and ($6::text is null or f.name = $6)
                      and ($7::text is null or $7 = any(d.tags)) and ($8::smallint is null or coalesce(p.state, 0) = $8)
                      and ($9::uuid is null or d.id > $9)
                    order by d.id limit $10"#,
                    filter.id.map(|id| id.0),
                    filter.scope.as_deref(),
                    filter.fleet.map(|fleet| fleet.0),
                    filter.name,
                    filter.name_prefix,
                    filter.fleet_name,
                    filter.tag,
                    filter.presence.map(State::code),
                    filter.after,
                    rows_max
                )
                .fetch_all(c)
                .await?;
                Ok::<_, Abort<StoreError>>(rows.into_iter().map(Joined::view).collect())
            })
        })
        .await
}

/// One device.
pub async fn one(store: &ControlStore, filter: DeviceFilter) -> Result<Option<DeviceView>, StoreError> {
    Ok(list(store, filter, 1).await?.pop())
}

struct Joined {
    id: Uuid,
    name: String,
    fleet_id: Uuid,
    fleet_name: String,
    state: String,
    tags: Vec<String>,
    attributes: serde_json::Value,
    row_version: i64,
    created_at: OffsetDateTime,
    presence: Option<i16>,
    cause: Option<i16>,
    since: Option<OffsetDateTime>,
    last_seen: Option<OffsetDateTime>,
    promise_ms: Option<i64>,
    promised_until: Option<OffsetDateTime>,
    status_seq: Option<i64>,
    replica: Option<Uuid>,
    device_seq: Option<i64>,
    device_status: Option<String>,
}

impl Joined {
    fn view(mut self) -> DeviceView {
        let presence = self.presence();
        DeviceView {
            id: DeviceId(self.id),
            name: self.name,
            fleet: FleetId(self.fleet_id),
            fleet_name: self.fleet_name,
            state: self.state,
            tags: self.tags,
            attributes: self.attributes,
            row_version: self.row_version,
            created_at: self.created_at,
            presence,
        }
    }

    /// Codes that this binary does not know (a newer one's) are shown as the nearest that says nothing wrong.
    fn presence(&mut self) -> Option<PresenceView> {
        Some(PresenceView {
            state: State::from_code(self.presence?).unwrap_or(State::NeverSeen),
            cause: Cause::from_code(self.cause?).unwrap_or(Cause::Contact),
            since: self.since?,
            last_seen: self.last_seen,
            promise_ms: self.promise_ms?,
            promised_until: self.promised_until,
            status_seq: self.status_seq?,
            replica: self.replica,
            device_seq: self.device_seq,
            device_status: self.device_status.take(),
        })
    }
}
