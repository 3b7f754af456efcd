//! Do the files of this replica belong to this database?

use super::jwt::TokenPublicKey;
use super::pki::PublicHalves;
use crate::store::changes::ChangeLog;
use crate::store::keys::{self, CaRow, PublicKeys, PublishRefusal, TokenKeyRow};
use crate::store::{ControlStore, StoreError};

/// Why the files cannot be used with this database.
#[derive(Clone, Debug, thiserror::Error)]
pub enum KeysError {
    #[error("the database has no CA yet: run `everbeat init` first")]
    Empty,
    #[error("these files have another {0} than the database: they belong to another installation, or are too old")]
    Differ(&'static str),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// `init`: publishes the first keys. Refuses when the database has any.
pub async fn publish(log: &ChangeLog, halves: &PublicHalves) -> Result<(), PublishRefusal> {
    keys::publish(log, rows(halves)).await
}

/// Does the database publish any key?
pub async fn any(control: &ControlStore) -> Result<bool, StoreError> {
    let published = keys::load(control).await?;
    Ok(!published.certificates.is_empty() || !published.token_keys.is_empty())
}

/// `init --join` and `serve`: every key of the files must be one that the database publishes. The database may have
/// more, while keys are being replaced.
pub async fn check(control: &ControlStore, halves: &PublicHalves) -> Result<(), KeysError> {
    compare(&keys::load(control).await?, &rows(halves))
}

fn compare(published: &PublicKeys, ours: &PublicKeys) -> Result<(), KeysError> {
    if published.certificates.is_empty() && published.token_keys.is_empty() {
        return Err(KeysError::Empty);
    }
    // By fingerprint: the text of a PEM file may have been wrapped anew.
    let known = |ca: &CaRow| {
        published.certificates.iter().any(|row| (&row.kind, row.fingerprint) == (&ca.kind, ca.fingerprint))
    };
    if !ours.certificates.iter().all(known) {
        return Err(KeysError::Differ("CA certificate"));
    }
    let known = |key: &TokenKeyRow| published.token_keys.iter().any(|row| row == key);
    if !ours.token_keys.iter().all(known) {
        return Err(KeysError::Differ("token key"));
    }
    Ok(())
}

fn rows(halves: &PublicHalves) -> PublicKeys {
    let certificates = halves.certificates.iter().map(|ca| CaRow {
        kind: ca.kind.as_str().to_owned(),
        fingerprint: ca.fingerprint,
        certificate_pem: ca.pem.clone(),
    });
    let token_keys = halves.token_keys.iter().map(|key: &TokenPublicKey| TokenKeyRow {
        kid: key.kid.clone(),
        audience: key.audience.column().to_owned(),
        public_key_pem: key.public_key_pem.clone(),
    });
    PublicKeys { certificates: certificates.collect(), token_keys: token_keys.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::Fingerprint;

    #[test]
    fn the_files_must_be_among_what_is_published() {
        let ca =
            |n| CaRow { kind: "root".to_owned(), fingerprint: Fingerprint([n; 32]), certificate_pem: String::new() };
        let key = |kid: &str| TokenKeyRow {
            kid: kid.to_owned(),
            audience: "device".to_owned(),
            public_key_pem: String::new(),
        };
        let keys = |certificates, token_keys| PublicKeys { certificates, token_keys };
        let published = keys(vec![ca(1), ca(2)], vec![key("a"), key("b")]);
        assert!(compare(&published, &keys(vec![ca(2)], vec![key("b")])).is_ok());
        assert!(matches!(compare(&published, &keys(vec![ca(3)], vec![])), Err(KeysError::Differ("CA certificate"))));
        assert!(matches!(compare(&published, &keys(vec![ca(1)], vec![key("c")])), Err(KeysError::Differ("token key"))));
        assert!(matches!(compare(&PublicKeys::default(), &published), Err(KeysError::Empty)));
    }
}
