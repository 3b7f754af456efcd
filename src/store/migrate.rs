//! The schema: migrations are part of the binary. `migrate` applies them as the owner and gives the planes' roles
//! their passwords; everything else only checks that the schema is the one this binary was built for.

use std::collections::BTreeMap;
use std::time::Duration;

use secrecy::ExposeSecret;
use sqlx::{ConnectOptions, Connection, Executor, PgConnection};

use super::control::{ControlStore, connect_options};
use super::error::StoreError;
use super::settings::{Login, Plane, StoreSettings};

static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!("./migrations");

/// Is the schema ours?
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Schema {
    Right,
    /// The binary is newer: `everbeat migrate` helps.
    Behind,
    /// The database is newer: a newer binary helps.
    Ahead,
    /// A migration that was applied is not the one in this binary.
    Altered,
}

impl Schema {
    /// What to do about it; `None` when it is right.
    pub fn advice(&self) -> Option<&'static str> {
        match self {
            Self::Right => None,
            Self::Behind => Some("the database's schema is older than this binary: run `everbeat migrate` first"),
            Self::Ahead => Some("the database's schema is newer than this binary: run the release it belongs to"),
            Self::Altered => Some(
                "a migration in the database differs from the one in this binary: this binary is not of this \
                 database's line of releases; restore the right binary, or migrate a fresh database",
            ),
        }
    }
}

/// Applies what is missing, under sqlx's advisory lock, then prepares the roles of the planes.
///
/// # Errors
/// A sentence for the operator.
pub async fn migrate(settings: &StoreSettings, host: &(String, u16)) -> Result<(), String> {
    let owner = settings.owner.as_ref().ok_or("database.owner is not set: migrations need the schema's owner")?;
    // A slow statement would be logged with its text, which holds a verifier.
    let options = connect_options(settings, host, owner).disable_statement_logging();
    let connect = tokio::time::timeout(settings.connect_deadline, options.connect()).await;
    let mut connection = match connect {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return Err(format!("cannot connect as the owner: {error}")),
        Err(_) => return Err("cannot connect as the owner in time".to_owned()),
    };
    MIGRATOR.run(&mut connection).await.map_err(|error| format!("migration failed: {error}"))?;
    for (plane, limit) in [
        (Plane::Control, settings.control_connections_max),
        (Plane::Fleet, settings.fleet_connections_max),
        (Plane::Lease, LEASE_SESSIONS_MAX),
    ] {
        if let Some(login) = settings.login(plane).filter(|login| login.user != owner.user) {
            prepare_login(&mut connection, plane, login, limit)
                .await
                .map_err(|error| format!("cannot prepare the {} user: {error}", plane.as_str()))?;
        }
    }
    let _ = connection.close().await;
    Ok(())
}

/// Creates the settings' database if there is none.
///
/// # Errors
/// A sentence for the operator.
pub async fn create_database(settings: &StoreSettings, limit: Duration) -> Result<(), String> {
    let mut elsewhere = settings.clone();
    "postgres".clone_into(&mut elsewhere.database);
    let host = super::primary::find_writable(&elsewhere, limit).await?;
    let owner = settings.owner.as_ref().ok_or("database.owner is not set")?;
    let say = |error: sqlx::Error| format!("cannot create the database: {error}");
    let mut connection = connect_options(&elsewhere, &host, owner).connect().await.map_err(say)?;
    let known = sqlx::query("select from pg_database where datname = $1").bind(&settings.database);
    if connection.fetch_optional(known).await.map_err(say)?.is_none() {
        run(&mut connection, format!("create database {}", quoted(&settings.database))).await.map_err(say)?;
    }
    let _ = connection.close().await;
    Ok(())
}

/// Of one replica: two for each duty, listener, tracker, and as many again while old ones are dying.
const LEASE_SESSIONS_MAX: usize = 16;
/// Replicas that the connection limits are made for.
const REPLICAS_MAX: usize = 8;

/// Gives the user its password (as a SCRAM verifier, so that no log has it), its role and a limit on connections.
async fn prepare_login(
    connection: &mut PgConnection,
    plane: Plane,
    login: &Login,
    per_replica: usize,
) -> Result<(), sqlx::Error> {
    let user = quoted(&login.user);
    let known = sqlx::query("select from pg_roles where rolname = $1").bind(&login.user);
    if connection.fetch_optional(known).await?.is_none() {
        run(connection, format!("create role {user}")).await?;
    }
    let verifier = scram_verifier(login.password.expose_secret());
    let limit = per_replica.saturating_mul(REPLICAS_MAX);
    run(connection, format!("alter role {user} login connection limit {limit} password '{verifier}'")).await?;
    let role = format!("everbeat_{}", plane.as_str());
    if login.user != role {
        run(connection, format!("grant {role} to {user}")).await?;
    }
    Ok(())
}

async fn run(connection: &mut PgConnection, sql: String) -> Result<(), sqlx::Error> {
    connection.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(sql))).await.map(drop)
}

fn scram_verifier(password: &str) -> String {
    postgres_protocol::password::scram_sha_256(password.as_bytes())
}

/// An identifier, quoted (PostgreSQL manual, 4.1.1).
fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

/// Compares what is applied with what this binary holds.
pub async fn check(store: &ControlStore) -> Result<Schema, StoreError> {
    let applied = store
        .read("schema_check", |connection| {
            Box::pin(async move {
                let exists =
                    sqlx::query_scalar!(r#"select to_regclass('public._sqlx_migrations') is not null as "exists!""#)
                        .fetch_one(&mut *connection)
                        .await?;
                if !exists {
                    return Ok(Vec::new());
                }
                let rows: Vec<(i64, Vec<u8>)> =
                    sqlx::query_as("select version, checksum from _sqlx_migrations where success order by version")
                        .fetch_all(connection)
                        .await?;
                Ok(rows)
            })
        })
        .await?;
    Ok(compare(&applied))
}

fn compare(applied: &[(i64, Vec<u8>)]) -> Schema {
    let ours: BTreeMap<i64, &[u8]> = MIGRATOR.iter().map(|m| (m.version, &*m.checksum)).collect();
    if applied.iter().any(|(version, _)| !ours.contains_key(version)) {
        return Schema::Ahead;
    }
    if applied.iter().any(|(version, checksum)| ours.get(version) != Some(&checksum.as_slice())) {
        return Schema::Altered;
    }
    if applied.len() < ours.len() { Schema::Behind } else { Schema::Right }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behind_ahead_altered() {
        let mut applied: Vec<(i64, Vec<u8>)> = MIGRATOR.iter().map(|m| (m.version, m.checksum.to_vec())).collect();
        assert_eq!(compare(&applied), Schema::Right);
        assert_eq!(compare(&applied[1..]), Schema::Behind);
        assert_eq!(compare(&[]), Schema::Behind);
        applied[0].1[0] ^= 1;
        assert_eq!(compare(&applied), Schema::Altered);
        applied.push((9_999_999_999, vec![]));
        assert_eq!(compare(&applied), Schema::Ahead);
    }

    #[test]
    fn identifiers_are_quoted() {
        assert_eq!(quoted("a\"b"), "\"a\"\"b\"");
    }
}
