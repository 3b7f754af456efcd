//! The keys of a running replica, exchanged while it serves.
//!
//! Two sides change, each by itself: what the database publishes (the change log's follower, before it calls its reading
//! a proof: a replica that has not heard of an activation is blind within seconds) and the files (the keeper's poll).
//! Each change makes the whole ring anew.
//!
//! The **keeper** brings what hangs on the keys into use, then confirms it: the bundle that clients are given, the CAs
//! that TLS trusts. Only what the files hold *and* the listeners trust is confirmed, and `activate` waits for that.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::bundle::CaBundle;
use super::held::Held;
use super::pki::{Pki, PkiError};
use super::ring::Ring;
use crate::domain::ids::{Fingerprint, ReplicaId};
use crate::lifecycle::readiness::{Check, Readiness};
use crate::lifecycle::shutdown::Shutdown;
use crate::net::TlsHandle;
use crate::observe::identity as observe;
use crate::observe::net::Reload;
use crate::store::keys::{KeyState, PublicKeys, TokenKeyRow};
use crate::store::{ControlStore, key_life};

/// As for the files of TLS: contents are compared, since an exchanged symbolic link changes no time.
const POLL: Duration = Duration::from_secs(5);
/// Confirmations are written again after this: a database that lost one learns of it.
const CONFIRM_AGAIN: Duration = Duration::from_mins(1);
/// After a confirmation that was not written: one that waits for the standby holds a connection meanwhile.
const CONFIRM_PAUSE: Duration = Duration::from_secs(20);

/// Clones share the keys.
#[derive(Clone)]
pub struct Keyring(Arc<Inner>);

struct Inner {
    dir: PathBuf,
    dev: bool,
    held: ArcSwap<Held>,
    published: ArcSwap<PublicKeys>,
    ring: ArcSwap<Ring>,
    /// Held while the ring is made, so that an older one never replaces a newer one.
    turn: Mutex<()>,
    changed: Notify,
}

impl Keyring {
    /// The keys of these files. Nothing signs until [`Self::publish`] has said what may.
    pub fn new(pki: &Pki) -> Self {
        Self(Arc::new(Inner {
            dir: pki.dir.clone(),
            dev: pki.dev,
            held: ArcSwap::from_pointee(pki.held.clone()),
            published: ArcSwap::default(),
            ring: ArcSwap::default(),
            turn: Mutex::default(),
            changed: Notify::new(),
        }))
    }

    /// What signs now.
    pub fn ring(&self) -> Arc<Ring> {
        self.0.ring.load_full()
    }

    /// Is what this CA signed accepted no more? Asked for each request. `None`: the first CA of this installation.
    pub(super) fn refuses(&self, issuer: Option<Fingerprint>) -> bool {
        self.0.ring.load().refuses(issuer)
    }

    /// What the database says now.
    pub fn publish(&self, published: PublicKeys) {
        self.exchange(|inner| inner.published.store(Arc::new(published)));
        let inner = &*self.0;
        observe_states(&inner.published.load());
        inner.changed.notify_one();
    }

    /// Reads the files again, if they have changed. A set that lacks a key in use replaces none that has it.
    fn reload(&self) -> Result<Reload, PkiError> {
        let inner = &*self.0;
        let held = Held::load(&inner.dir, inner.dev)?;
        if held.digest == inner.held.load().digest {
            return Ok(Reload::Unchanged);
        }
        if !held.ring(&inner.published.load()).is_whole() && self.ring().is_whole() {
            return Err(PkiError::LacksActive(inner.dir.clone()));
        }
        self.exchange(|inner| inner.held.store(Arc::new(held)));
        Ok(Reload::Swapped)
    }

    fn exchange(&self, change: impl FnOnce(&Inner)) {
        let inner = &*self.0;
        let _turn = inner.turn.lock().unwrap_or_else(PoisonError::into_inner);
        change(inner);
        let ring = inner.held.load().ring(&inner.published.load());
        if let Some(issuer) = &ring.issuer {
            observe::issuing_ca_expiry(issuer.not_after());
        }
        inner.ring.store(Arc::new(ring));
    }
}

fn observe_states(published: &PublicKeys) {
    let issuing = published.certificates.iter().filter(|row| row.kind == "issuing").map(|row| ("issuing", row.state));
    let tokens = published.token_keys.iter().map(|row| (&*row.audience, row.state));
    let all: Vec<(&str, &str)> = issuing.chain(tokens).map(|(of, state)| (of, state.as_str())).collect();
    for of in observe::KeyUse::ALL {
        for state in observe::KeyLife::ALL {
            let count = all.iter().filter(|one| **one == (of.as_str(), state.as_str())).count();
            observe::keys(*of, *state, count);
        }
    }
}

/// Brings changed keys into use, and confirms them. Clones share the work.
#[derive(Clone)]
pub struct Keeper(Arc<Work>);

pub(super) struct Work {
    pub(super) keyring: Keyring,
    pub(super) bundle: CaBundle,
    pub(super) tls: Vec<TlsHandle>,
    pub(super) control: ControlStore,
    pub(super) replica: ReplicaId,
    pub(super) readiness: Readiness,
    pub(super) done: tokio::sync::Mutex<Done>,
}

/// Of the last pass. Held over one, so that passes do not overtake each other.
#[derive(Default)]
pub(super) struct Done {
    confirmed: Option<(Vec<String>, Instant)>,
    refused: Option<Instant>,
    /// To log it once.
    failure: Option<String>,
}

impl Keeper {
    pub(super) fn new(work: Work) -> Self {
        Self(Arc::new(work))
    }

    /// A pass whenever something has changed, and now and then.
    pub(super) async fn run(self, shutdown: Shutdown) {
        loop {
            self.pass().await;
            tokio::select! {
                () = shutdown.draining() => return,
                () = self.0.keyring.0.changed.notified() => {}
                () = tokio::time::sleep(POLL) => {}
            }
        }
    }

    /// Reads the files again, on demand.
    pub async fn pass(&self) {
        let work = &*self.0;
        let mut done = work.done.lock().await;
        let keyring = work.keyring.clone();
        let read = tokio::task::spawn_blocking(move || keyring.reload().map_err(|error| error.to_string())).await;
        let read = read.unwrap_or_else(|error| Err(error.to_string()));
        self.report(&read, &mut done);
        work.readiness.set(Check::Keys, work.keyring.ring().is_whole());
        let published = work.keyring.0.published.load_full();
        // Reported inside. What is published counts even if the file is not good.
        let _ = work.bundle.reload(&published.certificates).await;
        let mut trusted = true;
        for handle in &work.tls {
            trusted &= handle.trust(work.bundle.client_cas()).await.is_ok();
        }
        self.confirm(&published, trusted, &mut done).await;
    }

    /// The names of what is held and, for CAs, trusted and told.
    fn usable(&self, published: &PublicKeys, trusted: bool) -> Vec<String> {
        let held = self.0.keyring.0.held.load();
        let live = |state: KeyState| state != KeyState::Retired;
        let cas = published.certificates.iter().filter(|row| trusted && live(row.state));
        let cas = cas.filter(|row| held.issuer(row.fingerprint).is_some()).map(|row| row.fingerprint.to_string());
        let fits = |row: &TokenKeyRow| {
            held.signer(&row.kid).is_some_and(|held| held.signer.public().audience.column() == row.audience)
        };
        let tokens = published.token_keys.iter().filter(|row| live(row.state) && fits(row));
        cas.chain(tokens.map(|row| row.kid.clone())).collect()
    }

    async fn confirm(&self, published: &PublicKeys, trusted: bool, done: &mut Done) {
        let keys = self.usable(published, trusted);
        let fresh = |(known, at): &(Vec<String>, Instant)| *known == keys && at.elapsed() < CONFIRM_AGAIN;
        let just_refused = done.refused.is_some_and(|at| at.elapsed() < CONFIRM_PAUSE);
        if published.certificates.is_empty() || just_refused || done.confirmed.as_ref().is_some_and(fresh) {
            return;
        }
        match key_life::confirm(&self.0.control, self.0.replica.0, keys.clone()).await {
            Ok(()) => (done.confirmed, done.refused) = (Some((keys, Instant::now())), None),
            Err(error) => {
                done.refused = Some(Instant::now());
                tracing::warn!(%error, "the keys that this replica holds are not confirmed yet");
            }
        }
    }

    fn report(&self, read: &Result<Reload, String>, done: &mut Done) {
        match read {
            Ok(Reload::Swapped) => tracing::info!("new files of keys are in use"),
            Err(error) if done.failure.as_ref() != Some(error) => {
                tracing::error!(%error, "files of keys not reloaded; the old stay in use");
            }
            Ok(_) | Err(_) => {}
        }
        observe::key_reload(*read.as_ref().unwrap_or(&Reload::Failed));
        done.failure = read.as_ref().err().cloned();
        let ring = self.0.keyring.ring();
        if !ring.is_whole() && self.0.readiness.get(Check::Keys) {
            tracing::error!("an active key is not among this replica's files: copy them from another replica");
        }
    }
}
