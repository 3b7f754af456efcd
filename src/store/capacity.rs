//! How many connections the server, the database and our users' roles allow. For `everbeat config check`.

use super::control::{Abort, ControlStore};
use super::error::StoreError;

/// What is allowed. Limits that are not set are `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capacity {
    pub connections_max: i64,
    /// For superusers and the role `pg_use_reserved_connections`: never ours.
    pub reserved: i64,
    pub database_max: Option<i64>,
    /// By user, of those that were asked for and exist.
    pub users: Vec<(String, Option<i64>)>,
}

/// What the server allows these users.
pub async fn load(store: &ControlStore, users: Vec<String>) -> Result<Capacity, StoreError> {
    store
        .read("capacity", move |c| {
            let users = users.clone();
            Box::pin(async move {
                let server = sqlx::query!(
                    r#"-- capacity: what the server allows everybody, and this database
                    select current_setting('max_connections')::bigint as "connections_max!",
                           current_setting('superuser_reserved_connections')::bigint
                             + coalesce(current_setting('reserved_connections', true), '0')::bigint as "reserved!",
                           datconnlimit::bigint as "database_max!"
                    from pg_database where datname = current_database()"#
                )
                .fetch_one(&mut *c)
                .await?;
                let roles = sqlx::query!(
                    r#"select rolname::text as "name!", rolconnlimit::bigint as "max!" from pg_roles
                       where rolname = any($1)"#,
                    &users
                )
                .fetch_all(c)
                .await?;
                Ok::<_, Abort<StoreError>>(Capacity {
                    connections_max: server.connections_max,
                    reserved: server.reserved,
                    database_max: limit(server.database_max),
                    users: roles.into_iter().map(|role| (role.name, limit(role.max))).collect(),
                })
            })
        })
        .await
}

/// PostgreSQL says -1 for "none".
fn limit(column: i64) -> Option<i64> {
    (column >= 0).then_some(column)
}

/// Replicas that have been seen within the last minute.
pub async fn replicas_live(store: &ControlStore) -> Result<i64, StoreError> {
    store
        .read("replicas_live", |c| {
            Box::pin(async move {
                let live = sqlx::query_scalar!(
                    r#"select count(*) as "live!" from replicas where seen_at > clock_timestamp() - interval '1 minute'"#
                );
                Ok::<_, Abort<StoreError>>(live.fetch_one(c).await?)
            })
        })
        .await
}
