//! Leases and the duties done under them.

use std::time::Duration;

use super::{Metric, counter, gauge, seconds};

const HELD: &str = "everbeat_jobs_lease_held";
const EPOCH: &str = "everbeat_jobs_lease_epoch";
const CAMPAIGNS: &str = "everbeat_jobs_campaigns_total";
const RENEWALS: &str = "everbeat_jobs_renewals_total";
const TAKEOVERS: &str = "everbeat_jobs_takeovers_total";
const BELIEF_ENDS: &str = "everbeat_jobs_belief_ends_total";
const UNBLOCKED: &str = "everbeat_jobs_effects_ended_total";
const PASSES: &str = "everbeat_jobs_passes_total";
const PASS: &str = "everbeat_jobs_pass_seconds";
const LOOK: &str = "everbeat_jobs_look_seconds";

pub(super) const METRICS: &[Metric] = &[
    gauge(HELD, "1 while this replica believes that it holds the duty's lease, else 0."),
    gauge(EPOCH, "Epoch of the duty's lease that this replica won last."),
    counter(CAMPAIGNS, "Campaigns for a lease, by duty and outcome."),
    counter(RENEWALS, "Renewals of a lease, by duty and outcome."),
    counter(TAKEOVERS, "Leases won that another replica had held before, by duty."),
    counter(BELIEF_ENDS, "Times this replica ceased to believe that it holds a lease, by duty and reason."),
    counter(UNBLOCKED, "Effect backends of a former holder that were ended because they held the fence, by duty."),
    counter(PASSES, "Passes of a duty, by duty and outcome."),
    seconds(PASS, "Time of one pass of a duty."),
    seconds(LOOK, "Time of one look through all of presence for devices that may fall due; large tables have few."),
];

/// How a campaign ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CampaignOutcome {
    Won,
    Lost,
    Failed,
}

impl CampaignOutcome {
    const ALL: [Self; 3] = [Self::Won, Self::Lost, Self::Failed];

    fn as_str(self) -> &'static str {
        match self {
            Self::Won => "won",
            Self::Lost => "lost",
            Self::Failed => "failed",
        }
    }
}

/// How a renewal ended. One that is not answered before trust ends is not counted here but as an end of belief.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenewalOutcome {
    Renewed,
    /// It matched no row.
    Void,
    Failed,
}

impl RenewalOutcome {
    const ALL: [Self; 3] = [Self::Renewed, Self::Void, Self::Failed];

    fn as_str(self) -> &'static str {
        match self {
            Self::Renewed => "renewed",
            Self::Void => "void",
            Self::Failed => "failed",
        }
    }
}

/// How one pass of a duty ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PassOutcome {
    Done,
    NothingDue,
    /// The write path was not proved fresh, so nobody's silence counts.
    TickNotFresh,
    Failed,
    /// The fence was another's.
    Deposed,
    /// Belief ended during the pass.
    BeliefEnded,
}

impl PassOutcome {
    const ALL: [Self; 6] =
        [Self::Done, Self::NothingDue, Self::TickNotFresh, Self::Failed, Self::Deposed, Self::BeliefEnded];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::NothingDue => "nothing_due",
            Self::TickNotFresh => "tick_not_fresh",
            Self::Failed => "failed",
            Self::Deposed => "deposed",
            Self::BeliefEnded => "belief_ended",
        }
    }
}

/// Starts the series of one duty at zero. `reasons`: why belief may end.
pub fn zero(duty: &'static str, reasons: impl Iterator<Item = &'static str>) {
    metrics::gauge!(HELD, "duty" => duty).set(0.0);
    metrics::counter!(TAKEOVERS, "duty" => duty).absolute(0);
    metrics::counter!(UNBLOCKED, "duty" => duty).absolute(0);
    for outcome in CampaignOutcome::ALL {
        metrics::counter!(CAMPAIGNS, "duty" => duty, "outcome" => outcome.as_str()).absolute(0);
    }
    for outcome in RenewalOutcome::ALL {
        metrics::counter!(RENEWALS, "duty" => duty, "outcome" => outcome.as_str()).absolute(0);
    }
    for outcome in PassOutcome::ALL {
        metrics::counter!(PASSES, "duty" => duty, "outcome" => outcome.as_str()).absolute(0);
    }
    for reason in reasons {
        metrics::counter!(BELIEF_ENDS, "duty" => duty, "reason" => reason).absolute(0);
    }
}

pub fn campaign(duty: &'static str, outcome: CampaignOutcome) {
    metrics::counter!(CAMPAIGNS, "duty" => duty, "outcome" => outcome.as_str()).increment(1);
}

pub fn takeover(duty: &'static str) {
    metrics::counter!(TAKEOVERS, "duty" => duty).increment(1);
}

pub fn renewal(duty: &'static str, outcome: RenewalOutcome) {
    metrics::counter!(RENEWALS, "duty" => duty, "outcome" => outcome.as_str()).increment(1);
}

pub fn effect_ended(duty: &'static str) {
    metrics::counter!(UNBLOCKED, "duty" => duty).increment(1);
}

#[expect(clippy::cast_precision_loss, reason = "an epoch counts take-overs, and 2^53 of them do not happen")]
pub fn belief_began(duty: &'static str, epoch: i64) {
    metrics::gauge!(HELD, "duty" => duty).set(1.0);
    metrics::gauge!(EPOCH, "duty" => duty).set(epoch as f64);
}

pub fn belief_ended(duty: &'static str, reason: &'static str) {
    metrics::gauge!(HELD, "duty" => duty).set(0.0);
    metrics::counter!(BELIEF_ENDS, "duty" => duty, "reason" => reason).increment(1);
}

pub fn pass(duty: &'static str, outcome: PassOutcome, took: Duration) {
    metrics::counter!(PASSES, "duty" => duty, "outcome" => outcome.as_str()).increment(1);
    metrics::histogram!(PASS, "duty" => duty).record(took.as_secs_f64());
}

/// The sweeper has looked through all of presence.
pub fn looked(took: Duration) {
    metrics::histogram!(LOOK).record(took.as_secs_f64());
}
