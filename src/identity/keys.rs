//! Do the files of this replica belong to this database, and do they suffice?

use super::jwt::TokenPublicKey;
use super::pki::PublicHalves;
use crate::store::changes::ChangeLog;
use crate::store::keys::{self, CaRow, KeyState, PublicKeys, PublishRefusal, TokenKeyRow};
use crate::store::{ControlStore, StoreError};

/// Why the files cannot be used with this database.
#[derive(Clone, Debug, thiserror::Error)]
pub enum KeysError {
    #[error("the database has no CA yet: run `everbeat init` first")]
    Empty,
    #[error("these files have another {0} than the database: they belong to another installation, or are too old")]
    Differ(&'static str),
    #[error(
        "the {what} that is active ({key}) is not among these files: copy {files} from the pki.dir of another replica"
    )]
    Lacks { what: &'static str, key: String, files: &'static str },
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

/// `init --join` and `serve`: the root must be the database's, and every key that it calls active must be among the files.
/// There may be more of either, while keys are being replaced. What the database publishes.
pub async fn check(control: &ControlStore, halves: &PublicHalves) -> Result<PublicKeys, KeysError> {
    let published = keys::load(control).await?;
    compare(&published, &rows(halves))?;
    Ok(published)
}

fn compare(published: &PublicKeys, ours: &PublicKeys) -> Result<(), KeysError> {
    if published.certificates.is_empty() && published.token_keys.is_empty() {
        return Err(KeysError::Empty);
    }
    for (kind, files) in [("root", "root.pem"), ("issuing", "issuing*.key and issuing.pem")] {
        // By fingerprint: the text of a PEM file may have been wrapped anew.
        let of = |keys: &PublicKeys| {
            let rows = keys.certificates.iter().filter(|row| row.kind == kind);
            rows.map(|row| (row.fingerprint.to_string(), row.state)).collect::<Vec<_>>()
        };
        judge(&of(published), &of(ours), ("CA certificate", files))?;
    }
    for (audience, files) in [("device", "token-device*.key"), ("admin", "token-operator*.key")] {
        let of = |keys: &PublicKeys| {
            let rows = keys.token_keys.iter().filter(|row| row.audience == audience);
            rows.map(|row| (row.kid.clone(), row.state)).collect::<Vec<_>>()
        };
        judge(&of(published), &of(ours), ("token key", files))?;
    }
    Ok(())
}

type Named = (String, KeyState);

fn judge(published: &[Named], ours: &[Named], (what, files): (&'static str, &'static str)) -> Result<(), KeysError> {
    let held = |key: &str| ours.iter().any(|(name, _)| name == key);
    if !published.iter().any(|(key, _)| held(key)) {
        return Err(KeysError::Differ(what));
    }
    match published.iter().find(|(key, state)| *state == KeyState::Active && !held(key)) {
        Some((key, _)) => Err(KeysError::Lacks { what, key: key.clone(), files }),
        None => Ok(()),
    }
}

fn rows(halves: &PublicHalves) -> PublicKeys {
    let certificates = halves.certificates.iter().map(|ca| CaRow {
        kind: ca.kind.as_str().to_owned(),
        fingerprint: ca.fingerprint,
        certificate_pem: ca.pem.clone(),
        state: KeyState::Active,
    });
    let token_keys = halves.token_keys.iter().map(|key| row_of(key, KeyState::Active));
    PublicKeys { certificates: certificates.collect(), token_keys: token_keys.collect() }
}

/// The row of a token key.
pub fn row_of(key: &TokenPublicKey, state: KeyState) -> TokenKeyRow {
    TokenKeyRow {
        kid: key.kid.clone(),
        audience: key.audience.column().to_owned(),
        public_key_pem: key.public_key_pem.clone(),
        state,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::Fingerprint;

    fn ca(kind: &str, n: u8, state: KeyState) -> CaRow {
        CaRow { kind: kind.to_owned(), fingerprint: Fingerprint([n; 32]), certificate_pem: String::new(), state }
    }

    fn key(audience: &str, kid: &str, state: KeyState) -> TokenKeyRow {
        TokenKeyRow { kid: kid.to_owned(), audience: audience.to_owned(), public_key_pem: String::new(), state }
    }

    /// Root 1, issuing CAs and token keys for devices as given, one key for operators.
    fn keys(issuing: &[(u8, KeyState)], device: &[(&str, KeyState)]) -> PublicKeys {
        let issuing = issuing.iter().map(|(n, state)| ca("issuing", *n, *state));
        let device = device.iter().map(|(kid, state)| key("device", kid, *state));
        PublicKeys {
            certificates: [ca("root", 1, KeyState::Active)].into_iter().chain(issuing).collect(),
            token_keys: [key("admin", "o", KeyState::Active)].into_iter().chain(device).collect(),
        }
    }

    #[test]
    fn what_is_active_must_be_among_the_files() {
        use KeyState::{Active, Next, Retiring};
        let published = keys(&[(2, Retiring), (3, Active), (4, Next)], &[("a", Retiring), ("b", Active)]);
        let files = |issuing: &[u8], device: &[&str]| {
            let issuing: Vec<_> = issuing.iter().map(|n| (*n, Active)).collect();
            let device: Vec<_> = device.iter().map(|kid| (*kid, Active)).collect();
            compare(&published, &keys(&issuing, &device))
        };
        assert!(files(&[3], &["b"]).is_ok());
        assert!(files(&[2, 3, 4, 9], &["a", "b", "c"]).is_ok(), "more is no harm");
        assert!(matches!(files(&[9], &["b"]), Err(KeysError::Differ("CA certificate"))));
        assert!(matches!(files(&[3], &["c"]), Err(KeysError::Differ("token key"))));
        assert!(matches!(files(&[2, 4], &["b"]), Err(KeysError::Lacks { what: "CA certificate", .. })));
        assert!(matches!(files(&[3], &["a"]), Err(KeysError::Lacks { what: "token key", key, .. }) if key == "b"));
        assert!(matches!(compare(&PublicKeys::default(), &published), Err(KeysError::Empty)));
        let mut other = published.clone();
        other.certificates[0].fingerprint = Fingerprint([7; 32]);
        assert!(matches!(compare(&published, &other), Err(KeysError::Differ("CA certificate"))));
    }
}
