//! What a drill reads of the database when all is over: as its owner, on a session of its own, so that the service's
//! pools and roles have no part in it. Reads only, page by page.

use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Instant;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::error::{Fault, StoreError};
use super::primary::PROBE;
use super::session::Session;
use super::settings::{Plane, StoreSettings};
use super::statement::Statement;

crate::statements! {
    /// Readings by their key.
    READINGS = "drill_readings";
    /// What leaders did.
    EFFECTS = "drill_effects";
    /// Changes of presence.
    PRESENCE = "drill_presence";
    /// Intervals in which silence proves nothing.
    OUTAGES = "drill_outages";
    /// The primary's timeline.
    TIMELINE = "drill_timeline";
    /// Backends and locks of the service.
    BACKENDS = "drill_backends";
}

/// Rows in one answer: a long run leaves hundreds of thousands.
const PAGE_ROWS: i64 = 10_000;
/// Over one page.
const PAGE_DEADLINE: Duration = Duration::from_secs(30);
const AGAIN: Duration = Duration::from_millis(200);
/// No statement of the service takes longer; a transaction that does was left by somebody who is gone.
const TRANSACTION_MAX: Duration = Duration::from_secs(5);

/// A reading whose values hold its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NumberedReading {
    pub device: Uuid,
    pub ts: OffsetDateTime,
    /// `None`: there is no number in it.
    pub n: Option<i64>,
}

/// A row of `leader_effects`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderEffect {
    pub seq: i64,
    pub role: String,
    pub timeline: i32,
    pub epoch: i64,
}

/// A row of `events` that is about presence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PresenceChange {
    pub device: Uuid,
    pub at: OffsetDateTime,
    pub kind: String,
    pub cause: Option<String>,
}

/// A row of `outages`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutageRow {
    pub started_at: OffsetDateTime,
    pub ended_at: OffsetDateTime,
    pub replica: Option<Uuid>,
}

/// What the service holds of the database server.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backends {
    pub backends: i64,
    pub locks: i64,
    /// Backends in a transaction that nobody waits for any more.
    pub abandoned: i64,
    /// The part of the notification queue that some listener has not read: 0 to 1.
    pub notification_queue: f64,
}

/// A session with the primary.
pub struct DrillView {
    session: Session,
    pub timeline: i32,
}

impl DrillView {
    /// Opens a session with the writable node of the highest timeline, found within `limit`.
    pub async fn open(settings: &StoreSettings, limit: Duration) -> Result<Self, StoreError> {
        let deadline = Instant::now() + limit;
        loop {
            let mut found: Option<Self> = None;
            for host in &settings.hosts {
                match writable(settings, host).await {
                    Ok(Some(view)) if found.as_ref().is_none_or(|best| best.timeline < view.timeline) => {
                        found = Some(view);
                    }
                    Ok(_) => {}
                    Err(error) => tracing::debug!(host = host.0, port = host.1, %error, "a node does not answer"),
                }
            }
            if let Some(view) = found {
                return Ok(view);
            }
            if Instant::now() >= deadline {
                let detail = format!("no writable node was found within {limit:?}");
                return Err(StoreError::new("connect", Fault::Unavailable, detail));
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// The devices' readings with a time of `from` or later, by device and time.
    pub async fn readings(&self, devices: &[Uuid], from: OffsetDateTime) -> Result<Vec<NumberedReading>, StoreError> {
        let (mut all, mut after) = (Vec::new(), (Uuid::nil(), from, i64::MIN));
        loop {
            let page = self.page(&READINGS, &[&devices, &from, &after.0, &after.1, &after.2, &PAGE_ROWS]).await?;
            all.extend(page.iter().map(|row| NumberedReading {
                device: row.get("device_id"),
                ts: row.get("ts"),
                n: row.get("n"),
            }));
            match page.last() {
                Some(last) if is_full(&page) => after = (last.get("device_id"), last.get("ts"), last.get("digest")),
                _ => return Ok(all),
            }
        }
    }

    /// What leaders did at `from` or later, in the order of `seq`.
    pub async fn effects(&self, from: OffsetDateTime) -> Result<Vec<LeaderEffect>, StoreError> {
        let (mut all, mut after): (Vec<LeaderEffect>, i64) = (Vec::new(), 0);
        loop {
            let page = self.page(&EFFECTS, &[&from, &after, &PAGE_ROWS]).await?;
            all.extend(page.iter().map(|row| LeaderEffect {
                seq: row.get("seq"),
                role: row.get("role"),
                timeline: row.get("timeline"),
                epoch: row.get("epoch"),
            }));
            match page.last() {
                Some(last) if is_full(&page) => after = last.get("seq"),
                _ => return Ok(all),
            }
        }
    }

    /// The devices' changes of presence at `from` or later, in the order of their ids.
    pub async fn presence(&self, devices: &[Uuid], from: OffsetDateTime) -> Result<Vec<PresenceChange>, StoreError> {
        let (mut all, mut after): (Vec<PresenceChange>, i64) = (Vec::new(), 0);
        loop {
            let page = self.page(&PRESENCE, &[&devices, &from, &after, &PAGE_ROWS]).await?;
            all.extend(page.iter().map(|row| PresenceChange {
                device: row.get("device_id"),
                at: row.get("at"),
                kind: row.get("kind"),
                cause: row.get("cause"),
            }));
            match page.last() {
                Some(last) if is_full(&page) => after = last.get("id"),
                _ => return Ok(all),
            }
        }
    }

    /// The outages that ended at `from` or later.
    pub async fn outages(&self, from: OffsetDateTime) -> Result<Vec<OutageRow>, StoreError> {
        let (mut all, mut after): (Vec<OutageRow>, i64) = (Vec::new(), 0);
        loop {
            let page = self.page(&OUTAGES, &[&from, &after, &PAGE_ROWS]).await?;
            all.extend(page.iter().map(|row| OutageRow {
                started_at: row.get("started_at"),
                ended_at: row.get("ended_at"),
                replica: row.get("replica"),
            }));
            match page.last() {
                Some(last) if is_full(&page) => after = last.get("id"),
                _ => return Ok(all),
            }
        }
    }

    /// The primary's timeline now.
    pub async fn current_timeline(&self) -> Result<i32, StoreError> {
        let rows = self.page(&TIMELINE, &[]).await?;
        rows.first().map(|row| row.get("timeline")).ok_or_else(|| nothing(&TIMELINE))
    }

    /// What the service holds of the server now. The session that asks is not counted.
    pub async fn backends(&self) -> Result<Backends, StoreError> {
        let age_ms = i64::try_from(TRANSACTION_MAX.as_millis()).unwrap_or(i64::MAX);
        let rows = self.page(&BACKENDS, &[&age_ms]).await?;
        let row = rows.first().ok_or_else(|| nothing(&BACKENDS))?;
        Ok(Backends {
            backends: row.get("backends"),
            locks: row.get("locks"),
            abandoned: row.get("abandoned"),
            notification_queue: row.get("notification_queue"),
        })
    }

    /// Waits until no backend is abandoned, at most `limit`; what there was in the end.
    pub async fn settled(&self, limit: Duration) -> Result<Backends, StoreError> {
        let deadline = Instant::now() + limit;
        loop {
            let now = self.backends().await?;
            if now.abandoned == 0 || Instant::now() >= deadline {
                return Ok(now);
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn page(
        &self,
        statement: &'static Statement,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, StoreError> {
        self.session.query(statement, params, PAGE_DEADLINE).await
    }
}

/// `None`: a standby.
async fn writable(settings: &StoreSettings, host: &(String, u16)) -> Result<Option<DrillView>, StoreError> {
    let session = Session::open(settings, host, Plane::Owner, "").await?;
    let rows = session.query(&PROBE, &[], settings.statement_deadline).await?;
    let timeline = rows.first().and_then(|row| row.get::<_, Option<i32>>("timeline"));
    Ok(timeline.map(|timeline| DrillView { session, timeline }))
}

fn is_full(page: &[Row]) -> bool {
    i64::try_from(page.len()).is_ok_and(|rows| rows >= PAGE_ROWS)
}

fn nothing(statement: &Statement) -> StoreError {
    StoreError::new(statement.name, Fault::Refused, "no row")
}
