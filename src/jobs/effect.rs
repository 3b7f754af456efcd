//! The effect session of a duty, and the loop of its passes. A session belongs to one fence: its pid stands in the
//! lease's row before the first effect, so that a successor can end it.

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Instant;

use super::belief::Believer;
use super::outlook::Outlook;
use super::settings::JobsSettings;
use super::{Parts, partitions, sweeper};
use crate::domain::lease::{Duty, Fence};
use crate::observe;
use crate::observe::jobs::PassOutcome;
use crate::store::{Fault, Plane, Session, StoreError, leases};

/// Rows that one fenced statement may change.
pub(super) const ROWS_MAX: i64 = 500;
/// How long after the server's own limit an answer is waited for.
const ANSWER_GRACE: Duration = Duration::from_millis(500);

/// Why a pass ends early.
#[derive(Debug)]
pub(super) enum Stop {
    /// Another token stands in the database.
    Deposed,
    BeliefEnded,
    Store(StoreError),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// What a duty acts with: belief, and the session that carries its effects.
pub(super) struct Effects {
    duty: Duty,
    settings: Arc<JobsSettings>,
    parts: Parts,
    believer: Believer,
    session: Option<(Fence, Session)>,
}

impl Effects {
    pub(super) fn new(duty: Duty, settings: Arc<JobsSettings>, parts: Parts, believer: Believer) -> Self {
        Self { duty, settings, parts, believer, session: None }
    }

    pub(super) fn settings(&self) -> &JobsSettings {
        &self.settings
    }

    /// This replica's wall clock.
    pub(super) fn wall(&self) -> OffsetDateTime {
        self.parts.clock.wall()
    }

    /// The bound of one statement on our side, a little after the server's.
    pub(super) fn limit(&self) -> Duration {
        Duration::from_millis(self.settings.effect_timeout_ms) + ANSWER_GRACE
    }

    /// The session and the fence for the next effect. To be asked for before each.
    pub(super) async fn ready(&mut self) -> Result<(&Session, Fence), Stop> {
        let fence = self.believer.fence().ok_or(Stop::BeliefEnded)?;
        let kept = self.session.take().filter(|(of, session)| *of == fence && !session.is_closed());
        let session = match kept {
            Some((_, session)) => session,
            None => self.open(&fence).await?,
        };
        // Opening takes time: look again.
        if self.believer.fence() != Some(fence) {
            return Err(Stop::BeliefEnded);
        }
        let (fence, session) = self.session.insert((fence, session));
        Ok((session, *fence))
    }

    async fn open(&self, fence: &Fence) -> Result<Session, Stop> {
        let session = self.connect(&self.settings.effect_options()).await?;
        if !leases::become_effect(&session, self.parts.replica, fence, self.limit()).await? {
            return Err(Stop::Deposed);
        }
        Ok(session)
    }

    /// A session of the lease plane to the primary, for what cannot be done on the effect session.
    pub(super) async fn connect(&self, options: &str) -> Result<Session, StoreError> {
        let primary = self.parts.primary.borrow().clone();
        let Some(primary) = primary else {
            return Err(StoreError::new("connect", Fault::Unavailable, "no primary answers"));
        };
        Session::open(&self.parts.store, &primary.host, Plane::Lease, options).await
    }

    /// Passes, one after the other, until this replica is deposed or its belief is declared over.
    pub(super) async fn passes(mut self) {
        let mut outlook = Outlook::default();
        loop {
            let begun = Instant::now();
            let outcome = self.pass(&mut outlook).await;
            observe::jobs::pass(self.duty.as_str(), outcome, begun.elapsed());
            let wait = match outcome {
                PassOutcome::Deposed => return,
                PassOutcome::Failed => {
                    // Whatever the session was doing may still go on; the next one ends it.
                    self.session = None;
                    outlook = Outlook::default();
                    self.retry_after()
                }
                _ => self.interval().saturating_sub(begun.elapsed()),
            };
            tokio::select! {
                () = self.believer.ended() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn pass(&mut self, outlook: &mut Outlook) -> PassOutcome {
        let duty = self.duty;
        let outcome = match duty {
            Duty::Sweeper => sweeper::pass(self, outlook).await,
            Duty::Partitions => partitions::pass(self).await,
        };
        outcome.unwrap_or_else(|stop| match stop {
            Stop::Deposed => PassOutcome::Deposed,
            Stop::BeliefEnded => PassOutcome::BeliefEnded,
            Stop::Store(error) => {
                tracing::warn!(duty = duty.as_str(), %error, "a pass failed");
                PassOutcome::Failed
            }
        })
    }

    /// Between two passes.
    pub(super) fn interval(&self) -> Duration {
        Duration::from_millis(match self.duty {
            Duty::Sweeper => self.settings.sweep_interval_ms,
            Duty::Partitions => self.settings.partitions_interval_ms,
        })
    }

    fn retry_after(&self) -> Duration {
        let base = Duration::from_millis(self.settings.sweep_interval_ms);
        self.parts.random.scale(base, 0.5, 1.5)
    }
}
