//! A statement of the fleet plane: its text stands in a file of `store/sql/`, begins with a comment that names it,
//! and is checked against the migrated schema by tests/schema.rs.

use std::time::Duration;

use tokio_postgres::types::ToSql;

/// A named statement.
#[derive(Debug)]
pub struct Statement {
    /// The file's name without `.sql`; the metric's label.
    pub name: &'static str,
    pub sql: &'static str,
}

/// The parameters of a statement that runs in a task of its own.
pub type Params = Vec<Box<dyn ToSql + Send + Sync>>;

/// Declares statements from `store/sql/<name>.sql`, and the list of all of them.
#[macro_export]
macro_rules! statements {
    ($($(#[$doc:meta])* $constant:ident = $file:literal;)*) => {
        $(
            $(#[$doc])*
            pub static $constant: $crate::store::Statement = $crate::store::Statement {
                name: $file,
                sql: include_str!(concat!("sql/", $file, ".sql")),
            };
        )*
        /// Every statement of this file, for the test that prepares them.
        pub static STATEMENTS: &[&$crate::store::Statement] = &[$(&$constant),*];
    };
}

/// Runs `work` until the deadline, and records how long it took and how it ended.
pub(super) async fn measured<T>(
    name: &'static str,
    work: impl Future<Output = Result<T, super::StoreError>>,
) -> Result<T, super::StoreError> {
    let begun = tokio::time::Instant::now();
    let outcome = work.await;
    let label = outcome.as_ref().map_or_else(|error| error.fault.as_str(), |_| "ok");
    crate::observe::store::statement(name, label, begun.elapsed());
    outcome
}

/// What is left of `limit`, counted from `begun`.
pub(super) fn left(begun: tokio::time::Instant, limit: Duration) -> Duration {
    limit.saturating_sub(begun.elapsed())
}
