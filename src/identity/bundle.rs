//! The CA certificates that clients are told to trust: `/v1/ca`, and each answer to an enrollment or renewal; and those
//! that TLS trusts for clients.
//!
//! Two sources: the file, and what the database publishes. Issuing CAs come from the database, so that the next one
//! reaches every replica and every device without a copy of the file, and a retired one leaves them at once. The file is
//! read again on demand (SIGHUP) and when it has changed, and counts as a whole or not at all: it must parse to its end,
//! hold CA certificates alone, and among them the root that this replica signs under. A device that lost that would
//! trust nobody.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::io::AsyncReadExt;
use tokio::sync::Mutex;

use super::ca::{self, CaError};
use super::pki::{FILE_BYTES_MAX, PkiError};
use crate::domain::digest::sha256;
use crate::domain::enrollment::Pin;
use crate::domain::ids::Fingerprint;
use crate::net::ClientCas;
use crate::observe::identity as observe;
use crate::observe::net::Reload;
use crate::store::keys::{CaRow, KeyState};

/// Clones share the bundle.
#[derive(Clone)]
pub struct CaBundle(Arc<Inner>);

struct Inner {
    path: PathBuf,
    /// Of our root.
    own: Pin,
    live: ArcSwap<ClientCas>,
    /// Held over a reload, so that an older read never replaces a newer one.
    turn: Mutex<Last>,
}

/// Of the last reload.
struct Last {
    /// The file's text, when it was good.
    text: Arc<str>,
    /// To log it once.
    failure: Option<String>,
}

impl CaBundle {
    /// # Errors
    /// When `text` cannot be what clients trust.
    pub(super) fn new(path: PathBuf, text: &str, own: Pin) -> Result<Self, PkiError> {
        let text = checked(&path, text, own)?;
        let live = ArcSwap::from_pointee(ClientCas { pem: text.clone(), retired: Vec::new() });
        Ok(Self(Arc::new(Inner { path, own, live, turn: Mutex::new(Last { text, failure: None }) })))
    }

    /// PEM.
    pub fn pem(&self) -> Arc<str> {
        self.0.live.load().pem.clone()
    }

    /// The same, and what is trusted no more.
    pub(super) fn client_cas(&self) -> Arc<ClientCas> {
        self.0.live.load_full()
    }

    /// Reads the file again and adds what is published. A file that is not good is logged once, and its last good text
    /// counts; what is published counts all the same.
    ///
    /// # Errors
    /// One sentence that names the file.
    pub async fn reload(&self, published: &[CaRow]) -> Result<Reload, String> {
        let mut last = self.0.turn.lock().await;
        let read = self.read().await.map_err(|error| error.to_string());
        match &read {
            Ok(text) => last.text = text.clone(),
            Err(error) if last.failure.as_ref() != Some(error) => {
                tracing::error!(%error, "the CA bundle is not reloaded; clients are given the old one");
            }
            Err(_) => {}
        }
        let fresh = merged(&last.text, published);
        let swapped = fresh != **self.0.live.load();
        if swapped {
            self.0.live.store(Arc::new(fresh));
            tracing::info!("a new CA bundle is given to clients");
        }
        let done = if swapped { Reload::Swapped } else { Reload::Unchanged };
        observe::bundle_reload(if read.is_ok() { done } else { Reload::Failed });
        last.failure = read.as_ref().err().cloned();
        read.map(|_| done)
    }

    async fn read(&self) -> Result<Arc<str>, PkiError> {
        let Inner { path, own, .. } = &*self.0;
        checked(path, &read(path).await?, *own)
    }
}

/// The file's certificates without the retired ones, and the published ones that it lacks.
fn merged(text: &Arc<str>, published: &[CaRow]) -> ClientCas {
    let print = |der: &Vec<u8>| Fingerprint(sha256(der));
    let is_retired =
        |print: Fingerprint| published.iter().any(|row| row.fingerprint == print && row.state == KeyState::Retired);
    let retired = published.iter().filter(|row| row.state == KeyState::Retired);
    let retired = retired.filter_map(|row| ca::key_sha256(&row.certificate_pem).ok()).collect();
    let in_file = ca::certificate_ders(text);
    let kept: Vec<_> = in_file.iter().filter(|der| !is_retired(print(der))).collect();
    let missing = published.iter().filter(|row| row.state != KeyState::Retired);
    let missing: Vec<_> = missing.filter(|row| !in_file.iter().any(|der| print(der) == row.fingerprint)).collect();
    if kept.len() == in_file.len() && missing.is_empty() {
        // As it stands in the file, comments and all.
        return ClientCas { pem: text.clone(), retired };
    }
    let kept = kept.into_iter().map(|der| ca::certificate_pem(der));
    let pem: String = kept.chain(missing.into_iter().map(|row| row.certificate_pem.clone())).collect();
    ClientCas { pem: pem.into(), retired }
}

fn checked(path: &Path, text: &str, own: Pin) -> Result<Arc<str>, PkiError> {
    let pins = ca::bundle_pins(text).map_err(|source| PkiError::Certificate { path: path.to_owned(), source })?;
    if pins.contains(&own) { Ok(text.into()) } else { Err(PkiError::Chain(path.to_owned())) }
}

async fn read(path: &Path) -> Result<String, PkiError> {
    let failed = |source| PkiError::File { path: path.to_owned(), source };
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    let mut text = String::new();
    let length = file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).await.map_err(failed)?;
    if length as u64 > FILE_BYTES_MAX {
        return Err(PkiError::Certificate { path: path.to_owned(), source: CaError::BadCertificate });
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::time::Clock;
    use crate::identity::ca::Root;

    struct Pems {
        root: String,
        issuing: String,
        next: String,
        leaf: String,
        key: String,
    }

    fn pems() -> Pems {
        let now = Clock::manual(1_800_000_000_000_000).wall();
        let (root, next) = (Root::make(now).unwrap(), Root::make(now).unwrap());
        let issuer = root.make_issuer(now).unwrap();
        let server = issuer.make_server(&["localhost".to_owned()], now).unwrap();
        Pems {
            root: root.certificate_pem().to_owned(),
            issuing: issuer.certificate_pem().to_owned(),
            next: next.certificate_pem().to_owned(),
            leaf: server.chain_pem,
            key: server.key_pem,
        }
    }

    #[tokio::test]
    async fn the_next_bundle_counts_as_a_whole_or_not_at_all() {
        let Pems { root, issuing, next, leaf, key } = pems();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca.pem");
        let own = ca::pin_of(&root).unwrap();
        let first = format!("{root}{issuing}");
        std::fs::write(&path, &first).unwrap();
        let bundle = CaBundle::new(path.clone(), &first, own).unwrap();
        assert_eq!(bundle.reload(&[]).await, Ok(Reload::Unchanged));

        let second = format!("{root}{issuing}{next}");
        std::fs::write(&path, &second).unwrap();
        assert_eq!(bundle.reload(&[]).await, Ok(Reload::Swapped));
        assert_eq!(&*bundle.pem(), second);

        let bad = [
            String::new(),
            "junk".to_owned(),
            issuing.clone(),
            format!("{issuing}{next}"),
            format!("{root}{issuing}{}", &next[..next.len() / 2]),
            format!("{root}{issuing}{leaf}"),
            format!("{root}{issuing}{key}"),
            format!("{second}{}", " ".repeat(usize::try_from(FILE_BYTES_MAX).unwrap())),
        ];
        for text in bad {
            std::fs::write(&path, &text).unwrap();
            let refused = bundle.reload(&[]).await.unwrap_err();
            assert!(refused.contains("ca.pem"), "{refused}");
            assert_eq!(&*bundle.pem(), second, "after {} bytes", text.len());
        }
        std::fs::remove_file(&path).unwrap();
        assert!(bundle.reload(&[]).await.is_err());
        assert_eq!(&*bundle.pem(), second);

        std::fs::write(&path, &first).unwrap();
        assert_eq!(bundle.reload(&[]).await, Ok(Reload::Swapped));
        assert_eq!(&*bundle.pem(), first);
    }
    #[test]
    fn what_is_published_is_told_and_what_is_retired_is_not() {
        let Pems { root, issuing, next, .. } = pems();
        let row = |pem: &str, state| CaRow {
            kind: "issuing".to_owned(),
            fingerprint: Fingerprint(sha256(&ca::single_certificate(pem).unwrap())),
            certificate_pem: pem.to_owned(),
            state,
        };
        let text: Arc<str> = format!("# ours\n{root}{issuing}").into();
        let told = |published: &[CaRow]| merged(&text, published);
        assert_eq!(told(&[row(&issuing, KeyState::Active)]).pem, text, "word for word");
        let [active, following] = [row(&issuing, KeyState::Active), row(&next, KeyState::Next)];
        let two = told(&[active, following.clone()]);
        assert_eq!((&*two.pem, two.retired.len()), (&*format!("{root}{issuing}{next}"), 0));
        let retired = row(&issuing, KeyState::Retired);
        let one = told(&[retired.clone(), following]);
        assert_eq!((&*one.pem, one.retired), (&*format!("{root}{next}"), vec![ca::key_sha256(&issuing).unwrap()]));
    }
}
