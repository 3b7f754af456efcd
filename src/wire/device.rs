//! The device listener's shapes.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::domain::ids::{DeviceId, FleetId};

/// `POST /v1/enroll`
#[derive(Clone, Deserialize, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EnrollRequest {
    /// `ebt_<id>_<secret>_<pin>`
    #[schema(max_length = 256)]
    pub token: String,
    #[schema(pattern = "^[a-z0-9][a-z0-9._-]{0,62}$")]
    pub name: String,
    /// PKCS#10, PEM.
    #[schema(max_length = 16384)]
    pub csr: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 64)]
    pub tags: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub attributes: Option<serde_json::Map<String, serde_json::Value>>,
}

/// `POST /v1/renew`
#[derive(Clone, Debug, Deserialize, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RenewRequest {
    /// PKCS#10, PEM.
    #[schema(max_length = 16384)]
    pub csr: String,
}

/// The answer of `/v1/enroll` (201) and `/v1/renew` (200).
#[derive(Clone, Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub struct EnrollAnswer {
    pub device: DeviceRef,
    /// PEM: the device's certificate, then the issuing CA's.
    pub certificate: String,
    /// PEM bundle to trust.
    pub ca: String,
    #[serde(with = "super::timestamp")]
    #[schema(value_type = String, format = DateTime)]
    pub not_after: OffsetDateTime,
    /// From then on the device should renew.
    #[serde(with = "super::timestamp")]
    #[schema(value_type = String, format = DateTime)]
    pub renew_after: OffsetDateTime,
    /// Base URLs of the device listener, to be tried in turn.
    pub endpoints: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, utoipa::ToSchema)]
pub struct DeviceRef {
    #[schema(value_type = uuid::Uuid)]
    pub id: DeviceId,
    pub name: String,
    /// The fleet's name.
    pub fleet: String,
}

/// The answer of `POST /v1/token` (RFC 6749, 5.1).
#[derive(Clone, Deserialize, Serialize, utoipa::ToSchema)]
pub struct TokenAnswer {
    pub access_token: String,
    /// Always `Bearer`.
    pub token_type: String,
    /// Seconds.
    pub expires_in: u64,
}

/// `POST /v1/heartbeat`; an empty body is an empty object.
#[derive(Clone, Debug, Default, Deserialize, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HeartbeatRequest {
    /// The device's own counter: shown to operators as evidence, and judged by nobody. It may reset at reboot.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "super::whole::option::deserialize")]
    #[schema(minimum = 0, maximum = 9_223_372_036_854_775_807_i64)]
    pub seq: Option<u64>,
    /// The interval that the device wishes for, in seconds; within the fleet's limits.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "super::whole::option::deserialize")]
    #[schema(minimum = 1, maximum = 2_592_000)]
    pub interval_s: Option<u64>,
    /// A short text for operators, who see the last one; an empty one takes it back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 256)]
    pub status: Option<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub struct HeartbeatAnswer {
    /// Send the next heartbeat after this many seconds: the promised interval × U(0.9, 1.1).
    pub next_in_s: f64,
    #[serde(with = "super::timestamp")]
    #[schema(value_type = String, format = DateTime)]
    pub server_time: OffsetDateTime,
    /// Messages that wait for the device.
    pub messages: u64,
}

/// `POST /v1/goodbye`
#[derive(Clone, Debug, Default, Deserialize, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GoodbyeRequest {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 256)]
    pub reason: Option<String>,
    /// When the device means to be back: RFC 3339, or Unix milliseconds. Any RFC 3339 offset is accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub back_at: Option<Timestamp>,
}

/// A time in a request: RFC 3339 with any offset, or an integer of Unix milliseconds.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, utoipa::ToSchema)]
#[serde(untagged)]
pub enum Timestamp {
    Text(String),
    UnixMs(#[serde(deserialize_with = "super::whole::deserialize")] i64),
}

impl Timestamp {
    /// The point in time; `None` if the text is none, or the calendar does not have it.
    pub fn resolve(&self) -> Option<OffsetDateTime> {
        match self {
            Self::Text(text) => crate::domain::time::parse_rfc3339(text),
            Self::UnixMs(ms) => crate::domain::time::from_unix_us(ms.checked_mul(1_000)?),
        }
    }
}

/// The answer of `POST /v1/readings`: 200, 207 or 422, one shape for all three.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, utoipa::ToSchema)]
pub struct ReadingsAnswer {
    /// Stored now.
    pub stored: u64,
    /// Stored before; acknowledged all the same.
    pub duplicates: u64,
    pub rejected_total: u64,
    /// The first hundred.
    pub rejected: Vec<RejectedItem>,
    /// `degraded`: the service's `durability.policy` is `accept`, and no synchronous standby had what is acknowledged
    /// here. Absent: it is where the policy wants it. Under `refuse` the answer is 503 (`outcome-unknown`) instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durability: Option<Durability>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// On the primary alone: no synchronous standby had it when it was acknowledged.
    Degraded,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, utoipa::ToSchema)]
pub struct RejectedItem {
    /// Position in the batch, from 0.
    pub index: u64,
    /// `invalid`, `conflict`, `refused`, …
    #[serde(rename = "type")]
    pub kind: String,
    pub detail: String,
}

/// `GET /v1/me`
#[derive(Clone, Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub struct Me {
    pub device: DeviceRef,
    #[schema(value_type = uuid::Uuid)]
    pub fleet_id: FleetId,
    pub certificate: MyCertificate,
    pub heartbeat_interval_s: f64,
    pub readings_batch_max: u64,
    pub readings_body_max_bytes: u64,
}

#[derive(Clone, Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub struct MyCertificate {
    pub fingerprint: String,
    #[serde(with = "super::timestamp")]
    #[schema(value_type = String, format = DateTime)]
    pub not_after: OffsetDateTime,
    #[serde(with = "super::timestamp")]
    #[schema(value_type = String, format = DateTime)]
    pub renew_after: OffsetDateTime,
}
