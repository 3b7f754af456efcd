//! The public halves: CA certificates and token keys. Private halves are in files; the database says which of them
//! are ours.

use sqlx::PgConnection;

use super::changes::{ChangeKind, ChangeLog, append, refuse};
use super::control::ControlStore;
use super::error::StoreError;
use crate::domain::digest::hex;
use crate::domain::ids::Fingerprint;

/// A row of `ca_certificates`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CaRow {
    /// `root` or `issuing`.
    pub kind: String,
    pub fingerprint: Fingerprint,
    pub certificate_pem: String,
}

/// A row of `token_keys`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenKeyRow {
    pub kid: String,
    /// `device` or `admin`.
    pub audience: String,
    pub public_key_pem: String,
}

/// What the database publishes: rows in state `next` and `active`.
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

/// What is published now.
pub async fn load(control: &ControlStore) -> Result<PublicKeys, StoreError> {
    control.read("keys_load", |c| Box::pin(async move { Ok(read(c).await?) })).await
}

async fn read(c: &mut PgConnection) -> Result<PublicKeys, sqlx::Error> {
    let certificates = sqlx::query!(
        "select kind, fingerprint, certificate_pem from ca_certificates where state in ('next', 'active')
         order by kind, fingerprint"
    )
    .fetch_all(&mut *c)
    .await?;
    let token_keys = sqlx::query_as!(
        TokenKeyRow,
        "select kid, audience, public_key_pem from token_keys where state in ('next', 'active') order by kid"
    )
    .fetch_all(&mut *c)
    .await?;
    let certificates = certificates.into_iter().filter_map(|row| {
        let fingerprint = Fingerprint(row.fingerprint.as_slice().try_into().ok()?);
        Some(CaRow { kind: row.kind, fingerprint, certificate_pem: row.certificate_pem })
    });
    Ok(PublicKeys { certificates: certificates.collect(), token_keys })
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
                sqlx::query!(
                    "insert into ca_certificates (fingerprint, kind, state, certificate_pem) values ($1, $2, 'active', $3)",
                    &row.fingerprint.0[..],
                    row.kind,
                    row.certificate_pem
                )
                .execute(&mut *c)
                .await?;
                append(c, ChangeKind::Ca, &hex(&row.fingerprint.0)).await?;
            }
            for row in &keys.token_keys {
                sqlx::query!(
                    "insert into token_keys (kid, audience, algorithm, public_key_pem, state)
                     values ($1, $2, 'ES256', $3, 'active')",
                    row.kid,
                    row.audience,
                    row.public_key_pem
                )
                .execute(&mut *c)
                .await?;
                append(c, ChangeKind::TokenKey, &row.kid).await?;
            }
            Ok(())
        })
    })
    .await
}
