//! The admin listener's shapes.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::domain::access::Role;
use crate::domain::presence::{Cause, State};

/// A fleet and its policy.
#[derive(Clone, Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub struct Fleet {
    pub id: Uuid,
    pub name: String,
    pub heartbeat_interval_s: f64,
    pub heartbeat_interval_max_s: f64,
    pub certificate_ttl_s: i64,
    pub renew_expired_within_s: i64,
    #[serde(with = "super::timestamp")]
    #[schema(value_type = String, format = DateTime)]
    pub created_at: OffsetDateTime,
}

/// `POST /v1/fleets`
#[derive(Clone, Debug, Deserialize, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewFleet {
    #[schema(pattern = "^[a-z0-9][a-z0-9._-]{0,62}$")]
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "super::whole::option::deserialize")]
    #[schema(minimum = 1, maximum = 86_400)]
    pub heartbeat_interval_s: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "super::whole::option::deserialize")]
    #[schema(minimum = 60, maximum = 315_360_000)]
    pub certificate_ttl_s: Option<i64>,
    /// For how long after its end a certificate may still be renewed.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "super::whole::option::deserialize")]
    #[schema(minimum = 0, maximum = 315_360_000)]
    pub renew_expired_within_s: Option<i64>,
}

/// A device as operators see it.
#[derive(Clone, Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub struct Device {
    pub id: Uuid,
    pub name: String,
    /// The fleet's name.
    pub fleet: String,
    /// `active`, `suspended` or `decommissioned`.
    pub state: String,
    pub tags: Vec<String>,
    #[schema(value_type = Object)]
    pub attributes: serde_json::Value,
    #[serde(with = "super::timestamp")]
    #[schema(value_type = String, format = DateTime)]
    pub created_at: OffsetDateTime,
    /// In lists and in `…/presence` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub presence: Option<Presence>,
    /// In lists only: the newest reading.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest: Option<Reading>,
}

#[derive(Clone, Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub struct Presence {
    #[schema(value_type = String)]
    pub state: State,
    #[schema(value_type = String)]
    pub cause: Cause,
    #[serde(with = "super::timestamp")]
    #[schema(value_type = String, format = DateTime)]
    pub since: OffsetDateTime,
    #[serde(with = "super::timestamp::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_seen: Option<OffsetDateTime>,
    /// The interval that the device's silence is judged by.
    pub promised_interval_s: f64,
    pub status_seq: i64,
    /// In `…/presence` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<Why>,
}

/// The evidence behind a presence.
#[derive(Clone, Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub struct Why {
    /// The cause, in a sentence.
    pub because: String,
    /// Silence counts from here: the last contact, the end of a planned sleep, the end of an outage of ours, or the
    /// moment from which a replica that was cut off can have acknowledged nothing any more.
    #[serde(with = "super::timestamp")]
    #[schema(value_type = String, format = DateTime)]
    pub silent_from: OffsetDateTime,
    /// The silence that counts, so far; outages of ours are taken out.
    pub silent_s: f64,
    /// When it becomes suspect if nothing is heard; null where it cannot.
    #[serde(with = "super::timestamp::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub suspect_at: Option<OffsetDateTime>,
    /// When it becomes offline if nothing is heard; null where it cannot.
    #[serde(with = "super::timestamp::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub offline_at: Option<OffsetDateTime>,
    /// A planned sleep: silence before this was agreed upon.
    #[serde(with = "super::timestamp::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub promised_until: Option<OffsetDateTime>,
    /// The replica that heard the device last.
    pub heard_by: Option<Uuid>,
    /// That replica is cut off from the database, or gone: what it heard before is known, and nothing since.
    #[serde(with = "super::timestamp::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub cut_off_since: Option<OffsetDateTime>,
    /// The device's own counter, from its last heartbeat that had one. It resets at reboot.
    #[serde(default)]
    pub seq: Option<i64>,
    /// What the device said of itself last.
    #[serde(default)]
    pub status: Option<String>,
    /// The last outage of ours that ended after the last contact.
    pub outage: Option<Outage>,
    /// The newest outages of ours that ended after the last contact, and which of them count.
    #[schema(max_items = 20)]
    pub outages: Vec<JudgedOutage>,
    /// Up to here silence is judged: the last proof that we could hear. Null: there was none yet.
    #[serde(with = "super::timestamp::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub judged_through: Option<OffsetDateTime>,
}

/// What an outage of ours does to the deadlines of a device.
#[derive(Clone, Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub struct JudgedOutage {
    pub outage: Outage,
    /// It gives a full deadline from its end. False: so many outages came before that only its length is taken out.
    pub restarts: bool,
    /// In a sentence.
    pub because: String,
}

#[derive(Clone, Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub struct Reading {
    #[serde(with = "super::timestamp")]
    #[schema(value_type = String, format = DateTime)]
    pub ts: OffsetDateTime,
    #[schema(value_type = Object)]
    pub values: serde_json::Value,
    #[serde(with = "super::timestamp")]
    #[schema(value_type = String, format = DateTime)]
    pub received_at: OffsetDateTime,
}

/// `POST /v1/certificates/{fingerprint}/revoke`
#[derive(Clone, Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub struct Revocation {
    pub certificate: Certificate,
    /// Fingerprints that were valid before and are not any more: the certificate, its descendants, and those of the
    /// same keys. Empty: all of them had been revoked before.
    pub revoked: Vec<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub struct Certificate {
    pub fingerprint: String,
    pub device_id: Uuid,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    #[serde(with = "super::timestamp")]
    #[schema(value_type = String, format = DateTime)]
    pub not_before: OffsetDateTime,
    #[serde(with = "super::timestamp")]
    #[schema(value_type = String, format = DateTime)]
    pub not_after: OffsetDateTime,
    #[serde(with = "super::timestamp::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub revoked_at: Option<OffsetDateTime>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoke_reason: Option<String>,
}

/// An item of `/v1/certificates`: what a device has until it renews.
#[derive(Clone, Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub struct EndingCertificate {
    pub fingerprint: String,
    pub device_id: Uuid,
    /// The device's name.
    pub device: String,
    /// The fleet's name.
    pub fleet: String,
    #[serde(with = "super::timestamp")]
    #[schema(value_type = String, format = DateTime)]
    pub not_before: OffsetDateTime,
    /// A device that is well has renewed by then.
    #[serde(with = "super::timestamp")]
    #[schema(value_type = String, format = DateTime)]
    pub renew_after: OffsetDateTime,
    #[serde(with = "super::timestamp")]
    #[schema(value_type = String, format = DateTime)]
    pub not_after: OffsetDateTime,
}

/// `POST /v1/certificates/{fingerprint}/revoke`, `…/suspend`, `…/resume`; an empty body is an empty object.
#[derive(Clone, Debug, Default, Deserialize, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Reason {
    /// For people. In a revocation list also for programs, if it is one of RFC 5280, 5.3.1: `keyCompromise`,
    /// `affiliationChanged`, `cessationOfOperation`, `privilegeWithdrawn`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 256)]
    pub reason: Option<String>,
}

/// `POST /v1/enrollment-tokens`
#[derive(Clone, Debug, Default, Deserialize, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewEnrollmentToken {
    /// The fleet's name.
    pub fleet: String,
    /// What a device's whole name must fit: `*` stands for any characters, `?` for one. Any name without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[a-z0-9._*?-]{1,64}$")]
    pub name_pattern: Option<String>,
    /// How many devices it enrolls.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "super::whole::option::deserialize")]
    #[schema(minimum = 1, maximum = 1_000_000)]
    pub uses_max: Option<i32>,
    /// Seconds from now.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "super::whole::option::deserialize")]
    #[schema(minimum = 60, maximum = 31_536_000)]
    pub expires_in_s: Option<i64>,
}

#[derive(Clone, Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub struct EnrollmentToken {
    pub id: String,
    pub fleet: String,
    /// What a device's whole name must fit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name_pattern: Option<String>,
    pub uses: i32,
    pub uses_max: i32,
    #[serde(with = "super::timestamp")]
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: OffsetDateTime,
    #[serde(with = "super::timestamp::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub revoked_at: Option<OffsetDateTime>,
    pub created_by: String,
    /// Only in the answer that makes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// In the answer to a repeated `Idempotency-Key`: why `token` is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_omitted: Option<String>,
}

/// A page of `/v1/events`.
#[derive(Clone, Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub struct EventPage {
    #[schema(max_items = 1000)]
    pub items: Vec<Event>,
    /// Give it as `cursor` to get the next page; null on the last one.
    pub next: Option<String>,
    /// Give it as `cursor` later, to go on with what will have happened by then, in ascending order. In descending
    /// order it is given with the first page only.
    pub resume: Option<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub struct Event {
    pub id: i64,
    #[serde(with = "super::timestamp")]
    #[schema(value_type = String, format = DateTime)]
    pub at: OffsetDateTime,
    /// `device.online`, `device.suspect`, `device.offline`, `device.enrolled`, …
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fleet_id: Option<Uuid>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_id: Option<Uuid>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_seq: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    #[schema(value_type = Object)]
    pub detail: serde_json::Value,
}

/// A duty's lease.
#[derive(Clone, Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub struct Lease {
    /// The duty: `sweeper`, `partitions`.
    pub role: String,
    /// The replica that holds it; null when it was resigned.
    pub holder: Option<Uuid>,
    pub addr: String,
    pub epoch: i64,
    pub timeline: i32,
    #[serde(with = "super::timestamp")]
    #[schema(value_type = String, format = DateTime)]
    pub acquired_at: OffsetDateTime,
    #[serde(with = "super::timestamp")]
    #[schema(value_type = String, format = DateTime)]
    pub renewed_at: OffsetDateTime,
    #[serde(with = "super::timestamp")]
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: OffsetDateTime,
    /// By the database's clock.
    pub expired: bool,
}

#[derive(Clone, Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub struct Replica {
    pub id: Uuid,
    pub addr: String,
    pub version: String,
    #[serde(with = "super::timestamp")]
    #[schema(value_type = String, format = DateTime)]
    pub started_at: OffsetDateTime,
    #[serde(with = "super::timestamp")]
    #[schema(value_type = String, format = DateTime)]
    pub seen_at: OffsetDateTime,
    #[serde(with = "super::timestamp")]
    #[schema(value_type = String, format = DateTime)]
    pub flushed_through: OffsetDateTime,
}

/// An interval in which silence proves nothing.
#[derive(Clone, Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub struct Outage {
    pub id: i64,
    #[serde(with = "super::timestamp")]
    #[schema(value_type = String, format = DateTime)]
    pub started_at: OffsetDateTime,
    #[serde(with = "super::timestamp")]
    #[schema(value_type = String, format = DateTime)]
    pub ended_at: OffsetDateTime,
    pub cause: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica: Option<Uuid>,
}

/// `GET /v1/whoami`
#[derive(Clone, Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub struct WhoAmI {
    pub subject: String,
    pub roles: Vec<Grant>,
    #[serde(with = "super::timestamp")]
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: OffsetDateTime,
}

#[derive(Clone, Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub struct Grant {
    /// The fleet's id; null: every fleet.
    pub fleet_id: Option<Uuid>,
    #[schema(value_type = String)]
    pub role: Role,
}
