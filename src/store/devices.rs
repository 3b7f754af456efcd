//! Devices, as far as identity asks: the record behind a certificate, and suspension.

use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use super::changes::{self, ChangeError, ChangeKind, ChangeLog, NewEvent, refuse};
use super::control::ControlStore;
use super::error::StoreError;
use crate::domain::ids::{DeviceId, FleetId};

/// May the device call?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeviceState {
    Active,
    Suspended,
    Decommissioned,
}

impl DeviceState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Decommissioned => "decommissioned",
        }
    }

    /// What is not known is not active.
    pub fn from_column(text: &str) -> Self {
        match text {
            "active" => Self::Active,
            "suspended" => Self::Suspended,
            _ => Self::Decommissioned,
        }
    }
}

/// A device with its fleet's policy: what every request of the device is judged by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRecord {
    pub id: DeviceId,
    pub name: String,
    pub fleet: FleetId,
    pub fleet_name: String,
    pub state: DeviceState,
    pub heartbeat_interval_ms: i64,
    pub heartbeat_interval_max_ms: i64,
}

/// What a primary of this timeline answered; "not there" is an answer too, and may be an old one.
#[derive(Clone, Debug)]
pub struct Loaded<T> {
    pub timeline: i32,
    pub row: Option<T>,
}

/// The answer "not there".
pub(super) async fn absent<T>(c: &mut PgConnection) -> Result<Loaded<T>, sqlx::Error> {
    let timeline = sqlx::query_scalar!(r#"select current_timeline() as "timeline!""#).fetch_one(c).await?;
    Ok(Loaded { timeline, row: None })
}

/// The device's record.
pub async fn load(control: &ControlStore, id: DeviceId) -> Result<Loaded<DeviceRecord>, StoreError> {
    control
        .read("device_load", move |c| {
            Box::pin(async move {
                let row = sqlx::query!(
                    r#"select current_timeline() as "timeline!", d.name, d.state, d.fleet_id, f.name as fleet_name,
                              f.heartbeat_interval_ms, f.heartbeat_interval_max_ms
                       from devices d join fleets f on f.id = d.fleet_id where d.id = $1"#,
                    id.0
                )
                .fetch_optional(&mut *c)
                .await?;
                let Some(row) = row else { return Ok(absent(c).await?) };
                Ok(Loaded {
                    timeline: row.timeline,
                    row: Some(DeviceRecord {
                        id,
                        name: row.name,
                        fleet: FleetId(row.fleet_id),
                        fleet_name: row.fleet_name,
                        state: DeviceState::from_column(&row.state),
                        heartbeat_interval_ms: row.heartbeat_interval_ms,
                        heartbeat_interval_max_ms: row.heartbeat_interval_max_ms,
                    }),
                })
            })
        })
        .await
}

/// Suspends or resumes a device; a repetition changes nothing and succeeds.
#[derive(Clone, Debug)]
pub struct Switch {
    pub device: DeviceId,
    /// [`DeviceState::Active`] or [`DeviceState::Suspended`].
    pub to: DeviceState,
    /// The row version that the caller saw (`If-Match`).
    pub expected: Option<i64>,
    pub reason: Option<String>,
    /// Who asks, for the event.
    pub by: String,
}

/// The row version after it.
pub async fn switch(log: &ChangeLog, switch: Switch) -> Result<i64, ChangeError> {
    log.write("device_switch", move |c| {
        let switch = switch.clone();
        Box::pin(async move {
            let id = switch.device.0;
            let found = sqlx::query!("select state, fleet_id, row_version from devices where id = $1 for update", id)
                .fetch_optional(&mut *c)
                .await?;
            let Some(device) = found else { return refuse(ChangeError::NotFound) };
            if switch.expected.is_some_and(|version| version != device.row_version) {
                return refuse(ChangeError::PreconditionFailed);
            }
            match DeviceState::from_column(&device.state) {
                DeviceState::Decommissioned => return refuse(ChangeError::Conflict("the device is decommissioned")),
                state if state == switch.to => return Ok(device.row_version),
                DeviceState::Active | DeviceState::Suspended => {}
            }
            let version = sqlx::query_scalar!(
                "update devices set state = $2, row_version = row_version + 1, updated_at = clock_timestamp()
                 where id = $1 returning row_version",
                id,
                switch.to.as_str()
            )
            .fetch_one(&mut *c)
            .await?;
            if switch.to == DeviceState::Active {
                await_from_now(c, id).await?;
            }
            changes::append(c, ChangeKind::Device, &switch.device.to_string()).await?;
            changes::record(c, &switched(&switch, device.fleet_id)).await?;
            Ok(version)
        })
    })
    .await
}

/// A suspended device could not be heard, so its silence counts from now on, and one full deadline begins.
async fn await_from_now(c: &mut PgConnection, device: Uuid) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update presence set promised_until = greatest(promised_until, clock_timestamp())
         where device_id = $1 and state in (1, 2)",
        device
    )
    .execute(c)
    .await?;
    Ok(())
}

fn switched(switch: &Switch, fleet: Uuid) -> NewEvent<'_> {
    let kind = if switch.to == DeviceState::Active { "device.resumed" } else { "device.suspended" };
    NewEvent {
        kind,
        fleet: Some(fleet),
        device: Some(switch.device.0),
        cause: switch.reason.as_deref(),
        detail: json!({ "by": switch.by }),
    }
}
