//! The life of a key that replicas sign with: next, active, retiring, retired. One transaction for each step, one step
//! at a time, each repeatable; the rules are judged by the database's clock under the lock.
//!
//! - A key becomes active when every live replica has confirmed that it can sign with it and accepts what it signs. At
//!   the same moment the former one becomes `retiring`: it signs no more, and what it signed is accepted.
//! - A retiring key is retired when nothing of what it signed is live any more, or when it must be (`force`).

use std::time::Duration;

use serde_json::json;
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::changes::{self, ChangeKind, ChangeLog, NewEvent, append, refuse};
use super::control::{Abort, ControlStore};
use super::error::StoreError;
use super::key_views::{KeyRole, KeyView, LiveReplica, Signed, live, signed, views};
use super::keys::{self, CaRow, KeyState, TokenKeyRow};
use crate::domain::time::rfc3339;

/// The class of the advisory lock under which keys change, apart from every other of ours.
const LIFE_LOCK: i32 = 4714;
/// From the change of a key's state until no replica signs with the former one any more: the commit, and the time
/// after which a replica that does not hear of changes calls itself blind; and the clocks of replicas may differ.
const SETTLED_AFTER: Duration = Duration::from_mins(2);

/// Why a step is not made.
#[derive(Debug, thiserror::Error)]
pub enum KeyRefusal {
    #[error("{0} is published as the next key already; activate it, or retire it")]
    AnotherNext(String),
    #[error("{0} is {state}, and never comes back: make another key", state = .1.as_str())]
    Spent(String, KeyState),
    #[error("there is no such key in the database")]
    Unknown,
    #[error("there is no next key; make and publish one first")]
    NoNext,
    #[error("{key} cannot be used yet: {} of the {live} live replicas have not confirmed that they hold it: {}; copy its file into their pki.dir and wait a few seconds, or stop them and wait a minute", .missing.len(), .missing.join(", "))]
    Unconfirmed { key: String, live: usize, missing: Vec<String> },
    #[error("no replica is running, and the private half of {0} is not in this directory: nobody could sign with it")]
    HeldByNobody(String),
    #[error(
        "{key} was published at {} and may be used from {} on, one renewal period later, so that every device has been told of it; --now does not wait",
        rfc3339(*since),
        rfc3339(*from)
    )]
    TooNew { key: String, since: OffsetDateTime, from: OffsetDateTime },
    #[error("{0} is active; publish and activate its successor first")]
    Active(String),
    #[error(
        "what {key} signed may be valid until {}; retire it then, or with --force if it is compromised",
        rfc3339(*until)
    )]
    TooEarly { key: String, until: OffsetDateTime },
    #[error(
        "{count} live certificates were signed by {key}, the last may be used or renewed until {}; {devices} devices have no other. Retire it when they are gone, or with --force if it is compromised",
        rfc3339(*until)
    )]
    CertificatesLive { key: String, count: i64, devices: i64, until: OffsetDateTime },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a step did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Done,
    /// It had been done before.
    Before,
}

/// A key to be published.
#[derive(Clone, Debug)]
pub enum NewKey {
    Token(TokenKeyRow),
    Ca(CaRow),
}

impl NewKey {
    fn name(&self) -> (KeyRole, String) {
        match self {
            Self::Token(row) => (KeyRole::from_column(&row.audience).unwrap_or(KeyRole::Device), row.kid.clone()),
            Self::Ca(row) => (KeyRole::Issuing, row.fingerprint.to_string()),
        }
    }
}

/// Publishes a key as the next one: it is accepted and told from now on, and signs nothing.
pub async fn publish_next(log: &ChangeLog, new: NewKey) -> Result<Step, KeyRefusal> {
    log.write("key_publish", move |c| {
        let new = new.clone();
        Box::pin(async move {
            let (role, key) = new.name();
            let views = locked(c).await?;
            if let Some(known) = views.iter().find(|view| view.key == key) {
                return match known.state {
                    KeyState::Next | KeyState::Active => Ok(Step::Before),
                    KeyState::Retiring | KeyState::Retired => refuse(KeyRefusal::Spent(key, known.state)),
                };
            }
            if let Some(other) = in_state(&views, role, KeyState::Next) {
                return refuse(KeyRefusal::AnotherNext(other.key.clone()));
            }
            match &new {
                NewKey::Token(row) => keys::insert_token_key(c, row).await?,
                NewKey::Ca(row) => keys::insert_ca(c, row).await?,
            }
            tell(c, role, &key, "key.published").await?;
            Ok(Step::Done)
        })
    })
    .await
}

/// Makes the next key the one that signs. `here`: the keys whose private halves the caller has. `now`: a CA need not
/// have been published for one renewal period. The active key, and what was done.
pub async fn activate(
    log: &ChangeLog,
    role: KeyRole,
    here: Vec<String>,
    now: bool,
) -> Result<(String, Step), KeyRefusal> {
    log.write("key_activate", move |c| {
        let here = here.clone();
        Box::pin(async move {
            let views = locked(c).await?;
            let active = in_state(&views, role, KeyState::Active);
            let Some(next) = in_state(&views, role, KeyState::Next) else {
                return match active {
                    // A repetition: there was a key before this one.
                    Some(active) if views.iter().any(|view| view.role == role && view.key != active.key) => {
                        Ok((active.key.clone(), Step::Before))
                    }
                    _ => refuse(KeyRefusal::NoNext),
                };
            };
            confirmed(&live(c).await?, &next.key, &here)?;
            if role == KeyRole::Issuing && !now {
                old_enough(c, next).await?;
            }
            if let Some(active) = active {
                set_state(c, active, KeyState::Retiring).await?;
            }
            set_state(c, next, KeyState::Active).await?;
            tell(c, role, &next.key, "key.activated").await?;
            Ok((next.key.clone(), Step::Done))
        })
    })
    .await
}

/// Ends a key: what it signed is accepted no more. `token_life`: the longest life of a device's token. `force`: also
/// while something that it signed is live.
pub async fn retire(log: &ChangeLog, key: String, token_life: Duration, force: bool) -> Result<Step, KeyRefusal> {
    log.write("key_retire", move |c| {
        let key = key.clone();
        Box::pin(async move {
            let views = locked(c).await?;
            let Some(view) = views.iter().find(|view| view.key == key) else { return refuse(KeyRefusal::Unknown) };
            match view.state {
                KeyState::Retired => return Ok(Step::Before),
                KeyState::Active => return refuse(KeyRefusal::Active(key)),
                KeyState::Retiring if !force => nothing_live(c, view, token_life).await?,
                // A key that never signed may go at any time.
                KeyState::Retiring | KeyState::Next => {}
            }
            set_state(c, view, KeyState::Retired).await?;
            tell(c, view.role, &view.key, "key.retired").await?;
            Ok(Step::Done)
        })
    })
    .await
}

/// Records what a replica can sign with, accepts and tells clients of. Drops what replicas said that are gone.
pub async fn confirm(control: &ControlStore, replica: Uuid, keys: Vec<String>) -> Result<(), StoreError> {
    control
        .write("key_confirm", move |c| {
            let keys = keys.clone();
            Box::pin(async move {
                sqlx::query!(
                    "insert into replica_keys (replica, key) select $1, key from unnest($2::text[]) as key
                     on conflict (replica, key) do update set confirmed_at = clock_timestamp()",
                    replica,
                    &keys
                )
                .execute(&mut *c)
                .await?;
                sqlx::query!(
                    "delete from replica_keys where (replica = $1 and key <> all($2::text[]))
                       or (confirmed_at < clock_timestamp() - interval '1 hour' and replica not in (select id from replicas))",
                    replica,
                    &keys
                )
                .execute(c)
                .await?;
                Ok::<_, Abort<StoreError>>(())
            })
        })
        .await
}

fn in_state(views: &[KeyView], role: KeyRole, state: KeyState) -> Option<&KeyView> {
    views.iter().find(|view| view.role == role && view.state == state)
}

fn confirmed(live: &[LiveReplica], key: &str, here: &[String]) -> Result<(), Abort<KeyRefusal>> {
    if live.is_empty() && !here.iter().any(|held| held == key) {
        return refuse(KeyRefusal::HeldByNobody(key.to_owned()));
    }
    let missing: Vec<String> = live
        .iter()
        .filter(|replica| !replica.keys.iter().any(|confirmed| confirmed == key))
        .map(|replica| format!("{} ({})", replica.addr, replica.id))
        .collect();
    if missing.is_empty() {
        Ok(())
    } else {
        refuse(KeyRefusal::Unconfirmed { key: key.to_owned(), live: live.len(), missing })
    }
}

/// A device renews after two thirds of a certificate's life: then it has been told of the new CA.
async fn old_enough(c: &mut PgConnection, next: &KeyView) -> Result<(), Abort<KeyRefusal>> {
    let row = sqlx::query!(
        r#"select $1::timestamptz + coalesce(max(certificate_ttl_s), 0) * 2 / 3 * interval '1 second' as "from!",
                  clock_timestamp() as "now!" from fleets"#,
        next.since
    )
    .fetch_one(c)
    .await?;
    if row.now >= row.from {
        return Ok(());
    }
    refuse(KeyRefusal::TooNew { key: next.key.clone(), since: next.since, from: row.from })
}

async fn nothing_live(c: &mut PgConnection, view: &KeyView, token_life: Duration) -> Result<(), Abort<KeyRefusal>> {
    let key = view.key.clone();
    let settled = view.since + SETTLED_AFTER;
    let until = match view.role {
        KeyRole::Device => Some(settled + token_life),
        KeyRole::Admin => Some(last_operator_token(c, view, settled).await?.map_or(settled, |last| last.max(settled))),
        KeyRole::Issuing => {
            let Signed { count, devices, until } = signed(c, &key).await?;
            match until {
                Some(until) => return refuse(KeyRefusal::CertificatesLive { key, count, devices, until }),
                None => Some(settled),
            }
        }
    };
    let now = sqlx::query_scalar!(r#"select clock_timestamp() as "now!""#).fetch_one(c).await?;
    match until.filter(|until| *until > now) {
        Some(until) => refuse(KeyRefusal::TooEarly { key, until }),
        None => Ok(()),
    }
}

/// When the last token of an operator ends that this key signed, and that may still be used. One that does not say which
/// key signed it counts if it was made while this key signed.
async fn last_operator_token(
    c: &mut PgConnection,
    view: &KeyView,
    settled: OffsetDateTime,
) -> Result<Option<OffsetDateTime>, sqlx::Error> {
    sqlx::query_scalar!(
        "select max(t.expires_at) from operator_tokens t join operators o on o.id = t.operator_id
         where coalesce(t.kid = $1, t.created_at between $2 and $3) and t.revoked_at is null and t.expires_at > clock_timestamp()
           and o.disabled_at is null and t.session_version = o.session_version",
        view.key,
        view.created_at,
        settled
    )
    .fetch_one(c)
    .await
}

async fn locked(c: &mut PgConnection) -> Result<Vec<KeyView>, sqlx::Error> {
    sqlx::query!("select pg_advisory_xact_lock($1, 0)", LIFE_LOCK).execute(&mut *c).await?;
    views(c).await
}

async fn set_state(c: &mut PgConnection, view: &KeyView, state: KeyState) -> Result<(), sqlx::Error> {
    let (key, state) = (&view.key, state.as_str());
    if view.role == KeyRole::Issuing {
        sqlx::query!(
            "update ca_certificates set state = $2, state_since = clock_timestamp() where fingerprint = decode($1, 'hex')",
            key,
            state
        )
        .execute(&mut *c)
        .await?;
        return append(c, ChangeKind::Ca, key).await;
    }
    sqlx::query!("update token_keys set state = $2, state_since = clock_timestamp() where kid = $1", key, state)
        .execute(&mut *c)
        .await?;
    append(c, ChangeKind::TokenKey, key).await
}

async fn tell(c: &mut PgConnection, role: KeyRole, key: &str, kind: &'static str) -> Result<(), sqlx::Error> {
    let detail = json!({ "role": role.as_str(), "key": key });
    changes::record(c, &NewEvent { kind, fleet: None, device: None, cause: None, detail }).await
}
