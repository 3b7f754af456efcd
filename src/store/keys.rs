//! The public halves: CA certificates and token keys. Private halves are in files; the database says which of them
//! are ours, and which one signs. [`super::key_life`] has the changes after the first.

use sqlx::PgConnection;

use super::changes::{ChangeKind, ChangeLog, append, refuse};
use super::control::ControlStore;
use super::error::StoreError;
use crate::domain::digest::hex;
use crate::domain::ids::Fingerprint;

/// Where a key stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyState {
    /// Published and accepted; signs nothing yet.
    Next,
    /// Signs. One for each use.
    Active,
    /// Signs no more; what it signed is accepted.
    Retiring,
    /// Accepted no more.
    Retired,
}

impl KeyState {
    pub const ALL: [Self; 4] = [Self::Next, Self::Active, Self::Retiring, Self::Retired];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Next => "next",
            Self::Active => "active",
            Self::Retiring => "retiring",
            Self::Retired => "retired",
        }
    }

    /// A state that this binary does not know is of a newer one: such a key is not ours to use.
    pub fn from_column(text: &str) -> Self {
        Self::ALL.into_iter().find(|state| state.as_str() == text).unwrap_or(Self::Retired)
    }
}

/// A row of `ca_certificates`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaRow {
    /// `root` or `issuing`.
    pub kind: String,
    pub fingerprint: Fingerprint,
    pub certificate_pem: String,
    pub state: KeyState,
}

/// A row of `token_keys`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenKeyRow {
    pub kid: String,
    /// `device` or `admin`.
    pub audience: String,
    pub public_key_pem: String,
    pub state: KeyState,
}

/// What the database publishes, the oldest CA first. Token keys that are accepted no more may be missing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublicKeys {
    pub certificates: Vec<CaRow>,
    pub token_keys: Vec<TokenKeyRow>,
}

/// Why nothing was published.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PublishRefusal {
    #[error("this database has a CA and token keys already; join with their files instead")]
    Exists,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What is published now, retired keys too.
pub async fn load(control: &ControlStore) -> Result<PublicKeys, StoreError> {
    control.read("keys_load", |c| Box::pin(async move { Ok(read(c).await?) })).await
}

async fn read(c: &mut PgConnection) -> Result<PublicKeys, sqlx::Error> {
    let certificates = sqlx::query!(
        "select kind, fingerprint, certificate_pem, state from ca_certificates order by created_at, kind desc, fingerprint"
    )
    .fetch_all(&mut *c)
    .await?;
    let token_keys = sqlx::query!("select kid, audience, public_key_pem, state from token_keys order by kid")
        .fetch_all(&mut *c)
        .await?;
    let certificates = certificates.into_iter().filter_map(|row| {
        let fingerprint = Fingerprint(row.fingerprint.as_slice().try_into().ok()?);
        let state = KeyState::from_column(&row.state);
        Some(CaRow { kind: row.kind, fingerprint, certificate_pem: row.certificate_pem, state })
    });
    let token_keys = token_keys.into_iter().map(|row| TokenKeyRow {
        kid: row.kid,
        audience: row.audience,
        public_key_pem: row.public_key_pem,
        state: KeyState::from_column(&row.state),
    });
    Ok(PublicKeys { certificates: certificates.collect(), token_keys: token_keys.collect() })
}

/// Publishes the first keys of a database. Refuses when there are any, whatever their state.
pub async fn publish(log: &ChangeLog, keys: PublicKeys) -> Result<(), PublishRefusal> {
    log.write("keys_publish", move |c| {
        let keys = keys.clone();
        Box::pin(async move {
            // Two first starts at once: the second waits here, and finds the rows of the first.
            sqlx::query!("lock table ca_certificates, token_keys in share row exclusive mode").execute(&mut *c).await?;
            let exists = sqlx::query_scalar!(
                r#"select exists (select from ca_certificates) or exists (select from token_keys) as "exists!""#
            );
            if exists.fetch_one(&mut *c).await? {
                return refuse(PublishRefusal::Exists);
            }
            for row in &keys.certificates {
                insert_ca(c, row).await?;
            }
            for row in &keys.token_keys {
                insert_token_key(c, row).await?;
            }
            Ok(())
        })
    })
    .await
}

pub(super) async fn insert_ca(c: &mut PgConnection, row: &CaRow) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "insert into ca_certificates (fingerprint, kind, state, certificate_pem) values ($1, $2, $3, $4)",
        &row.fingerprint.0[..],
        row.kind,
        row.state.as_str(),
        row.certificate_pem
    )
    .execute(&mut *c)
    .await?;
    append(c, ChangeKind::Ca, &hex(&row.fingerprint.0)).await
}

pub(super) async fn insert_token_key(c: &mut PgConnection, row: &TokenKeyRow) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "insert into token_keys (kid, audience, algorithm, public_key_pem, state) values ($1, $2, 'ES256', $3, $4)",
        row.kid,
        row.audience,
        row.public_key_pem,
        row.state.as_str()
    )
    .execute(&mut *c)
    .await?;
    append(c, ChangeKind::TokenKey, &row.kid).await
}
