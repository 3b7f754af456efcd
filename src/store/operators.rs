//! Operators, their roles, and their tokens. Roles are never in a token: they are read from here at each request, so
//! that a demotion acts at once.

use std::str::FromStr;
use std::sync::Arc;

use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::changes::{ChangeError, ChangeKind, ChangeLog, append, refuse};
use super::control::{Abort, ControlStore};
use super::devices::{Loaded, absent};
use super::error::StoreError;
use crate::domain::access::{Grants, Role};
use crate::domain::ids::{FleetId, OperatorId};

/// An operator as the cache holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorRecord {
    pub id: OperatorId,
    pub subject: String,
    pub session_version: i32,
    pub disabled: bool,
    pub grants: Arc<Grants>,
}

/// An operator's token as the cache holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorToken {
    pub operator: OperatorId,
    pub session_version: i32,
    pub revoked: bool,
}

/// The operator with its roles.
pub async fn load(control: &ControlStore, id: OperatorId) -> Result<Loaded<OperatorRecord>, StoreError> {
    control
        .read("operator_load", move |c| {
            Box::pin(async move {
                // One statement, so that the operator and the roles are of one snapshot.
                let rows = sqlx::query!(
                    r#"select current_timeline() as "timeline!", o.subject, o.session_version,
                              o.disabled_at is not null as "disabled!", r.fleet_id, r.role as "role?"
                       from operators o left join operator_roles r on r.operator_id = o.id where o.id = $1"#,
                    id.0
                )
                .fetch_all(&mut *c)
                .await?;
                let grants = grants(rows.iter().filter_map(|row| Some((row.fleet_id, row.role.as_deref()?))));
                let Some(row) = rows.into_iter().next() else { return Ok(absent(c).await?) };
                Ok(Loaded {
                    timeline: row.timeline,
                    row: Some(OperatorRecord {
                        id,
                        subject: row.subject,
                        session_version: row.session_version,
                        disabled: row.disabled,
                        grants: Arc::new(grants),
                    }),
                })
            })
        })
        .await
}

/// A role that this binary does not know grants nothing.
fn grants<'a>(roles: impl Iterator<Item = (Option<Uuid>, &'a str)>) -> Grants {
    let mut grants = Grants::default();
    for (fleet, role) in roles {
        match (fleet, Role::from_str(role)) {
            (None, Ok(role)) => grants.everywhere = Some(role),
            (Some(fleet), Ok(role)) => drop(grants.fleets.insert(FleetId(fleet), role)),
            (_, Err(_)) => {}
        }
    }
    grants
}

/// The token with this `jti`.
pub async fn load_token(control: &ControlStore, jti: Uuid) -> Result<Loaded<OperatorToken>, StoreError> {
    control
        .read("operator_token_load", move |c| {
            Box::pin(async move {
                let row = sqlx::query!(
                    r#"select current_timeline() as "timeline!", operator_id, session_version,
                              revoked_at is not null as "revoked!"
                       from operator_tokens where jti = $1"#,
                    jti
                )
                .fetch_optional(&mut *c)
                .await?;
                let Some(row) = row else { return Ok(absent(c).await?) };
                Ok(Loaded {
                    timeline: row.timeline,
                    row: Some(OperatorToken {
                        operator: OperatorId(row.operator_id),
                        session_version: row.session_version,
                        revoked: row.revoked,
                    }),
                })
            })
        })
        .await
}

/// A token that was signed, to be recorded.
#[derive(Clone, Debug)]
pub struct NewOperatorToken<T> {
    pub jti: Uuid,
    /// The key that signed it.
    pub kid: String,
    pub expires_at: OffsetDateTime,
    /// The text, for the caller; it is not stored.
    pub signed: T,
}

/// Signs a token for an operator and its session version. Called inside the transaction, possibly more than once.
pub type Sign<T> = Arc<dyn Fn(OperatorId, i32) -> Result<NewOperatorToken<T>, String> + Send + Sync>;

/// For whom a token is made.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The operator's id, if it is a new one.
    pub fresh_id: OperatorId,
    /// 1 to 200 characters.
    pub subject: String,
    /// Replaces all roles; `None`: they stay as they are.
    pub grants: Option<Grants>,
}

/// Makes or updates the operator, and records a token for it.
pub async fn mint<T: Send + 'static>(
    log: &ChangeLog,
    subject: Subject,
    sign: Sign<T>,
) -> Result<(OperatorId, NewOperatorToken<T>), ChangeError> {
    log.write("operator_mint", move |c| {
        let (subject, sign) = (subject.clone(), sign.clone());
        Box::pin(async move {
            let operator = sqlx::query!(
                "insert into operators (id, subject) values ($1, $2)
                 on conflict (subject) do update set subject = excluded.subject
                 returning id, session_version, disabled_at",
                subject.fresh_id.0,
                subject.subject
            )
            .fetch_one(&mut *c)
            .await?;
            if operator.disabled_at.is_some() {
                return refuse(ChangeError::Conflict("the operator is disabled"));
            }
            let id = OperatorId(operator.id);
            if let Some(grants) = &subject.grants {
                replace_roles(c, id, grants).await?;
            }
            let token = sign(id, operator.session_version)
                .map_err(|_| Abort::Refuse(ChangeError::Conflict("the token cannot be signed")))?;
            sqlx::query!(
                "insert into operator_tokens (jti, operator_id, session_version, expires_at, kid) values ($1, $2, $3, $4, $5)",
                token.jti,
                id.0,
                operator.session_version,
                token.expires_at,
                token.kid
            )
            .execute(&mut *c)
            .await?;
            append(c, ChangeKind::Operator, &id.to_string()).await?;
            append(c, ChangeKind::OperatorToken, &token.jti.to_string()).await?;
            Ok((id, token))
        })
    })
    .await
}

async fn replace_roles(c: &mut PgConnection, id: OperatorId, grants: &Grants) -> Result<(), sqlx::Error> {
    let (mut fleets, mut roles): (Vec<Option<Uuid>>, Vec<String>) = (Vec::new(), Vec::new());
    let everywhere = grants.everywhere.iter().map(|role| (None, *role));
    for (fleet, role) in grants.fleets.iter().map(|(fleet, role)| (Some(fleet.0), *role)).chain(everywhere) {
        fleets.push(fleet);
        roles.push(role.as_str().to_owned());
    }
    sqlx::query!("delete from operator_roles where operator_id = $1", id.0).execute(&mut *c).await?;
    sqlx::query!(
        "insert into operator_roles (operator_id, fleet_id, role)
         select $1, fleet, role from unnest($2::uuid[], $3::text[]) as given (fleet, role)",
        id.0,
        &fleets as &[Option<Uuid>],
        &roles
    )
    .execute(&mut *c)
    .await?;
    Ok(())
}

/// Disables an operator, or enables them again. Whoever was disabled needs a new token afterwards: the session's
/// version is counted up, or a token that was stolen would come back to life with its owner. A repetition succeeds.
pub async fn set_disabled(log: &ChangeLog, id: OperatorId, disabled: bool) -> Result<(), ChangeError> {
    log.write("operator_disable", move |c| {
        Box::pin(async move {
            let changed = sqlx::query!(
                "update operators set
                   session_version = session_version + case when $2 and disabled_at is null then 1 else 0 end,
                   disabled_at = case when $2 then coalesce(disabled_at, clock_timestamp()) end
                 where id = $1",
                id.0,
                disabled
            );
            if changed.execute(&mut *c).await?.rows_affected() == 0 {
                return refuse(ChangeError::NotFound);
            }
            append(c, ChangeKind::Operator, &id.to_string()).await?;
            Ok(())
        })
    })
    .await
}

/// Replaces the operator's roles.
pub async fn set_roles(log: &ChangeLog, id: OperatorId, grants: Grants) -> Result<(), ChangeError> {
    log.write("operator_roles", move |c| {
        let grants = grants.clone();
        Box::pin(async move {
            let found = sqlx::query!("select id from operators where id = $1 for update", id.0);
            if found.fetch_optional(&mut *c).await?.is_none() {
                return refuse(ChangeError::NotFound);
            }
            replace_roles(c, id, &grants).await?;
            append(c, ChangeKind::Operator, &id.to_string()).await?;
            Ok(())
        })
    })
    .await
}

/// Revokes a token; a repetition succeeds.
pub async fn revoke_token(log: &ChangeLog, jti: Uuid) -> Result<(), ChangeError> {
    log.write("operator_token_revoke", move |c| {
        Box::pin(async move {
            let revoked = sqlx::query!(
                "update operator_tokens set revoked_at = coalesce(revoked_at, clock_timestamp()) where jti = $1",
                jti
            );
            if revoked.execute(&mut *c).await?.rows_affected() == 0 {
                return refuse(ChangeError::NotFound);
            }
            append(c, ChangeKind::OperatorToken, &jti.to_string()).await?;
            Ok(())
        })
    })
    .await
}
