//! The keys that replicas sign with, as operators see them. Reads only; [`super::key_life`] has the rules and the steps.

use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::control::ControlStore;
use super::error::StoreError;
use super::keys::KeyState;

/// What a key signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyRole {
    /// Tokens of devices.
    Device,
    /// Tokens of operators.
    Admin,
    /// Certificates of devices and replicas.
    Issuing,
}

impl KeyRole {
    pub const ALL: [Self; 3] = [Self::Device, Self::Admin, Self::Issuing];

    /// As in `signing_keys.role`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Admin => "admin",
            Self::Issuing => "issuing",
        }
    }

    pub(super) fn from_column(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == text)
    }
}

/// A key as operators see it.
#[derive(Clone, Debug)]
pub struct KeyView {
    pub role: KeyRole,
    /// A `kid`, or the fingerprint of a CA's certificate in hexadecimal.
    pub key: String,
    pub state: KeyState,
    pub since: OffsetDateTime,
    pub created_at: OffsetDateTime,
}

/// A replica that was seen within the last minute.
#[derive(Clone, Debug)]
pub struct LiveReplica {
    pub id: Uuid,
    pub addr: String,
    pub seen_at: OffsetDateTime,
    /// The keys that it has confirmed.
    pub keys: Vec<String>,
}

/// Live certificates of one CA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    pub count: i64,
    /// Devices that have no other live certificate.
    pub devices: i64,
    pub until: Option<OffsetDateTime>,
}

/// All keys, and who has confirmed which of them.
pub async fn overview(control: &ControlStore) -> Result<(Vec<KeyView>, Vec<LiveReplica>), StoreError> {
    control.read("key_overview", |c| Box::pin(async move { Ok((views(c).await?, live(c).await?)) })).await
}

/// Live certificates of a CA.
pub async fn signed_by(control: &ControlStore, key: &str) -> Result<Signed, StoreError> {
    let key = key.to_owned();
    control
        .read("key_signed", move |c| {
            let key = key.clone();
            Box::pin(async move { Ok(signed(c, &key).await?) })
        })
        .await
}

/// Live, or expired and still to be renewed.
pub(super) async fn signed(c: &mut PgConnection, key: &str) -> Result<Signed, sqlx::Error> {
    let row = sqlx::query!(
        r#"with first as (
             select fingerprint from ca_certificates where kind = 'issuing' order by created_at, fingerprint limit 1),
           live as (
             select k.device_id, k.not_after + f.renew_expired_within_s * interval '1 second' as until,
                    coalesce(k.issuer, (select fingerprint from first)) as issuer
             from credentials k join devices d on d.id = k.device_id join fleets f on f.id = d.fleet_id
             where k.revoked_at is null and d.state <> 'decommissioned'
               and k.not_after + f.renew_expired_within_s * interval '1 second' > clock_timestamp())
           select count(*) as "count!", max(until) as until,
                  count(distinct device_id) filter (where not exists (
                    select from live other where other.device_id = live.device_id and other.issuer <> live.issuer))
                    as "devices!"
           from live where issuer = decode($1, 'hex')"#,
        key
    )
    .fetch_one(c)
    .await?;
    Ok(Signed { count: row.count, devices: row.devices, until: row.until })
}

pub(super) async fn views(c: &mut PgConnection) -> Result<Vec<KeyView>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"select role as "role!", key as "key!", state as "state!", state_since as "since!", created_at as "created_at!"
           from signing_keys order by role, created_at, key"#
    )
    .fetch_all(c)
    .await?;
    let view = |role: &str, key, state: &str, since, created_at| {
        Some(KeyView { role: KeyRole::from_column(role)?, key, state: KeyState::from_column(state), since, created_at })
    };
    Ok(rows.into_iter().filter_map(|row| view(&row.role, row.key, &row.state, row.since, row.created_at)).collect())
}

pub(super) async fn live(c: &mut PgConnection) -> Result<Vec<LiveReplica>, sqlx::Error> {
    sqlx::query_as!(
        LiveReplica,
        r#"select id, addr, seen_at,
                  array(select key from replica_keys k where k.replica = r.id order by key) as "keys!"
           from replicas r where seen_at > clock_timestamp() - interval '1 minute' order by id"#
    )
    .fetch_all(c)
    .await
}
