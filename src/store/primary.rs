//! Who is the primary? All hosts are probed in parallel, each under one deadline; of those that call themselves
//! writable the highest timeline wins, and never a lower one than was seen before: with Patroni frozen, an old
//! primary goes on calling itself writable. The pools get that one host.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use time::OffsetDateTime;
use tokio::sync::watch;

use super::error::StoreError;
use super::session::Session;
use super::settings::{Plane, StoreSettings};
use crate::lifecycle::tasks::Tasks;
use crate::observe;

/// Between two rounds of probes. With the deadline below, a new primary is followed within 2 s of being writable.
const ROUND: Duration = Duration::from_millis(500);
/// One probe: connect if need be, and one statement.
const PROBE_DEADLINE: Duration = Duration::from_secs(1);
/// A primary that misses this many rounds is not offered to anybody until it answers again.
const MISSES_MAX: u32 = 2;

crate::statements! {
    /// Writable or not, and on which timeline.
    PROBE = "primary_probe";
}

/// The node that takes writes. Two values are equal when no connection needs to be replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Primary {
    pub host: (String, u16),
    pub timeline: i32,
    pub postmaster_start: OffsetDateTime,
}

/// `None`: no primary answers just now.
pub type PrimaryWatch = watch::Receiver<Option<Arc<Primary>>>;

/// Starts the tracker.
pub fn track(settings: Arc<StoreSettings>, tasks: &Tasks) -> PrimaryWatch {
    let (sender, receiver) = watch::channel(None);
    let shutdown = tasks.shutdown().clone();
    tasks.foundation("primary-tracker", async move {
        let mut tracker = Tracker::new(settings);
        loop {
            let found = tracker.round().await;
            sender.send_if_modified(|current| {
                let changed = current.as_deref() != found.as_deref();
                if changed {
                    *current = found;
                }
                changed
            });
            tokio::select! {
                () = shutdown.aborting() => return,
                () = tokio::time::sleep(ROUND) => {}
            }
        }
    });
    receiver
}

/// Waits for a primary, at most `limit`.
pub async fn wait_for_primary(watch: &mut PrimaryWatch, limit: Duration) -> Option<Arc<Primary>> {
    let found = tokio::time::timeout(limit, watch.wait_for(Option::is_some)).await;
    found.ok()?.ok()?.clone()
}

/// The host that takes writes, asked as the schema's owner: before the first migration the planes' users may not
/// exist yet.
///
/// # Errors
/// A sentence that says why no host will do.
pub async fn find_writable(settings: &StoreSettings, limit: Duration) -> Result<(String, u16), String> {
    let deadline = tokio::time::Instant::now() + limit;
    loop {
        let mut reasons = Vec::new();
        for host in &settings.hosts {
            match writable(settings, host).await {
                Ok(true) => return Ok(host.clone()),
                Ok(false) => reasons.push(format!("{}:{} is a standby", host.0, host.1)),
                Err(error) => reasons.push(format!("{}:{}: {}", host.0, host.1, error.detail)),
            }
        }
        if tokio::time::Instant::now() >= deadline {
            return Err(format!("no primary was found: {}", reasons.join("; ")));
        }
        tokio::time::sleep(ROUND).await;
    }
}

async fn writable(settings: &StoreSettings, host: &(String, u16)) -> Result<bool, StoreError> {
    let session = Session::open(settings, host, Plane::Owner, "").await?;
    let rows = session.query(&PROBE, &[], PROBE_DEADLINE).await?;
    Ok(rows.first().is_some_and(|row| row.get::<_, Option<i32>>("timeline").is_some()))
}

struct Node {
    host: (String, u16),
    session: Option<Session>,
}

impl Node {
    /// The node's state if it takes writes.
    async fn probe(&mut self, settings: &StoreSettings) -> Option<Primary> {
        let probe = async {
            if self.session.as_ref().is_none_or(Session::is_closed) {
                self.session = Some(Session::open(settings, &self.host, Plane::Lease, "").await?);
            }
            match &self.session {
                Some(session) => session.query(&PROBE, &[], PROBE_DEADLINE).await,
                None => Ok(Vec::new()),
            }
        };
        let answer = tokio::time::timeout(PROBE_DEADLINE, probe).await;
        let rows = match answer {
            Ok(Ok(rows)) => rows,
            Ok(Err(error)) => {
                tracing::debug!(host = self.host.0, port = self.host.1, %error, "a probe failed");
                self.session = None;
                return None;
            }
            Err(_) => {
                self.session = None;
                return None;
            }
        };
        let row = rows.first()?;
        let timeline: Option<i32> = row.get("timeline");
        Some(Primary { host: self.host.clone(), timeline: timeline?, postmaster_start: row.get("postmaster_start") })
    }
}

struct Tracker {
    settings: Arc<StoreSettings>,
    nodes: Vec<Node>,
    current: Option<Arc<Primary>>,
    timeline_seen: i32,
    misses: u32,
}

impl Tracker {
    fn new(settings: Arc<StoreSettings>) -> Self {
        let nodes = settings.hosts.iter().map(|host| Node { host: host.clone(), session: None }).collect();
        Self { settings, nodes, current: None, timeline_seen: 0, misses: 0 }
    }

    async fn round(&mut self) -> Option<Arc<Primary>> {
        let settings = &self.settings;
        let answers = join_all(self.nodes.iter_mut().map(|node| node.probe(settings))).await;
        let best = choose(answers.into_iter().flatten(), self.current.as_deref(), self.timeline_seen);
        match best {
            Some(best) => {
                self.misses = 0;
                self.timeline_seen = best.timeline;
                if self.current.as_deref() != Some(&best) {
                    let (host, port) = &best.host;
                    tracing::info!(host, port, timeline = best.timeline, "following the primary");
                    observe::store::primary_changed(best.timeline);
                    self.current = Some(Arc::new(best));
                }
            }
            None => self.misses = self.misses.saturating_add(1),
        }
        let reachable = self.misses < MISSES_MAX && self.current.is_some();
        observe::store::primary_reachable(reachable);
        if reachable { self.current.clone() } else { None }
    }
}

/// Of the writable nodes, the one with the highest timeline, if that is no lower than `seen`.
/// Where two claim the same timeline, the one that is followed already.
fn choose(writable: impl Iterator<Item = Primary>, current: Option<&Primary>, seen: i32) -> Option<Primary> {
    writable
        .filter(|node| node.timeline >= seen)
        .max_by_key(|node| (node.timeline, current.is_some_and(|current| current.host == node.host)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(host: &str, timeline: i32) -> Primary {
        Primary { host: (host.to_owned(), 5432), timeline, postmaster_start: OffsetDateTime::UNIX_EPOCH }
    }

    #[test]
    fn the_highest_timeline_wins_and_never_a_lower_one() {
        let (a, b) = (node("a", 3), node("b", 4));
        assert_eq!(choose([a.clone(), b.clone()].into_iter(), Some(&a), 3), Some(b.clone()));
        assert_eq!(choose([a.clone()].into_iter(), None, 4), None, "an old primary that is alone is not followed");
        let twin = node("b", 3);
        assert_eq!(choose([a.clone(), twin.clone()].into_iter(), Some(&a), 3), Some(a.clone()));
        assert_eq!(choose([a, twin.clone()].into_iter(), Some(&twin), 3), Some(twin));
    }
}
