//! Work that one replica does for all, under a lease (design: leases). For each [`Duty`] one essential task:
//!
//! - [`holder`] keeps a session of its own, campaigns, renews, and steps down; what it may believe is decided by the
//!   pure machine in `domain::candidacy`.
//! - While it believes, it drives the duty's passes ([`sweeper`], [`partitions`]) in the same task, so that no pass
//!   runs after belief has ended: the passes are dropped before the lease session is closed.
//! - Silence is judged once a second, and the table of presence looked through as seldom as its size asks for: what may
//!   fall due meanwhile is remembered ([`outlook`]).
//! - [`effect`] is the dedicated session for the duty's statements. Each that writes carries the fence, one is under way
//!   at a time, each is small; so the fence never keeps a successor out for longer than one statement.
//!
//! Invariants: every write of a duty is void under a lower token than the database's (exact); two replicas believe
//! at once only while one of them is paused, and then its writes are void.
//!
//! Absent on purpose: consensus (the database has it), and a queue of jobs (every pass looks for what is due).

mod belief;
mod effect;
mod expiry;
mod holder;
mod outlook;
mod partitions;
pub mod settings;
mod sweeper;

use std::sync::Arc;

pub use belief::Beliefs;
pub use settings::JobsSettings;

use crate::domain::ids::ReplicaId;
use crate::domain::lease::{BeliefEnd, Duty};
use crate::domain::random::Random;
use crate::domain::time::Clock;
use crate::lifecycle::tasks::Tasks;
use crate::observe;
use crate::store::{PrimaryWatch, StoreSettings};

/// What the duties of one replica share.
#[derive(Clone)]
pub struct Parts {
    pub store: Arc<StoreSettings>,
    pub primary: PrimaryWatch,
    pub replica: ReplicaId,
    /// How operators find this replica; shown with its leases.
    pub addr: String,
    pub clock: Clock,
    pub random: Random,
}

/// Starts a candidate for every duty. They give their leases back when the drain begins.
pub fn start(settings: JobsSettings, parts: &Parts, tasks: &Tasks) -> Beliefs {
    let settings = Arc::new(settings);
    let mut beliefs = Beliefs::new(parts.clock.clone());
    for duty in Duty::ALL {
        observe::jobs::zero(duty.as_str(), BeliefEnd::ALL.into_iter().map(BeliefEnd::as_str));
        let publisher = beliefs.add(duty, parts.replica);
        let name = match duty {
            Duty::Sweeper => "lease-sweeper",
            Duty::Partitions => "lease-partitions",
        };
        let shutdown = tasks.shutdown().clone();
        tasks.essential(name, holder::run(duty, settings.clone(), parts.clone(), publisher, shutdown));
    }
    beliefs
}
