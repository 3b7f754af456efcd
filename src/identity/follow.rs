//! The follower: reads the change log on a session of its own, and keeps the caches and their freshness.
//!
//! A round is: write the replica's own row (the tick), read the log, apply it, and only then call the send time of
//! the tick a proof. Between rounds the bell leads to a read without a tick. After any reconnect: LISTEN first, then
//! catch up, then trust. A new timeline, or an absence that the log's retention might not cover, drops everything.
//!
//! A tick may wait for the standby. The session is then kept, for an abandoned backend goes on waiting and occupies
//! a slot; it is left when the tracker names another primary or none.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::Instant;

use super::keyring::Keyring;
use super::reached::Reached;
use super::records::Records;
use crate::domain::ids::ReplicaId;
use crate::domain::random::Random;
use crate::domain::time::Clock;
use crate::lifecycle::readiness::{Check, Readiness};
use crate::lifecycle::shutdown::Shutdown;
use crate::observe::identity as observe;
use crate::store::changes::Freshness;
use crate::store::follow::{self, Cursor};
use crate::store::{Fault, Plane, Primary, PrimaryWatch, Session, StoreError, StoreSettings};

/// Between two rounds: the fallback for a bell that nobody heard, and a fifth of the time after which we are blind.
const ROUND: Duration = Duration::from_secs(2);
/// One read. Longer than a busy database takes, shorter than the time to blindness.
const READ_LIMIT: Duration = Duration::from_secs(3);
/// One tick; see above for why it is long.
const TICK_LIMIT: Duration = Duration::from_mins(1);
/// An absence longer than this drops everything: the log is kept for longer, and nobody was served meanwhile.
const ABSENCE_MAX: Duration = Duration::from_mins(5);
/// How often readiness and the metric look at the proof.
const WATCH: Duration = Duration::from_millis(500);
const RETRY_BASE: Duration = Duration::from_millis(50);
const RETRY_CAP: Duration = Duration::from_secs(1);

pub(super) struct Follower {
    pub(super) records: Arc<Records>,
    pub(super) keyring: Keyring,
    pub(super) freshness: Freshness,
    pub(super) readiness: Readiness,
    pub(super) store: Arc<StoreSettings>,
    pub(super) replica: ReplicaId,
    pub(super) addr: String,
    pub(super) clock: Clock,
    pub(super) random: Random,
}

/// What is kept from one session to the next.
#[derive(Default)]
struct State {
    cursor: Cursor,
    keys_loaded: bool,
    failures: u32,
}

impl Follower {
    /// Runs until the abort: requests that are being finished during a drain still need to know who calls.
    pub(super) async fn run(self, primary: PrimaryWatch, shutdown: Shutdown) {
        tokio::select! {
            () = shutdown.aborting() => {}
            () = self.follow(primary) => {}
            () = self.watch() => {}
        }
    }

    async fn watch(&self) {
        loop {
            self.readiness.set(Check::ChangeLog, self.freshness.is_fresh());
            observe::proof_age(self.freshness.blind_for());
            tokio::time::sleep(WATCH).await;
        }
    }

    /// Ends when there is no tracker any more.
    async fn follow(&self, mut watch: PrimaryWatch) {
        let mut state = State::default();
        loop {
            let Ok(Some(primary)) = watch.wait_for(Option::is_some).await.map(|now| now.clone()) else { return };
            let ended = tokio::select! {
                ended = self.session(&primary, &mut state) => ended,
                moved = watch.wait_for(|now| now.as_deref() != Some(&*primary)) => match moved {
                    Ok(_) => continue,
                    Err(_) => return,
                },
            };
            if let Err(error) = ended {
                tracing::warn!(%error, "the change log cannot be followed; trying again");
            }
            tokio::time::sleep(self.random.full_jitter(RETRY_BASE, RETRY_CAP, state.failures)).await;
            state.failures = state.failures.saturating_add(1);
        }
    }

    async fn session(&self, primary: &Primary, state: &mut State) -> Result<(), StoreError> {
        let mut session = Session::open(&self.store, &primary.host, Plane::Lease, "-c lock_timeout=1000").await?;
        observe::session_opened();
        follow::listen(&session, READ_LIMIT).await?;
        loop {
            let begun = Instant::now();
            self.round(&session, state).await?;
            state.failures = 0;
            self.readiness.set(Check::ChangeLog, self.freshness.is_fresh());
            while let Ok(rung) = tokio::time::timeout_at(begun + ROUND, session.notified()).await {
                if rung.is_none() {
                    return Err(StoreError::new("listen", Fault::Unavailable, "the session ended"));
                }
                while session.notified().now_or_never().flatten().is_some() {}
                self.catch_up(&session, state).await?;
            }
        }
    }

    async fn round(&self, session: &Session, state: &mut State) -> Result<(), StoreError> {
        let sent = self.clock.boottime();
        let timeline = follow::tick(session, self.replica, &self.addr, TICK_LIMIT).await?;
        let followed = self.records.position.timeline();
        if timeline < followed {
            return Err(StoreError::new("replica_tick", Fault::Unavailable, "a primary of an older timeline"));
        }
        if timeline != followed || !state.cursor.is_set() || self.freshness.blind_for() > ABSENCE_MAX {
            self.start_over(session, state, timeline).await?;
        }
        self.catch_up(session, state).await?;
        self.freshness.prove(sent);
        Ok(())
    }

    /// Places the cursor before anything is loaded that is to be kept.
    async fn start_over(&self, session: &Session, state: &mut State, timeline: i32) -> Result<(), StoreError> {
        tracing::info!(timeline, "following the change log from here; every cache is empty");
        self.freshness.forget();
        let (_, cursor) = follow::read(session, &Cursor::default(), READ_LIMIT).await?;
        self.records.restart(timeline);
        *state = State { cursor, keys_loaded: false, failures: state.failures };
        Ok(())
    }

    async fn catch_up(&self, session: &Session, state: &mut State) -> Result<(), StoreError> {
        let (batch, moved) = follow::read(session, &state.cursor, READ_LIMIT).await?;
        // Only what was applied moves the cursor: this may be dropped at any await.
        let keys_changed = self.records.apply(&batch).await;
        (state.keys_loaded, state.cursor) = (state.keys_loaded && !keys_changed, moved);
        if let Some(xmin) = state.cursor.xmin() {
            self.records.reached.set(Reached { timeline: self.records.position.timeline(), xmin });
        }
        if !state.keys_loaded {
            let keys = follow::keys(session, READ_LIMIT).await?;
            let trusted = self.records.trust(&keys.token_keys);
            trusted.map_err(|error| StoreError::new("token_keys_trusted", Fault::Refused, error.to_string()))?;
            self.keyring.publish(keys);
            state.keys_loaded = true;
        }
        Ok(())
    }
}
