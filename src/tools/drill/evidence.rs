//! What a scenario leaves behind: the clients' histories, the replicas' belief logs, the final database, samples of
//! what could leak. Everything that the checker may look at, and nothing else.
//!
//! Times of the drill's own host are microseconds of CLOCK_BOOTTIME (`*_us`), which all processes of one host share;
//! times that the database gave are microseconds since 1970 on its own clock (`*_unix_us`). [`Evidence::wall_offset_us`]
//! joins the two.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::scenario::{Bounds, Maximums, Minimums};
use super::stalls::Stalls;

/// One request by one client, written when its outcome is known or given up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// Name of the client: a device's, or an operator's.
    pub client: String,
    /// The device that it concerns, where there is one.
    pub device: Option<Uuid>,
    /// Counts the client's attempts from 1.
    pub number: u64,
    pub call: Call,
    /// Base URL of the endpoint that it went to.
    pub endpoint: String,
    pub sent_us: u64,
    /// When the answer, or the certainty that none comes, was there.
    pub done_us: u64,
    pub outcome: Outcome,
    /// The replica that answered (`X-Everbeat-Replica`).
    pub replica: Option<Uuid>,
    /// Its position in the change log (`X-Everbeat-Position`).
    pub position: Option<String>,
    /// On a connection that had carried a request before.
    pub reused_connection: bool,
    /// Sent to see what this endpoint says, wherever a client would go: by a caller that stays at one replica, or whose
    /// right to call is taken. The invariants judge it like any other; it is no measure of what clients saw.
    #[serde(default)]
    pub probe: bool,
}

/// What was asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Call {
    /// Enrollment, or the device's own renewal.
    Enroll,
    Heartbeat,
    /// Each item carries its own number `n` in its values, counted for each device from 1: the primary key of a stored
    /// reading would hide a double, this number does not.
    Readings {
        items: Vec<Item>,
        retry_of: Option<u64>,
    },
    /// A clean goodbye; a device that has said it is not silent.
    Goodbye,
    /// An operator's change of the client's device or of another resource, which then has `version` (if acknowledged).
    Change {
        resource: String,
        version: Option<i64>,
    },
    /// A read of the same: `version` as answered.
    Read {
        resource: String,
        version: Option<i64>,
    },
    /// An operator revokes the certificate (or suspends the device) of `device`.
    Revoke {
        device: Uuid,
    },
    /// And takes it back.
    Restore {
        device: Uuid,
    },
    /// Any other call of a device that proves that its identity was accepted (`GET /v1/me`).
    Me,
}

/// One reading in a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    pub n: u64,
    pub ts_unix_us: i64,
}

/// What the client was told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// A success. Counts are those of a readings answer; of all others they are zero.
    Acknowledged {
        status: u16,
        stored: u64,
        duplicates: u64,
        rejected: u64,
        /// The answer said that no standby has it (`X-Everbeat-Durability: degraded`).
        degraded: bool,
        /// Of a heartbeat: when the next one is due, milliseconds.
        next_in_ms: Option<u64>,
    },
    /// An answer that refuses; 503 may also mean *unknown*.
    Refused {
        status: u16,
        problem: Option<String>,
        /// The sentence of a failure of the service: which of its parts refused.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        detail: Option<String>,
    },
    /// No answer: it may have been done.
    Unknown { error: String },
    /// It certainly never reached a replica (no connection).
    NotSent { error: String },
}

impl Outcome {
    pub fn is_acknowledged(&self) -> bool {
        matches!(self, Self::Acknowledged { .. })
    }
}

/// A span in which a replica believed to hold a duty, from its log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BeliefSpan {
    pub replica: Uuid,
    pub duty: String,
    pub timeline: i32,
    pub epoch: i64,
    pub began_us: u64,
    /// `None`: the log has no end of it. An [`Absence`] of the replica bounds it then.
    pub ended_us: Option<u64>,
    /// The last moment up to which the log shows that it trusted the lease without a renewal in between.
    pub trust_until_us: u64,
}

/// A span in which a process did not run (killed: until it was started again; frozen: until it was thawed). It begins
/// before the signal is sent and ends after the process runs again, so that it covers the absence and a little more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Absence {
    pub replica: Uuid,
    pub from_us: u64,
    pub until_us: u64,
    /// Frozen, and not killed: it goes on with what it believed.
    pub paused: bool,
}

/// A replica was told to end, with SIGTERM. Its own log says how it did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terminated {
    pub replica: Uuid,
    pub at_us: u64,
}

/// A span in which a replica could not hear of changes: its way to the database, or its change log, was cut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlindSpan {
    /// `None`: every replica.
    pub replica: Option<Uuid>,
    pub from_us: u64,
    pub until_us: u64,
}

/// A span in which no standby ran: from when the last of them was gone to when the first was to come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AloneSpan {
    pub from_us: u64,
    pub until_us: u64,
}

/// A span in which the database stamped its times with a clock that the drill had moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockStep {
    /// Just before it was moved.
    pub from_us: u64,
    /// When it had been put right.
    pub until_us: u64,
    /// Forward; negative: back.
    pub by_us: i64,
}

/// A reading as the final database has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredReading {
    pub device: Uuid,
    pub ts_unix_us: i64,
    pub n: u64,
}

/// A row of `leader_effects`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effect {
    pub role: String,
    pub timeline: i32,
    pub epoch: i64,
    pub seq: i64,
}

/// A presence event (`device.online`, `device.suspect`, `device.offline`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PresenceEvent {
    pub device: Uuid,
    pub at_unix_us: i64,
    pub kind: String,
    pub cause: Option<String>,
}

/// A recorded interval of unavailability; `replica`: that replica's only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutageSpan {
    pub started_unix_us: i64,
    pub ended_unix_us: i64,
    pub replica: Option<Uuid>,
}

/// What the final database says, read from the primary when everything is well again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinalDatabase {
    pub readings: Vec<StoredReading>,
    pub effects: Vec<Effect>,
    pub presence: Vec<PresenceEvent>,
    pub outages: Vec<OutageSpan>,
    pub timeline: i32,
}

/// Something that must come back to where it was: `process.fds`, `process.resident_bytes`, `database.backends`,
/// `database.locks`, `net.connections`, … of `place` (a replica, the database).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LeakSample {
    pub place: String,
    pub what: String,
    pub before: f64,
    pub after: f64,
    /// How much more may be there afterwards.
    pub tolerance: f64,
}

/// A moment that the report's timeline shows and the figures are measured from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    pub at_us: u64,
    pub what: MarkKind,
    /// For people: which node, which step.
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MarkKind {
    FaultBegan,
    FaultEnded,
    /// Another replica leads (`text`: who).
    Leader,
    /// Another database node is primary (`text`: which).
    Primary,
    Healthy,
    Note,
}

/// A silent device of the load: when it was killed, and what it had been promised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silenced {
    pub device: Uuid,
    pub at_us: u64,
    /// The fleet's heartbeat interval.
    pub interval_ms: u64,
}

/// Everything of one run of one scenario.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    pub scenario: String,
    pub seed: u64,
    pub started_us: u64,
    pub ended_us: u64,
    /// Microseconds since 1970 minus microseconds of CLOCK_BOOTTIME, on the drill's host.
    pub wall_offset_us: i64,
    /// Interval that the load's fleet promises, milliseconds.
    pub heartbeat_interval_ms: u64,
    pub attempts: Vec<Attempt>,
    pub beliefs: Vec<BeliefSpan>,
    pub absences: Vec<Absence>,
    #[serde(default)]
    pub terminated: Vec<Terminated>,
    pub silenced: Vec<Silenced>,
    pub database: FinalDatabase,
    pub leaks: Vec<LeakSample>,
    pub marks: Vec<Mark>,
    pub minimums: Minimums,
    #[serde(default)]
    pub maximums: Maximums,
    /// Counts that only the injector knows (`commits_cut`, `leader_changes`, …), by the names in [`Minimums`].
    pub counts: BTreeMap<String, u64>,
    /// What the injector knows of blindness. Recorded outages and pauses of a replica count as well, unasked.
    #[serde(default)]
    pub blind: Vec<BlindSpan>,
    /// Moved clocks of the database.
    #[serde(default)]
    pub clock_steps: Vec<ClockStep>,
    /// When the primary had nobody beside it.
    #[serde(default)]
    pub alone: Vec<AloneSpan>,
    /// Of so many standbys at once commits waited, or for any one of them, before the first fault.
    #[serde(default)]
    pub synchronous_standbys: u64,
    /// Why the run was not finished: the deployment was not well in time, a fault could not be injected or undone. What
    /// was promised until then is judged all the same.
    #[serde(default)]
    pub unfinished: Option<String>,
    /// How long the drill's machine stood still.
    #[serde(default)]
    pub stalls: Stalls,
    /// The scenario's, so that a run can be judged again from this alone.
    #[serde(default)]
    pub bounds: Bounds,
}

impl Evidence {
    /// A time of the database's clock on the drill's own.
    pub fn boottime_of(&self, unix_us: i64) -> i64 {
        unix_us - self.wall_offset_us
    }
}
