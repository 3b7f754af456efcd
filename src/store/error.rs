//! What can go wrong with a statement, in the terms that callers decide by.

use tokio_postgres::error::SqlState;

/// An error of the database. `Display` is for logs; clients get the problem that http/error.rs makes of [`Fault`].
#[derive(Clone, Debug, thiserror::Error)]
#[error("{statement}: {fault:?}: {detail}")]
pub struct StoreError {
    /// The name of the statement or transaction.
    pub statement: &'static str,
    pub fault: Fault,
    /// For the log only: may name columns and values.
    pub detail: String,
    /// The constraint that was violated, where the database named one.
    pub constraint: Option<String>,
}

/// What the error means for whoever asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// Nothing was done: no connection, no free slot in time, not the primary, shutting down.
    Unavailable,
    /// It may or may not have been done: an error or a deadline after COMMIT was (or may have been) sent.
    Unknown,
    /// Rolled back by the database in favour of another transaction: 40001, 40P01.
    Contention,
    /// 23514 without a constraint's name: no partition of `readings` takes this time.
    MissingPartition,
    /// 23505: the row is there already.
    Duplicate,
    /// The database refused the data or the statement itself (classes 22, 23, 42, …).
    Refused,
}

impl Fault {
    pub const ALL: [Self; 6] =
        [Self::Unavailable, Self::Unknown, Self::Contention, Self::MissingPartition, Self::Duplicate, Self::Refused];

    /// May the same request be sent again, with a chance of success and without doing anything twice?
    /// `Unknown` is retryable for clients, since every write is idempotent, but not inside one request.
    pub fn retryable(self) -> bool {
        match self {
            Self::Unavailable | Self::Unknown | Self::Contention | Self::MissingPartition => true,
            Self::Duplicate | Self::Refused => false,
        }
    }

    /// Certainly not done, so that the server itself may try again while the request's deadline allows.
    pub fn certainly_not_done(self) -> bool {
        match self {
            Self::Unavailable | Self::Contention | Self::MissingPartition => true,
            Self::Unknown | Self::Duplicate | Self::Refused => false,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::Unknown => "unknown",
            Self::Contention => "contention",
            Self::MissingPartition => "missing_partition",
            Self::Duplicate => "duplicate",
            Self::Refused => "refused",
        }
    }

    /// What an SQLSTATE means (PostgreSQL manual, appendix A). `named`: the error carries a constraint's name.
    pub fn of_sqlstate(code: &str, named: bool) -> Self {
        match code {
            "40001" | "40P01" => Self::Contention,
            "23514" if !named => Self::MissingPartition,
            "23505" => Self::Duplicate,
            // 40003 is "statement completion unknown"; 40002 and the rest of class 40 were rolled back.
            "40003" => Self::Unknown,
            // 55000: a standby was asked for its timeline.
            "25006" | "55P03" | "55000" => Self::Unavailable,
            _ => match code.get(..2).unwrap_or_default() {
                // 57 holds query_canceled and admin_shutdown, which may strike while COMMIT waits for the standby.
                "08" | "57" | "58" | "XX" => Self::Unknown,
                "40" | "53" => Self::Unavailable,
                _ => Self::Refused,
            },
        }
    }
}

/// Could the work have been committed when the error struck?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Before COMMIT (or the only, autocommitted statement) was sent.
    Before,
    /// At or after it.
    Committing,
}

impl StoreError {
    pub fn new(statement: &'static str, fault: Fault, detail: impl Into<String>) -> Self {
        Self { statement, fault, detail: detail.into(), constraint: None }
    }

    pub fn retryable(&self) -> bool {
        self.fault.retryable()
    }

    /// Was it the statement that the database refused (class 42: names, types, privileges), not the data in it?
    /// Then leaving out rows helps nobody: the schema or a role is wrong.
    pub fn blames_statement(&self) -> bool {
        self.fault == Fault::Refused && self.detail.starts_with("42")
    }

    /// Was it the data in the statement that the database refused (class 22: values; class 23: constraints)? Then the
    /// same statement without the row at fault succeeds.
    pub fn blames_data(&self) -> bool {
        let refused = matches!(self.fault, Fault::Refused | Fault::Duplicate | Fault::MissingPartition);
        refused && (self.detail.starts_with("22") || self.detail.starts_with("23"))
    }

    /// Judges an error of the fleet plane's driver.
    pub fn from_fleet(statement: &'static str, stage: Stage, error: &tokio_postgres::Error) -> Self {
        let Some(db) = error.as_db_error() else {
            return Self::new(statement, Self::lost(stage), error.to_string());
        };
        let mut fault = Fault::of_sqlstate(db.code().code(), db.constraint().is_some());
        if stage == Stage::Before && fault == Fault::Unknown {
            fault = Fault::Unavailable;
        }
        Self {
            statement,
            fault,
            detail: format!("{} {}", db.code().code(), db.message()),
            constraint: db.constraint().map(str::to_owned),
        }
    }

    /// Judges an error of the control plane's driver.
    pub fn from_control(statement: &'static str, stage: Stage, error: &sqlx::Error) -> Self {
        let fault = match error {
            sqlx::Error::Database(db) => {
                let fault = Fault::of_sqlstate(db.code().as_deref().unwrap_or("XX000"), db.constraint().is_some());
                if stage == Stage::Before && fault == Fault::Unknown { Fault::Unavailable } else { fault }
            }
            sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => Fault::Unavailable,
            sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) => Self::lost(stage),
            _ => Fault::Refused,
        };
        let constraint = error.as_database_error().and_then(|db| db.constraint()).map(str::to_owned);
        Self { statement, fault, detail: error.to_string(), constraint }
    }

    fn lost(stage: Stage) -> Fault {
        match stage {
            Stage::Before => Fault::Unavailable,
            Stage::Committing => Fault::Unknown,
        }
    }
}

/// Must a connection that saw this error be thrown away?
pub fn spoils_connection(error: &tokio_postgres::Error) -> bool {
    error.code().is_none_or(|code| {
        *code == SqlState::READ_ONLY_SQL_TRANSACTION || matches!(code.code().get(..2), Some("57" | "08" | "58" | "XX"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_codes_mean() {
        let table = [
            ("40001", false, Fault::Contention),
            ("40P01", false, Fault::Contention),
            ("23514", false, Fault::MissingPartition),
            ("23514", true, Fault::Refused),
            ("23505", true, Fault::Duplicate),
            ("25006", false, Fault::Unavailable),
            ("53300", false, Fault::Unavailable),
            ("57P01", false, Fault::Unknown),
            ("08006", false, Fault::Unknown),
            ("58030", false, Fault::Unknown),
            ("XX001", false, Fault::Unknown),
            ("22P05", false, Fault::Refused),
            ("42501", false, Fault::Refused),
        ];
        for (code, named, fault) in table {
            assert_eq!(Fault::of_sqlstate(code, named), fault, "{code}");
        }
    }

    #[test]
    fn only_values_and_constraints_blame_the_data() {
        let refused = |detail: &str| StoreError::new("s", Fault::Refused, detail);
        for (detail, data) in
            [("22P05 m", true), ("23514 m", true), ("42501 m", false), ("0A000 m", false), ("", false)]
        {
            assert_eq!(refused(detail).blames_data(), data, "{detail}");
            assert!(!(data && refused(detail).blames_statement()), "{detail}");
        }
        assert!(!StoreError::new("s", Fault::Unavailable, "23").blames_data());
    }

    #[test]
    fn only_what_was_certainly_not_done_is_tried_again_inside() {
        for fault in Fault::ALL {
            assert!(!fault.certainly_not_done() || fault.retryable(), "{fault:?}");
        }
        assert!(Fault::Unknown.retryable() && !Fault::Unknown.certainly_not_done());
    }
}
