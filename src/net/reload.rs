//! The TLS configuration in use, and its exchange: on demand (SIGHUP) and when the files' contents change. A
//! configuration that does not load is reported and counted, and the old one stays.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::Mutex;

use super::peer::Listener;
use super::settings::TlsSettings;
use super::tls::{ClientCas, Files, Live, TlsError};
use crate::domain::time::Clock;
use crate::lifecycle::tasks::Tasks;
use crate::observe;
use crate::observe::net::Reload;

/// Contents are compared, not times: a symbolic link that is exchanged (Kubernetes) changes no time.
const POLL: Duration = Duration::from_secs(5);

/// Clones share the configuration.
#[derive(Clone)]
pub struct TlsHandle(Arc<Inner>);

struct Inner {
    listener: Listener,
    settings: TlsSettings,
    clock: Clock,
    live: ArcSwap<Live>,
    /// Instead of the file of CAs, once given.
    cas: ArcSwapOption<ClientCas>,
    /// Held over a reload, so that an older read never replaces a newer one. The last failure, to log it once.
    turn: Mutex<Option<TlsError>>,
}

/// What a reload found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reloaded {
    /// New connections use the new files.
    Swapped,
    Unchanged,
}

impl TlsHandle {
    /// Reads the files and builds the first configuration. An expired server certificate is only warned about:
    /// devices without a clock still connect, and a replica that does not start helps nobody.
    ///
    /// # Errors
    /// One sentence that names the file.
    pub async fn load(listener: Listener, settings: TlsSettings, clock: Clock) -> Result<Self, TlsError> {
        let live = Live::build(listener, &settings, Files::read(&settings, None).await?, &clock)?;
        if live.expires < clock.wall() {
            tracing::error!(listener = listener.as_str(), expired = %live.expires, "the server certificate has expired");
        }
        observe::net::certificate_expiry(listener.port(), live.expires);
        let live = ArcSwap::from_pointee(live);
        Ok(Self(Arc::new(Inner {
            listener,
            settings,
            clock,
            live,
            cas: ArcSwapOption::empty(),
            turn: Mutex::new(None),
        })))
    }

    /// Loads the files again and uses them for new connections, if they are good. Connections that are open keep
    /// what they have.
    ///
    /// # Errors
    /// When the files are not good, or the new server certificate has expired; the old configuration stays.
    pub async fn reload(&self) -> Result<Reloaded, TlsError> {
        let mut last = self.0.turn.lock().await;
        self.attempt(&mut last).await
    }

    /// Trusts these CAs from now on, for new connections, and the file of CAs no more. When the other files are not good,
    /// the CAs count beside the server certificate in use: whom we trust must not wait for its renewal.
    ///
    /// # Errors
    /// When the CAs are not good; the old configuration stays, and is tried again with the next look at the files.
    pub async fn trust(&self, cas: Arc<ClientCas>) -> Result<Reloaded, TlsError> {
        let mut last = self.0.turn.lock().await;
        self.0.cas.store(Some(cas.clone()));
        if let Ok(reloaded) = self.attempt(&mut last).await {
            return Ok(reloaded);
        }
        let inner = &*self.0;
        let files = inner.live.load().files.with(&cas);
        if files.digest() == inner.live.load().digest {
            return Ok(Reloaded::Unchanged);
        }
        inner.live.store(Arc::new(Live::build(inner.listener, &inner.settings, files, &inner.clock)?));
        tracing::info!(listener = inner.listener.as_str(), "new CAs are trusted, beside the old server certificate");
        Ok(Reloaded::Swapped)
    }

    /// Starts the task that reloads when the files have changed.
    pub fn watch(&self, tasks: &Tasks) {
        self.watch_every(POLL, tasks);
    }

    pub(super) fn watch_every(&self, poll: Duration, tasks: &Tasks) {
        let (this, shutdown) = (self.clone(), tasks.shutdown().clone());
        let name = match self.0.listener {
            Listener::Device => "device-tls-reload",
            Listener::Admin => "admin-tls-reload",
        };
        tasks.essential(name, async move {
            loop {
                tokio::select! {
                    () = shutdown.draining() => return,
                    () = tokio::time::sleep(poll) => {}
                }
                // Reported inside.
                let _ = this.reload().await;
            }
        });
    }

    pub fn listener(&self) -> Listener {
        self.0.listener
    }

    pub(super) fn live(&self) -> Arc<Live> {
        self.0.live.load_full()
    }

    /// `last`: the last failure, to log it once.
    async fn attempt(&self, last: &mut Option<TlsError>) -> Result<Reloaded, TlsError> {
        let outcome = self.exchange().await;
        self.report(&outcome, last.as_ref());
        *last = outcome.clone().err();
        outcome
    }

    async fn exchange(&self) -> Result<Reloaded, TlsError> {
        let inner = &*self.0;
        let files = Files::read(&inner.settings, inner.cas.load_full().as_deref()).await?;
        if files.digest() == inner.live.load().digest {
            return Ok(Reloaded::Unchanged);
        }
        let live = Live::build(inner.listener, &inner.settings, files, &inner.clock)?;
        if live.expires < inner.clock.wall() {
            return Err(TlsError::Expired { path: inner.settings.certificate_file.clone(), at: live.expires });
        }
        observe::net::certificate_expiry(inner.listener.port(), live.expires);
        inner.live.store(Arc::new(live));
        Ok(Reloaded::Swapped)
    }

    fn report(&self, outcome: &Result<Reloaded, TlsError>, last: Option<&TlsError>) {
        let listener = self.0.listener;
        let label = match outcome {
            Ok(Reloaded::Unchanged) => Reload::Unchanged,
            Ok(Reloaded::Swapped) => {
                tracing::info!(listener = listener.as_str(), "new TLS files are in use");
                Reload::Swapped
            }
            Err(error) => {
                if last != Some(error) {
                    tracing::error!(listener = listener.as_str(), %error, "TLS files not reloaded; the old stay in use");
                }
                Reload::Failed
            }
        };
        observe::net::reload(listener.port(), label);
    }
}
