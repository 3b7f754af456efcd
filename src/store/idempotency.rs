//! `Idempotency-Key`: what a caller's key stands for is recorded in the transaction that creates the resource, so
//! that it is there exactly if the resource is. Kept for 24 hours; a duty trims what is older.

use sqlx::PgConnection;

use super::changes::{ChangeError, refuse};
use super::control::Abort;

/// A request that carries a key.
#[derive(Clone, Debug)]
pub struct Once {
    /// The caller's id.
    pub caller: String,
    /// Method and template.
    pub route: &'static str,
    pub key: String,
    /// Of the request's body.
    pub request_sha256: [u8; 32],
    /// What a success answers.
    pub status: i32,
}

/// What was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made<T> {
    Now(T),
    /// By an earlier request with the same key.
    Before(T),
}

/// Claims the key for `resource`, which the caller's transaction is about to make. `Some`: this request was carried
/// out before, and made what is returned. A request without a key is always a new one.
///
/// # Errors
/// [`ChangeError::KeyReused`] when the key came with another body, or its first request is still in flight.
pub(super) async fn claim(
    c: &mut PgConnection,
    once: Option<&Once>,
    resource: &str,
) -> Result<Option<String>, Abort<ChangeError>> {
    let Some(once) = once else { return Ok(None) };
    // Freed when the first request's transaction has ended, hence after its row can be seen.
    let name = format!("{} {} {}", once.caller, once.route, once.key);
    let free = sqlx::query_scalar!(r#"select pg_try_advisory_xact_lock(hashtextextended($1, 0)) as "free!""#, name);
    if !free.fetch_one(&mut *c).await? {
        return refuse(ChangeError::KeyReused("the first request with this key is still in flight; try again"));
    }
    let claimed = sqlx::query!(
        "insert into idempotency_keys as k (caller, route, key, request_sha256, status, resource)
         values ($1, $2, $3, $4, $5, $6)
         on conflict (caller, route, key) do update
           set request_sha256 = excluded.request_sha256, status = excluded.status, resource = excluded.resource,
               created_at = clock_timestamp()
           where k.created_at < clock_timestamp() - interval '24 hours'",
        once.caller,
        once.route,
        once.key,
        &once.request_sha256[..],
        once.status,
        resource
    )
    .execute(&mut *c)
    .await?;
    if claimed.rows_affected() == 1 {
        return Ok(None);
    }
    let first = sqlx::query!(
        "select request_sha256, resource from idempotency_keys where caller = $1 and route = $2 and key = $3",
        once.caller,
        once.route,
        once.key
    )
    .fetch_one(c)
    .await?;
    if first.request_sha256 != once.request_sha256 {
        return refuse(ChangeError::KeyReused("the key came with another body before; use a new one"));
    }
    Ok(Some(first.resource))
}
