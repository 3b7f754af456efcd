//! The CA certificates that clients are told to trust: `/v1/ca`, and each answer to an enrollment or renewal.
//!
//! The file is read again on demand (SIGHUP) and when it has changed, so that the next CA reaches devices without a
//! restart. What is read counts as a whole or not at all: it must parse to its end, hold CA certificates alone, and
//! among them the root and the issuing CA that this replica signs under. A device that lost those would trust nobody.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::io::AsyncReadExt;
use tokio::sync::Mutex;

use super::ca::{self, CaError};
use super::pki::{FILE_BYTES_MAX, PkiError};
use crate::domain::enrollment::Pin;
use crate::lifecycle::tasks::Tasks;
use crate::observe::identity as observe;
use crate::observe::net::Reload;

/// As for the files of TLS: contents are compared, since an exchanged symbolic link changes no time.
const POLL: Duration = Duration::from_secs(5);

/// Clones share the bundle.
#[derive(Clone)]
pub struct CaBundle(Arc<Inner>);

struct Inner {
    path: PathBuf,
    /// Of our root and our issuing CA.
    own: [Pin; 2],
    live: ArcSwap<Arc<str>>,
    /// Held over a reload, so that an older read never replaces a newer one. The last failure, to log it once.
    turn: Mutex<Option<String>>,
}

impl CaBundle {
    /// # Errors
    /// When `text` cannot be what clients trust.
    pub(super) fn new(path: PathBuf, text: &str, own: [Pin; 2]) -> Result<Self, PkiError> {
        let live = ArcSwap::from_pointee(checked(&path, text, own)?);
        Ok(Self(Arc::new(Inner { path, own, live, turn: Mutex::new(None) })))
    }

    /// PEM.
    pub fn pem(&self) -> Arc<str> {
        self.0.live.load().as_ref().clone()
    }

    /// Reads the file again. What is not good is logged once, and the old bundle stays.
    ///
    /// # Errors
    /// One sentence that names the file.
    pub async fn reload(&self) -> Result<Reload, String> {
        let mut last = self.0.turn.lock().await;
        let outcome = self.exchange().await.map_err(|error| error.to_string());
        match &outcome {
            Ok(Reload::Swapped) => tracing::info!("a new CA bundle is given to clients"),
            Err(error) if last.as_ref() != Some(error) => {
                tracing::error!(%error, "the CA bundle is not reloaded; clients are given the old one");
            }
            Ok(_) | Err(_) => {}
        }
        observe::bundle_reload(*outcome.as_ref().unwrap_or(&Reload::Failed));
        *last = outcome.clone().err();
        outcome
    }

    /// Starts the task that reloads when the file has changed.
    pub fn watch(&self, tasks: &Tasks) {
        let (this, shutdown) = (self.clone(), tasks.shutdown().clone());
        tasks.essential("ca-bundle-reload", async move {
            loop {
                tokio::select! {
                    () = shutdown.draining() => return,
                    () = tokio::time::sleep(POLL) => {}
                }
                // Reported inside.
                let _ = this.reload().await;
            }
        });
    }

    async fn exchange(&self) -> Result<Reload, PkiError> {
        let Inner { path, own, live, .. } = &*self.0;
        let text = read(path).await?;
        if *text == **live.load().as_ref() {
            return Ok(Reload::Unchanged);
        }
        live.store(Arc::new(checked(path, &text, *own)?));
        Ok(Reload::Swapped)
    }
}

fn checked(path: &Path, text: &str, own: [Pin; 2]) -> Result<Arc<str>, PkiError> {
    let pins = ca::bundle_pins(text).map_err(|source| PkiError::Certificate { path: path.to_owned(), source })?;
    if own.iter().all(|pin| pins.contains(pin)) { Ok(text.into()) } else { Err(PkiError::Chain(path.to_owned())) }
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
        let own = [&root, &issuing].map(|pem| ca::pin_of(pem).unwrap());
        let first = format!("{root}{issuing}");
        std::fs::write(&path, &first).unwrap();
        let bundle = CaBundle::new(path.clone(), &first, own).unwrap();
        assert_eq!(bundle.reload().await, Ok(Reload::Unchanged));

        let second = format!("{root}{issuing}{next}");
        std::fs::write(&path, &second).unwrap();
        assert_eq!(bundle.reload().await, Ok(Reload::Swapped));
        assert_eq!(&*bundle.pem(), second);

        let bad = [
            String::new(),
            "junk".to_owned(),
            root.clone(),
            format!("{issuing}{next}"),
            format!("{root}{issuing}{}", &next[..next.len() / 2]),
            format!("{root}{issuing}{leaf}"),
            format!("{root}{issuing}{key}"),
            format!("{second}{}", " ".repeat(usize::try_from(FILE_BYTES_MAX).unwrap())),
        ];
        for text in bad {
            std::fs::write(&path, &text).unwrap();
            let refused = bundle.reload().await.unwrap_err();
            assert!(refused.contains("ca.pem"), "{refused}");
            assert_eq!(&*bundle.pem(), second, "after {} bytes", text.len());
        }
        std::fs::remove_file(&path).unwrap();
        assert!(bundle.reload().await.is_err());
        assert_eq!(&*bundle.pem(), second);

        std::fs::write(&path, &first).unwrap();
        assert_eq!(bundle.reload().await, Ok(Reload::Swapped));
        assert_eq!(&*bundle.pem(), first);
    }
}
