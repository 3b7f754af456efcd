//! Operators and their tokens as the people who run a deployment see them. Reads only.

use time::OffsetDateTime;
use uuid::Uuid;

use super::control::{Abort, ControlStore};
use super::error::StoreError;
use crate::domain::ids::OperatorId;

/// An operator with their roles.
#[derive(Clone, Debug)]
pub struct OperatorView {
    pub id: OperatorId,
    pub subject: String,
    pub disabled_at: Option<OffsetDateTime>,
    pub created_at: OffsetDateTime,
    /// `role` for every fleet, `fleet=role` for one; sorted.
    pub roles: Vec<String>,
    /// That would be accepted, were the operator enabled.
    pub live_tokens: i64,
}

/// A token of an operator, without its text, which nobody has but its owner.
#[derive(Clone, Debug)]
pub struct TokenView {
    pub jti: Uuid,
    pub subject: String,
    pub created_at: OffsetDateTime,
    pub expires_at: OffsetDateTime,
    pub revoked_at: Option<OffsetDateTime>,
    /// Neither over nor revoked, and of the present session of an operator who is not disabled.
    pub live: bool,
}

/// Operators in the order of their subjects; those after `after`.
pub async fn operators(
    store: &ControlStore,
    after: Option<String>,
    rows_max: i64,
) -> Result<Vec<OperatorView>, StoreError> {
    store
        .read("operator_views", move |c| {
            let after = after.clone();
            Box::pin(async move {
                let rows = sqlx::query!(
                    r#"-- operator_views: a page of operators with their roles
                    select o.id, o.subject, o.disabled_at, o.created_at,
                           array(select coalesce(f.name || '=', '') || r.role from operator_roles r
                                 left join fleets f on f.id = r.fleet_id where r.operator_id = o.id
                                 order by 1) as "roles!",
                           (select count(*) from operator_tokens t where t.operator_id = o.id
                              and t.session_version = o.session_version and t.revoked_at is null
                              and t.expires_at > clock_timestamp()) as "live_tokens!"
                    from operators o where $1::text is null or o.subject > $1 order by o.subject limit $2"#,
                    after,
                    rows_max
                )
                .fetch_all(c)
                .await?;
                let views = rows.into_iter().map(|row| OperatorView {
                    id: OperatorId(row.id),
                    subject: row.subject,
                    disabled_at: row.disabled_at,
                    created_at: row.created_at,
                    roles: row.roles,
                    live_tokens: row.live_tokens,
                });
                Ok::<_, Abort<StoreError>>(views.collect())
            })
        })
        .await
}

/// The operator with this subject.
pub async fn by_subject(store: &ControlStore, subject: &str) -> Result<Option<OperatorId>, StoreError> {
    let subject = subject.to_owned();
    store
        .read("operator_by_subject", move |c| {
            let subject = subject.clone();
            Box::pin(async move {
                let found = sqlx::query_scalar!("select id from operators where subject = $1", subject);
                Ok::<_, Abort<StoreError>>(found.fetch_optional(c).await?.map(OperatorId))
            })
        })
        .await
}

/// Tokens in the order of their ids, of one subject or of all; those after `after`. `all`: also those that are
/// accepted no more.
pub async fn tokens(
    store: &ControlStore,
    (subject, all): (Option<String>, bool),
    after: Option<Uuid>,
    rows_max: i64,
) -> Result<Vec<TokenView>, StoreError> {
    store
        .read("operator_token_views", move |c| {
            let subject = subject.clone();
            Box::pin(async move {
                let rows = sqlx::query_as!(
                    TokenView,
                    r#"-- operator_token_views: a page of operators' tokens
                    select * from (
                      select t.jti, o.subject, t.created_at, t.expires_at, t.revoked_at,
                             (t.revoked_at is null and t.expires_at > clock_timestamp() and o.disabled_at is null
                              and t.session_version = o.session_version) as "live!"
                      from operator_tokens t join operators o on o.id = t.operator_id
                      where $1::text is null or o.subject = $1) as known
                    where ("live!" or $2) and ($3::uuid is null or jti > $3) order by jti limit $4"#,
                    subject,
                    all,
                    after,
                    rows_max
                )
                .fetch_all(c)
                .await?;
                Ok::<_, Abort<StoreError>>(rows)
            })
        })
        .await
}
