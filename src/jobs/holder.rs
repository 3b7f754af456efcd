//! The candidate for one duty: acts out the steps of the lease machine on a session of its own.
//!
//! Order matters in one place: the machine's step is published before it is acted on, and the duty's passes live
//! inside [`Holder::hold`]; so when a session is closed, belief is over and no pass is left to run.

use std::sync::Arc;
use std::time::Duration;

use super::Parts;
use super::belief::Publisher;
use super::effect::Effects;
use super::settings::JobsSettings;
use crate::domain::candidacy::{Input, Machine, Next, Wait};
use crate::domain::lease::{Belief, BeliefEnd, Duty, Fence, Seen};
use crate::domain::time::Boottime;
use crate::lifecycle::shutdown::Shutdown;
use crate::observe;
use crate::observe::jobs::{CampaignOutcome, RenewalOutcome};
use crate::store::leases::{self, Campaign, Candidate};
use crate::store::{Plane, Primary, PrimaryWatch, Session, StoreError};

/// Tries of one campaign: the second after the effect that held the fence was ended.
const TRIES_MAX: u32 = 2;
/// For each statement of giving a lease back; the drain waits for it.
const RESIGN_LIMIT: Duration = Duration::from_secs(2);

struct Lease {
    session: Session,
    primary: Arc<Primary>,
    has_lock: bool,
}

struct Holder {
    duty: Duty,
    settings: Arc<JobsSettings>,
    parts: Parts,
    publisher: Arc<Publisher>,
    shutdown: Shutdown,
    machine: Machine,
}

/// Runs until the drain has given the lease back, or the abort.
pub(super) async fn run(
    duty: Duty,
    settings: Arc<JobsSettings>,
    parts: Parts,
    publisher: Publisher,
    shutdown: Shutdown,
) {
    let publisher = Arc::new(publisher);
    let machine = Machine::new(settings.terms());
    let holder = Holder { duty, settings, parts, publisher: publisher.clone(), shutdown: shutdown.clone(), machine };
    let mut candidacy = Box::pin(holder.candidacy());
    tokio::select! {
        () = shutdown.aborting() => publisher.end(BeliefEnd::Abort),
        () = &mut candidacy => {}
    }
}

impl Holder {
    async fn candidacy(mut self) {
        let mut lease: Option<Lease> = None;
        let mut next = self.machine.start();
        loop {
            next = match (next, lease.take()) {
                (Next::Stop, _) => return,
                (Next::Connect { failures }, old) => {
                    drop(old);
                    let (opened, input) = self.connect(failures).await;
                    lease = opened;
                    self.step(input)
                }
                (_, None) => self.step(Input::SessionClosed),
                (Next::Campaign(wait), Some(mut mine)) => {
                    let next = self.follow(&mut mine, wait).await;
                    lease = Some(mine);
                    next
                }
                (hold @ Next::Hold { .. }, Some(mut mine)) => {
                    let next = self.hold(&mut mine, hold).await;
                    lease = Some(mine);
                    next
                }
                (Next::Resign(fence), Some(mine)) => {
                    self.resign(&mine, &fence).await;
                    self.step(Input::Resigned)
                }
            };
        }
    }

    /// Tells the machine, and publishes what it believes now before anybody acts on the answer.
    fn step(&mut self, input: Input) -> Next {
        let next = self.machine.step(self.parts.clock.boottime(), input);
        if let Some((_, why)) = self.machine.take_ended() {
            self.publisher.end(why);
        }
        if let Next::Hold { belief, .. } = next {
            self.publisher.believe(belief);
        }
        next
    }

    // ------------------------------------------------------------ apart

    async fn connect(&mut self, failures: u32) -> (Option<Lease>, Input) {
        let shutdown = self.shutdown.clone();
        tokio::select! {
            biased;
            () = shutdown.draining() => (None, Input::Drain),
            opened = self.open(failures) => match opened {
                Ok(lease) => (Some(lease), Input::Opened),
                Err(error) => {
                    tracing::warn!(duty = self.duty.as_str(), %error, "no lease session");
                    (None, Input::OpenFailed)
                }
            },
        }
    }

    async fn open(&mut self, failures: u32) -> Result<Lease, StoreError> {
        tokio::time::sleep(self.back_off(failures)).await;
        let found = self.parts.primary.wait_for(Option::is_some).await.ok().and_then(|found| found.clone());
        let Some(primary) = found else {
            // The tracker is gone: the process is about to drain.
            return std::future::pending().await;
        };
        let options = self.settings.lease_options();
        let session = Session::open(&self.parts.store, &primary.host, Plane::Lease, &options).await?;
        leases::listen(&session, self.parts.store.connect_deadline).await?;
        Ok(Lease { session, primary, has_lock: false })
    }

    fn back_off(&self, failures: u32) -> Duration {
        let (base, cap) = (self.settings.backoff_base_ms, self.settings.backoff_cap_ms);
        match failures.checked_sub(1) {
            None => Duration::ZERO,
            Some(n) => self.parts.random.full_jitter(Duration::from_millis(base), Duration::from_millis(cap), n),
        }
    }

    // ------------------------------------------------------------ following

    async fn follow(&mut self, lease: &mut Lease, wait: Wait) -> Next {
        let pause = match wait {
            Wait::Not => Duration::ZERO,
            Wait::Poll => self.parts.random.scale(Duration::from_millis(self.settings.poll_ms), 1.0, 1.2),
            Wait::BackOff(failures) => self.back_off(failures),
        };
        let shutdown = self.shutdown.clone();
        let rung = tokio::select! {
            biased;
            () = shutdown.draining() => return self.step(Input::Drain),
            () = other_primary(&mut self.parts.primary, &lease.primary) => return self.step(Input::PrimaryChanged),
            () = tokio::time::sleep(pause) => false,
            rung = lease.session.notified() => match rung {
                Some(_) => true,
                None => return self.step(Input::SessionClosed),
            },
        };
        if rung {
            let jitter = Duration::from_millis(self.settings.doorbell_jitter_ms);
            tokio::time::sleep(self.parts.random.scale(jitter, 0.0, 1.0)).await;
        }
        let input = self.campaign(lease).await;
        self.step(input)
    }

    async fn campaign(&mut self, lease: &mut Lease) -> Input {
        let duty = self.duty.as_str();
        let limit = self.answer_limit();
        for _ in 0..TRIES_MAX {
            let sent = self.parts.clock.boottime();
            let stale = self.machine.stale(sent);
            let error = match self.attempt(lease, stale, limit).await {
                Ok(Campaign::Won { fence, found }) => {
                    observe::jobs::campaign(duty, CampaignOutcome::Won);
                    let mine = Some(self.parts.replica.0);
                    if found.is_some_and(|found| found.seen.holder.is_some() && found.seen.holder != mine) {
                        observe::jobs::takeover(duty);
                    }
                    return Input::Won { sent, fence };
                }
                Ok(Campaign::Lost { found }) => {
                    observe::jobs::campaign(duty, CampaignOutcome::Lost);
                    return self.unlocked(lease, limit, Input::Lost(found.map(|found| found.seen))).await;
                }
                Err(error) => error,
            };
            observe::jobs::campaign(duty, CampaignOutcome::Failed);
            tracing::warn!(duty, %error, "a campaign failed");
            let late = self.parts.clock.boottime().since(sent) >= limit;
            if late || lease.session.is_closed() {
                return Input::CampaignFailed { usable: false };
            }
            if !self.unblock(lease, stale, limit).await {
                break;
            }
        }
        self.unlocked(lease, limit, Input::CampaignFailed { usable: true }).await
    }

    async fn attempt(&self, lease: &mut Lease, stale: Option<Seen>, limit: Duration) -> Result<Campaign, StoreError> {
        if !lease.has_lock {
            lease.has_lock = leases::try_lock(&lease.session, self.duty.as_str(), limit).await?;
        }
        leases::campaign(&lease.session, &self.candidate(), lease.has_lock, stale, limit).await
    }

    /// A campaign that waited in vain for a winnable lease's fence ends the backend that holds it.
    async fn unblock(&self, lease: &Lease, stale: Option<Seen>, limit: Duration) -> bool {
        match leases::unblock(&lease.session, &self.candidate(), lease.has_lock, stale, limit).await {
            Ok(ended) => {
                if ended {
                    tracing::warn!(duty = self.duty.as_str(), "ended a former holder's effect, which held the fence");
                    observe::jobs::effect_ended(self.duty.as_str());
                }
                ended
            }
            Err(error) => {
                tracing::warn!(duty = self.duty.as_str(), %error, "the effect in the way could not be ended");
                false
            }
        }
    }

    /// A loser gives the advisory lock back at once. If it cannot, the session has to go.
    async fn unlocked(&self, lease: &mut Lease, limit: Duration, input: Input) -> Input {
        if !lease.has_lock {
            return input;
        }
        match leases::unlock(&lease.session, limit).await {
            Ok(()) => {
                lease.has_lock = false;
                input
            }
            Err(_) => Input::CampaignFailed { usable: false },
        }
    }

    /// An answer after this is worth nothing, since trust counts from the sending.
    fn answer_limit(&self) -> Duration {
        self.settings.terms().trust()
    }

    fn candidate(&self) -> Candidate<'_> {
        Candidate {
            role: self.duty.as_str(),
            holder: self.parts.replica,
            addr: &self.parts.addr,
            ttl: self.settings.terms().ttl,
        }
    }

    // ------------------------------------------------------------ holding

    /// Does the duty and renews, until belief ends. The passes are dropped on the way out.
    async fn hold(&mut self, lease: &mut Lease, mut next: Next) -> Next {
        let effects = Effects::new(self.duty, self.settings.clone(), self.parts.clone(), self.publisher.believer());
        let mut passes = std::pin::pin!(effects.passes());
        let shutdown = self.shutdown.clone();
        let mut primary = self.parts.primary.clone();
        while let Next::Hold { belief, renew_at } = next {
            let input = tokio::select! {
                biased;
                () = shutdown.draining() => Input::Drain,
                () = lease.session.closed() => Input::SessionClosed,
                () = other_primary(&mut primary, &lease.primary) => Input::PrimaryChanged,
                () = self.sleep_until(belief.trust_until) => Input::Tick,
                () = &mut passes => Input::Deposed,
                (has_lock, input) = self.renew(lease, &belief, renew_at) => {
                    lease.has_lock = has_lock;
                    input
                }
            };
            next = self.step(input);
        }
        if let Next::Resign(_) = next {
            // Belief has been declared over: the passes end after the statement that is under way.
            let limit = Duration::from_millis(self.settings.effect_timeout_ms);
            let _ = tokio::time::timeout(limit, &mut passes).await;
        }
        next
    }

    /// Waits for the time of the renewal and sends it. A late answer is waited for until trust ends: the socket
    /// stays open so long. Does the session hold the advisory lock, and what became of the renewal?
    async fn renew(&self, lease: &Lease, belief: &Belief, renew_at: Boottime) -> (bool, Input) {
        self.sleep_until(renew_at).await;
        let left = || belief.trust_until.since(self.parts.clock.boottime());
        let has_lock =
            lease.has_lock || leases::try_lock(&lease.session, self.duty.as_str(), left()).await.unwrap_or(false);
        let sent = self.parts.clock.boottime();
        let outcome = leases::renew(&lease.session, &self.candidate(), &belief.fence, has_lock, left()).await;
        let (label, input) = match outcome {
            Ok(true) => (RenewalOutcome::Renewed, Input::Renewed { sent }),
            Ok(false) => (RenewalOutcome::Void, Input::RenewalVoid),
            Err(error) => {
                tracing::warn!(duty = self.duty.as_str(), %error, "a renewal failed");
                (RenewalOutcome::Failed, Input::RenewalFailed)
            }
        };
        observe::jobs::renewal(self.duty.as_str(), label);
        (has_lock, input)
    }

    async fn sleep_until(&self, at: Boottime) {
        tokio::time::sleep(at.since(self.parts.clock.boottime())).await;
    }

    /// Gives the lease back, and rings for the followers once that is committed. What fails here heals by expiry.
    async fn resign(&self, lease: &Lease, fence: &Fence) {
        let limit = RESIGN_LIMIT;
        let resigned = leases::resign(&lease.session, self.parts.replica, fence, limit).await;
        match resigned {
            Ok(true) => {
                let _ = leases::unlock(&lease.session, limit).await;
                let _ = leases::ring(&lease.session, limit).await;
                tracing::info!(duty = self.duty.as_str(), epoch = fence.epoch, "gave the lease back");
            }
            Ok(false) => {}
            Err(error) => tracing::warn!(duty = self.duty.as_str(), %error, "the lease was not given back"),
        }
    }
}

/// Resolves when another primary than `mine` is followed. No primary at all changes nothing: belief ends by itself.
async fn other_primary(watch: &mut PrimaryWatch, mine: &Arc<Primary>) {
    let gone = watch.wait_for(|now| now.as_ref().is_some_and(|now| now != mine)).await.is_err();
    if gone {
        std::future::pending::<()>().await;
    }
}
