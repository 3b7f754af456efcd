//! A TCP proxy before PostgreSQL that hurts on command: answers that are late, connections that are cut, packets that
//! vanish one way, a cut right after a COMMIT was sent, a campaign's answer that nobody gets.
//!
//! One [`Controls`] rules any number of listeners. The proxy reads the frontend's messages only to find COMMITs and
//! campaigns; of a session under TLS it sees nothing, and those two commands then do nothing, which the counts show.

mod control;
mod frontend;
mod pump;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

pub use self::control::{ProxyArgs, run};
use super::scenario::Cut;
use crate::lifecycle::tasks;

/// What holds for every connection, from now on and for those that are there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Rules {
    /// Nothing goes from the caller to the server; nothing comes back.
    silent_there: bool,
    silent_back: bool,
    /// Every piece of an answer is so late.
    delay: Duration,
    /// Counts the commands to cut; a connection that sees it change ends.
    cuts: u64,
}

/// The handles of a proxy.
pub struct Controls {
    rules: watch::Sender<Rules>,
    /// How many connections are still to be cut after their COMMIT.
    commits_to_cut: AtomicU32,
    campaigns_to_drop: AtomicU32,
    commits_cut: AtomicU64,
    campaigns_dropped: AtomicU64,
}

impl Default for Controls {
    fn default() -> Self {
        Self {
            rules: watch::channel(Rules::default()).0,
            commits_to_cut: AtomicU32::new(0),
            campaigns_to_drop: AtomicU32::new(0),
            commits_cut: AtomicU64::new(0),
            campaigns_dropped: AtomicU64::new(0),
        }
    }
}

impl Controls {
    /// Passes everything again. What was held back arrives now, as it would after a network has healed.
    pub fn pass(&self) {
        self.commits_to_cut.store(0, Ordering::SeqCst);
        self.campaigns_to_drop.store(0, Ordering::SeqCst);
        self.rules.send_modify(|rules| *rules = Rules { cuts: rules.cuts, ..Rules::default() });
    }

    pub fn delay(&self, answers: Duration) {
        self.rules.send_modify(|rules| rules.delay = answers);
    }

    /// Ends every connection that there is.
    pub fn cut(&self) {
        self.rules.send_modify(|rules| rules.cuts += 1);
    }

    /// Forwards nothing and closes nothing, seen from the caller: `Out` is what it sends.
    pub fn silence(&self, way: Cut) {
        self.rules.send_modify(|rules| {
            rules.silent_there = way != Cut::In;
            rules.silent_back = way != Cut::Out;
        });
    }

    /// Of the next `connections` that send COMMIT, the server gets it and the caller never hears of it.
    pub fn cut_after_commit(&self, connections: u32) {
        self.commits_to_cut.store(connections, Ordering::SeqCst);
    }

    /// The server gets the next campaign, and its answer is dropped with the connection.
    pub fn drop_campaign_answer(&self) {
        self.campaigns_to_drop.store(1, Ordering::SeqCst);
    }

    /// Connections cut after their COMMIT, and campaigns whose answer was dropped, since this was called last.
    pub fn take_counts(&self) -> (u64, u64) {
        (self.commits_cut.swap(0, Ordering::SeqCst), self.campaigns_dropped.swap(0, Ordering::SeqCst))
    }

    pub fn commits_cut(&self) -> u64 {
        self.commits_cut.load(Ordering::SeqCst)
    }

    pub fn campaigns_dropped(&self) -> u64 {
        self.campaigns_dropped.load(Ordering::SeqCst)
    }

    /// Is this message one to cut after? Counts it then.
    fn ends_at(&self, message: frontend::Message) -> bool {
        let (left, counted) = match message {
            frontend::Message::Commit => (&self.commits_to_cut, &self.commits_cut),
            frontend::Message::Campaign => (&self.campaigns_to_drop, &self.campaigns_dropped),
            frontend::Message::Other => return false,
        };
        let taken = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        if taken {
            counted.fetch_add(1, Ordering::SeqCst);
        }
        taken
    }
}

/// One listener and its connections; all of them end with it.
pub struct Proxy {
    addr: SocketAddr,
    _accepting: AbortOnDropHandle<()>,
}

impl Proxy {
    /// Listens at `at` and forwards to `to` (`host:port`), under `controls`.
    pub async fn start(at: &str, to: String, controls: Arc<Controls>) -> Result<Self, String> {
        let listener = TcpListener::bind(at).await.map_err(|error| format!("cannot listen at {at}: {error}"))?;
        let addr = listener.local_addr().map_err(|error| error.to_string())?;
        let accepting = tasks::spawn(accept(listener, to, controls));
        Ok(Self { addr, _accepting: AbortOnDropHandle::new(accepting) })
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

async fn accept(listener: TcpListener, to: String, controls: Arc<Controls>) {
    let mut connections: Vec<AbortOnDropHandle<()>> = Vec::new();
    loop {
        let Ok((caller, _)) = listener.accept().await else {
            // Out of descriptors, most likely: it passes.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        connections.retain(|connection| !connection.is_finished());
        let (to, controls) = (to.clone(), controls.clone());
        connections.push(AbortOnDropHandle::new(tasks::spawn(async move {
            let _ = caller.set_nodelay(true);
            // A host that vanished answers no SYN either: who connects meanwhile waits.
            let mut rules = controls.rules.subscribe();
            let _ = rules.wait_for(|rules| !rules.silent_there && !rules.silent_back).await;
            if let Ok(server) = TcpStream::connect(&to).await {
                let _ = server.set_nodelay(true);
                pump::pass(caller, server, &controls).await;
            }
        })));
    }
}

#[cfg(test)]
mod tests;
