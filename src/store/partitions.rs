//! The partitions of readings, by day (UTC), and the tables that are trimmed by age. Making is fenced in its own
//! call. Dropping cannot be: `DETACH … CONCURRENTLY` runs outside any transaction. So the caller checks the fence
//! right before, and each step can be repeated, also by two leaders at once: what is past the retention for one is
//! past it for the other.

use std::time::Duration;

use super::error::StoreError;
use super::retention::RetentionClock;
use super::session::Session;
use super::statement::Statement;
use crate::domain::lease::Fence;
use crate::statements;

statements! {
    ENSURE = "partitions_ensure";
    EXPIRED = "partitions_expired";
    TRIM_CHANGES = "trim_changes";
    TRIM_EVENTS = "trim_events";
    TRIM_LEADER_EFFECTS = "trim_leader_effects";
    TRIM_IDEMPOTENCY_KEYS = "trim_idempotency_keys";
    TRIM_OUTAGES = "trim_outages";
    TRIM_REPLICAS = "trim_replicas";
}

/// A table whose old rows are dropped in bounded steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trimmed {
    Changes,
    Events,
    LeaderEffects,
    IdempotencyKeys,
    /// Keeps what may still be taken out of a silence, whatever the age: the longest promise of any fleet decides.
    Outages,
    /// Replicas that are gone. Long before, their devices were heard elsewhere or are offline.
    Replicas,
}

impl Trimmed {
    fn statement(self) -> &'static Statement {
        match self {
            Self::Changes => &TRIM_CHANGES,
            Self::Events => &TRIM_EVENTS,
            Self::LeaderEffects => &TRIM_LEADER_EFFECTS,
            Self::IdempotencyKeys => &TRIM_IDEMPOTENCY_KEYS,
            Self::Outages => &TRIM_OUTAGES,
            Self::Replicas => &TRIM_REPLICAS,
        }
    }
}

/// How far the removal of a day has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    Attached,
    /// A `DETACH … CONCURRENTLY` was interrupted.
    Pending,
    Detached,
}

/// A day's table that is past its retention.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpiredDay {
    /// `readings_YYYYMMDD`.
    name: String,
    pub removal: Removal,
}

impl ExpiredDay {
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Only the form that [`EXPIRED`] selects: the name becomes part of a statement's text.
    fn parse(name: String, state: &str) -> Option<Self> {
        let digits = name.strip_prefix("readings_")?;
        let removal = match state {
            "attached" => Removal::Attached,
            "pending" => Removal::Pending,
            "detached" => Removal::Detached,
            _ => return None,
        };
        (digits.len() == 8 && digits.bytes().all(|b| b.is_ascii_digit())).then_some(Self { name, removal })
    }
}

/// Makes the partitions from yesterday on, `days` of them. How many were made now; `None`: deposed.
pub async fn ensure(session: &Session, fence: &Fence, days: i32, limit: Duration) -> Result<Option<i32>, StoreError> {
    let params: [&(dyn tokio_postgres::types::ToSql + Sync); 4] = [&fence.role, &fence.epoch, &fence.timeline, &days];
    let rows = session.query(&ENSURE, &params, limit).await?;
    Ok(rows.first().and_then(|row| row.get("made")))
}

/// Days that lie wholly before the retention, oldest first, `rows_max` at most.
pub async fn expired(
    session: &Session,
    clock: RetentionClock,
    retention_days: i32,
    rows_max: i64,
    limit: Duration,
) -> Result<Vec<ExpiredDay>, StoreError> {
    let rows = session.query(&EXPIRED, &[&retention_days, &rows_max, &clock.0], limit).await?;
    Ok(rows.iter().filter_map(|row| ExpiredDay::parse(row.get("name"), row.get("state"))).collect())
}

/// The next step of a day's removal, as one statement; `None` when nothing is left to do.
/// The session's `statement_timeout` bounds it: a detach waits for every transaction that may still read the day.
pub async fn remove_step(session: &Session, day: &ExpiredDay, limit: Duration) -> Result<Option<Removal>, StoreError> {
    let name = &day.name;
    let (label, sql, then) = match day.removal {
        Removal::Attached => (
            "partition_detach",
            format!("alter table public.readings detach partition public.{name} concurrently"),
            Some(Removal::Detached),
        ),
        Removal::Pending => (
            "partition_finalize",
            format!("alter table public.readings detach partition public.{name} finalize"),
            Some(Removal::Detached),
        ),
        Removal::Detached => ("partition_drop", format!("drop table if exists public.{name}"), None),
    };
    session.batch(label, &sql, limit).await?;
    Ok(then)
}

impl ExpiredDay {
    /// The same day, one step further.
    #[must_use]
    pub fn at(&self, removal: Removal) -> Self {
        Self { name: self.name.clone(), removal }
    }
}

/// Which rows may go.
#[derive(Clone, Copy, Debug)]
pub struct Trim {
    pub table: Trimmed,
    pub age: Duration,
    pub rows_max: i64,
}

/// Drops rows of one table that are older than its age. How many went; `None`: deposed.
pub async fn trim(
    session: &Session,
    fence: &Fence,
    clock: RetentionClock,
    trim: Trim,
    limit: Duration,
) -> Result<Option<i64>, StoreError> {
    let age = i64::try_from(trim.age.as_millis()).unwrap_or(i64::MAX);
    let params: [&(dyn tokio_postgres::types::ToSql + Sync); 6] =
        [&fence.role, &fence.epoch, &fence.timeline, &age, &trim.rows_max, &clock.0];
    let rows = session.query(trim.table.statement(), &params, limit).await?;
    Ok(rows.first().and_then(|row| (row.get::<_, i64>("held") > 0).then(|| row.get("gone"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_days_become_statements() {
        assert!(ExpiredDay::parse("readings_20260101".to_owned(), "pending").is_some());
        for bad in ["readings_2026010", "readings_2026010a", "readings", "readings_20260101; drop table devices"] {
            assert_eq!(ExpiredDay::parse(bad.to_owned(), "attached"), None, "{bad}");
        }
        assert_eq!(ExpiredDay::parse("readings_20260101".to_owned(), "other"), None);
    }
}
