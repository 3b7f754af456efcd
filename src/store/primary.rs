//! Who is the primary? Every host is probed at its own pace, each time under one deadline, so that one that stands
//! still delays nobody. Of those that call themselves writable the highest timeline wins, and never a lower one than
//! was seen before: with Patroni frozen, an old primary goes on calling itself writable. The pools get that one host.
//!
//! A higher timeline than the followed one decides at once, and a still higher one after it again. At the start there
//! is nothing to compare with, so nobody is followed before every host has answered or let its deadline pass.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::Policy;
use super::error::{Fault, StoreError};
use super::session::Session;
use super::settings::{Plane, StoreSettings};
use crate::lifecycle::tasks::{self, Tasks};
use crate::observe;

/// Between two probes of one host: a new primary is noticed this long after it takes writes, and a statement later.
const PAUSE: Duration = Duration::from_millis(500);
/// One probe: a connection if need be (it may be there only for a later one), and one statement.
const PROBE_DEADLINE: Duration = Duration::from_secs(1);
/// A primary that misses this many probes in a row is not offered to anybody until it answers again.
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

/// How many synchronous standbys follow the primary; `None` while none is followed.
pub type StandbyWatch = watch::Receiver<Option<u32>>;

/// What the tracker tells.
#[derive(Clone)]
pub struct Tracked {
    pub primary: PrimaryWatch,
    pub standbys: StandbyWatch,
}

/// Starts the tracker.
pub fn track(settings: Arc<StoreSettings>, tasks: &Tasks) -> Tracked {
    let (sender, primary) = watch::channel(None);
    let (standbys_sender, standbys) = watch::channel(None);
    let policy = settings.durability;
    let shutdown = tasks.shutdown().clone();
    tasks.foundation("primary-tracker", async move {
        let mut tracker = Tracker::new(settings.hosts.len());
        let mut visits: FuturesUnordered<_> =
            Node::all(&settings).map(|node| node.visit(&settings, Duration::ZERO)).collect();
        loop {
            let visited = tokio::select! {
                () = shutdown.aborting() => return,
                visited = visits.next() => visited,
            };
            let Some((node, answer)) = visited else { return };
            let found = tracker.hear(node.index, &node.host, answer);
            visits.push(node.visit(&settings, PAUSE));
            let count = found.as_ref().map(|_| tracker.standbys);
            if standbys_sender.send_replace(count) != count {
                tell(policy, count);
            }
            sender.send_if_modified(|current| {
                let changed = current.as_deref() != found.as_deref();
                if changed {
                    *current = found;
                }
                changed
            });
        }
    });
    Tracked { primary, standbys }
}

fn tell(policy: Policy, standbys: Option<u32>) {
    observe::store::sync_standbys(standbys.unwrap_or(0));
    match (standbys, policy) {
        (None, _) => {}
        (Some(0), Policy::Single) => tracing::info!("no synchronous standby, as durability.policy = \"single\" says"),
        (Some(0), Policy::Accept) => {
            tracing::error!("no synchronous standby: what is acknowledged now is on the primary alone");
        }
        (Some(0), Policy::Refuse) => tracing::error!(
            "no synchronous standby, and durability.policy is \"refuse\": no reading and no change is acknowledged \
             until there is one; for a database that is one server on purpose, set durability.policy = \"single\""
        ),
        (Some(standbys), _) => tracing::info!(standbys, "synchronous standbys follow the primary"),
    }
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
            match writable(settings, host, Plane::Owner).await {
                Ok(true) => return Ok(host.clone()),
                Ok(false) => reasons.push(format!("{}:{} is a standby", host.0, host.1)),
                Err(error) => reasons.push(format!("{}:{}: {}", host.0, host.1, error.detail)),
            }
        }
        if tokio::time::Instant::now() >= deadline {
            return Err(format!("no primary was found: {}", reasons.join("; ")));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Does the host take writes? Asked as the user of `plane`.
///
/// # Errors
/// When that user cannot connect, or gets no answer.
pub async fn writable(settings: &StoreSettings, host: &(String, u16), plane: Plane) -> Result<bool, StoreError> {
    let session = Session::open(settings, host, plane, "").await?;
    let rows = session.query(&PROBE, &[], PROBE_DEADLINE).await?;
    Ok(rows.first().is_some_and(|row| row.get::<_, Option<i32>>("timeline").is_some()))
}

struct Node {
    index: usize,
    host: (String, u16),
    session: Option<Session>,
    /// The connection that is being made, also between two probes: one that takes longer than a probe (a host under
    /// load, a long way) would otherwise be begun anew each time, and never be there.
    opening: Option<AbortOnDropHandle<Result<Session, StoreError>>>,
}

/// A node that takes writes, and how many synchronous standbys it has.
type Writable = (Primary, u32);

impl Node {
    fn all(settings: &StoreSettings) -> impl Iterator<Item = Self> {
        let hosts = settings.hosts.iter().cloned().enumerate();
        hosts.map(|(index, host)| Self { index, host, session: None, opening: None })
    }

    async fn connect(&mut self, settings: &Arc<StoreSettings>) -> Result<Session, StoreError> {
        let opening = self.opening.get_or_insert_with(|| {
            let (settings, host) = (settings.clone(), self.host.clone());
            let open = async move { Session::open(&settings, &host, Plane::Lease, "").await };
            AbortOnDropHandle::new(tasks::spawn(open))
        });
        let opened = opening.await;
        self.opening = None;
        opened.unwrap_or_else(|panicked| Err(StoreError::new("connect", Fault::Unavailable, panicked.to_string())))
    }

    /// Probes it after `pause`.
    async fn visit(mut self, settings: &Arc<StoreSettings>, pause: Duration) -> (Self, Option<Writable>) {
        tokio::time::sleep(pause).await;
        let answer = self.probe(settings).await;
        (self, answer)
    }

    /// `None`: no answer, or it takes no writes.
    async fn probe(&mut self, settings: &Arc<StoreSettings>) -> Option<Writable> {
        let is_new = self.session.as_ref().is_none_or(Session::is_closed);
        let probe = async {
            if is_new {
                self.session = Some(self.connect(settings).await?);
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
                // One that has only just been made had no time to answer.
                self.session = self.session.take().filter(|_| is_new);
                return None;
            }
        };
        let row = rows.first()?;
        let timeline: Option<i32> = row.get("timeline");
        let found =
            Primary { host: self.host.clone(), timeline: timeline?, postmaster_start: row.get("postmaster_start") };
        let standbys: i64 = row.get("sync_standbys");
        Some((found, u32::try_from(standbys).unwrap_or(u32::MAX)))
    }
}

/// What the answers come to.
struct Tracker {
    hosts: usize,
    /// Each host's last answer, once it was heard.
    answers: BTreeMap<usize, Option<Writable>>,
    current: Option<Arc<Primary>>,
    timeline_seen: i32,
    /// Probes in a row that the followed one did not answer as a primary.
    misses: u32,
    /// Of the current one, when it answered last.
    standbys: u32,
}

impl Tracker {
    fn new(hosts: usize) -> Self {
        Self { hosts, answers: BTreeMap::new(), current: None, timeline_seen: 0, misses: 0, standbys: 0 }
    }

    /// Takes one host's answer, and says whom to follow.
    fn hear(&mut self, index: usize, host: &(String, u16), answer: Option<Writable>) -> Option<Arc<Primary>> {
        let is_miss = answer.is_none() && self.current.as_ref().is_some_and(|current| current.host == *host);
        self.answers.insert(index, answer);
        if is_miss {
            self.misses = self.misses.saturating_add(1);
        }
        // At the start the first to answer may be a zombie.
        if self.current.is_some() || self.answers.len() == self.hosts {
            self.decide();
        }
        let reachable = self.misses < MISSES_MAX && self.current.is_some();
        observe::store::primary_reachable(reachable);
        if reachable { self.current.clone() } else { None }
    }

    fn decide(&mut self) {
        let writable = self.answers.values().flatten();
        let Some((best, standbys)) = choose(writable, self.current.as_deref(), self.timeline_seen).cloned() else {
            return;
        };
        (self.misses, self.standbys, self.timeline_seen) = (0, standbys, best.timeline);
        if self.current.as_deref() != Some(&best) {
            let (host, port) = &best.host;
            tracing::info!(host, port, timeline = best.timeline, "following the primary");
            observe::store::primary_changed(best.timeline);
            self.current = Some(Arc::new(best));
        }
    }
}

/// Of the writable nodes, the one with the highest timeline, if that is no lower than `seen`.
/// Where two claim the same timeline, the one that is followed already.
fn choose<'a>(
    writable: impl Iterator<Item = &'a Writable>,
    current: Option<&Primary>,
    seen: i32,
) -> Option<&'a Writable> {
    writable
        .filter(|(node, _)| node.timeline >= seen)
        .max_by_key(|(node, _)| (node.timeline, current.is_some_and(|current| current.host == node.host)))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::super::settings::{Login, TlsMode};
    use super::*;

    const HOSTS: [&str; 3] = ["a", "b", "c"];

    fn host(index: usize) -> (String, u16) {
        (HOSTS[index].to_owned(), 5432)
    }

    /// The host that is followed once `index` has answered: on a timeline, or not as a primary.
    fn hear(tracker: &mut Tracker, index: usize, timeline: Option<i32>) -> Option<String> {
        let answer = timeline.map(|timeline| {
            let primary = Primary { host: host(index), timeline, postmaster_start: OffsetDateTime::UNIX_EPOCH };
            (primary, u32::try_from(index).unwrap())
        });
        tracker.hear(index, &host(index), answer).map(|found| found.host.0.clone())
    }

    fn following_a_on_3() -> Tracker {
        let mut tracker = Tracker::new(3);
        assert_eq!(hear(&mut tracker, 0, Some(3)), None, "the others may be ahead");
        assert_eq!(hear(&mut tracker, 1, None), None);
        assert_eq!(hear(&mut tracker, 2, None).as_deref(), Some("a"));
        tracker
    }

    #[test]
    fn at_the_start_everybody_is_heard_first() {
        let mut tracker = Tracker::new(3);
        assert_eq!(hear(&mut tracker, 0, Some(3)), None);
        assert_eq!(hear(&mut tracker, 0, Some(3)), None, "a quick host counts once");
        assert_eq!(hear(&mut tracker, 2, None), None);
        assert_eq!(hear(&mut tracker, 1, Some(4)).as_deref(), Some("b"));
        assert_eq!(tracker.standbys, 1);
    }

    #[test]
    fn a_higher_timeline_decides_at_once_and_a_lower_one_never() {
        let mut tracker = following_a_on_3();
        assert_eq!(hear(&mut tracker, 1, Some(4)).as_deref(), Some("b"), "a has not answered since");
        assert_eq!(hear(&mut tracker, 0, Some(3)).as_deref(), Some("b"), "a zombie");
        assert_eq!(hear(&mut tracker, 2, Some(5)).as_deref(), Some("c"));
        for _ in 0..MISSES_MAX {
            hear(&mut tracker, 2, None);
        }
        assert_eq!(hear(&mut tracker, 1, Some(4)), None, "an old primary that is alone is not followed");
        assert_eq!(hear(&mut tracker, 2, Some(5)).as_deref(), Some("c"));
    }

    #[test]
    fn of_two_on_one_timeline_the_followed_one_stays_while_it_answers() {
        let mut tracker = following_a_on_3();
        assert_eq!(hear(&mut tracker, 1, Some(3)).as_deref(), Some("a"));
        assert_eq!(hear(&mut tracker, 0, None).as_deref(), Some("b"));
        assert_eq!(hear(&mut tracker, 0, Some(3)).as_deref(), Some("b"));
    }

    #[test]
    fn only_the_followed_ones_own_misses_count() {
        let mut tracker = following_a_on_3();
        for _ in 0..9 {
            assert_eq!(hear(&mut tracker, 1, None).as_deref(), Some("a"));
        }
        assert_eq!(hear(&mut tracker, 0, None).as_deref(), Some("a"), "one may be lost");
        assert_eq!(hear(&mut tracker, 0, Some(3)).as_deref(), Some("a"));
        assert_eq!(hear(&mut tracker, 0, None).as_deref(), Some("a"));
        assert_eq!(hear(&mut tracker, 0, None), None);
        assert_eq!(hear(&mut tracker, 0, Some(3)).as_deref(), Some("a"));
    }

    #[tokio::test]
    async fn a_connection_that_takes_longer_than_a_probe_is_not_begun_anew() {
        // It accepts, and is never heard of.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let login = || Login { user: "u".to_owned(), password: String::new().into() };
        let settings = Arc::new(StoreSettings {
            hosts: vec![("127.0.0.1".to_owned(), listener.local_addr().unwrap().port())],
            database: "d".to_owned(),
            tls: TlsMode::Disable,
            ca_file: None,
            owner: None,
            control: login(),
            fleet: login(),
            lease: login(),
            durability: Policy::Single,
            control_connections_max: 1,
            fleet_connections_max: 1,
            connect_deadline: Duration::from_mins(1),
            statement_deadline: Duration::from_mins(1),
        });
        let mut node = Node::all(&settings).next().unwrap();
        assert!(node.probe(&settings).await.is_none());
        let _first = listener.accept().await.unwrap();
        assert!(node.probe(&settings).await.is_none());
        let second = tokio::time::timeout(Duration::from_millis(1), listener.accept()).await;
        assert!(second.is_err(), "the first is waited for");
    }
}
