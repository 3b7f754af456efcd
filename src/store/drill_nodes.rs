//! What the drill asks of a database node, and does to its backends, as the schema's owner.

use std::time::Duration;

use uuid::Uuid;

use super::error::{Fault, StoreError};
use super::session::Session;
use super::settings::{Plane, StoreSettings};

crate::statements! {
    NODE = "drill_node";
    LEASES = "drill_leases";
    TERMINATE_LEASE = "drill_terminate_lease";
    TERMINATE_APPLICATION = "drill_terminate_application";
    TERMINATE_SYNC_WAITS = "drill_terminate_sync_waits";
}

/// A node that answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeView {
    /// `None`: it is a standby.
    pub timeline: Option<i32>,
    pub read_only: bool,
    /// It acknowledges nothing that no standby has.
    pub demands_sync: bool,
    /// Names of the standbys that stream from it, and of those among them that commits wait for.
    pub standbys: Vec<String>,
    pub sync_standbys: Vec<String>,
}

impl NodeView {
    pub fn is_writable(&self) -> bool {
        self.timeline.is_some() && !self.read_only
    }
}

/// A lease that is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldLease {
    pub role: String,
    pub holder: Uuid,
    pub addr: String,
    pub epoch: i64,
}

/// A session of the schema's owner with the node at `index` of the settings' hosts.
pub async fn open(settings: &StoreSettings, index: usize) -> Result<Session, StoreError> {
    let missing = || StoreError::new("connect", Fault::Refused, format!("there is no database node {}", index + 1));
    let host = settings.hosts.get(index).ok_or_else(missing)?;
    Session::open(settings, host, Plane::Owner, "-c application_name=everbeat/drill").await
}

pub async fn look(session: &Session, limit: Duration) -> Result<NodeView, StoreError> {
    let rows = session.query(&NODE, &[], limit).await?;
    let row = rows.first().ok_or_else(|| StoreError::new(NODE.name, Fault::Refused, "no row"))?;
    Ok(NodeView {
        timeline: row.get("timeline"),
        read_only: row.get("read_only"),
        demands_sync: row.get("demands_sync"),
        standbys: row.get("standbys"),
        sync_standbys: row.get("sync_standbys"),
    })
}

pub async fn leases(session: &Session, limit: Duration) -> Result<Vec<HeldLease>, StoreError> {
    let rows = session.query(&LEASES, &[], limit).await?;
    let held = |row: &tokio_postgres::Row| HeldLease {
        role: row.get("role"),
        holder: row.get("holder"),
        addr: row.get("addr"),
        epoch: row.get("epoch"),
    };
    Ok(rows.iter().map(held).collect())
}

/// Ends the session that holds the lock of a duty; how many there were.
pub async fn terminate_lease(session: &Session, role: &str, limit: Duration) -> Result<i64, StoreError> {
    session.query(&TERMINATE_LEASE, &[&role], limit).await.map(|rows| ended(&rows))
}

/// Ends the sessions of this name.
pub async fn terminate_application(session: &Session, name: &str, limit: Duration) -> Result<i64, StoreError> {
    session.query(&TERMINATE_APPLICATION, &[&name], limit).await.map(|rows| ended(&rows))
}

/// Ends the sessions of the service whose COMMIT waits for a standby.
pub async fn terminate_sync_waits(session: &Session, limit: Duration) -> Result<i64, StoreError> {
    session.query(&TERMINATE_SYNC_WAITS, &[], limit).await.map(|rows| ended(&rows))
}

/// Runs a command of a superuser (`select pg_promote()`, `alter system …`).
pub async fn command(session: &Session, sql: &str, limit: Duration) -> Result<(), StoreError> {
    session.batch("drill_command", sql, limit).await
}

fn ended(rows: &[tokio_postgres::Row]) -> i64 {
    rows.first().map_or(0, |row| row.get("ended"))
}
