//! What a COMMIT that came back is worth. PostgreSQL says nothing: where `synchronous_standby_names` was emptied (the
//! last standby is gone and the cluster does not insist on one), waiting commits are released as if they had been
//! replicated, and a cancelled wait reports success as well. So whoever acknowledges asks afterwards, in the same
//! message as the COMMIT or right behind it, how far the primary has flushed, and whether a synchronous standby has
//! that much. A look before the commit would prove nothing about it.
//!
//! What is compared is where the primary's flush stood after the COMMIT, which may lie beyond the commit's own
//! record: a standby that has not that much yet is waited for, a moment; it is on its way.

pub(super) mod fleet;

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::error::{Fault, StoreError};
use crate::observe;

crate::statements! {
    /// Asked after a COMMIT.
    POSITION = "commit_position";
}

/// How long a standby may take to report what the primary had flushed. A round trip is enough where all is well.
const PROOF_LIMIT: Duration = Duration::from_millis(500);
/// Between two looks.
const PROOF_PAUSE: Duration = Duration::from_millis(5);

/// What is acknowledged while no synchronous standby has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Nothing: 503, and safe to send again.
    Refuse,
    /// Everything, and the answer says so.
    Accept,
    /// Everything: one database on purpose. Nothing is asked.
    Single,
}

/// Where what was committed is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Where the policy wants it.
    Full,
    /// On this server alone, as far as is known.
    Degraded,
}

tokio::task_local! {
    /// Was one of the commits of this piece of work degraded?
    static SEEN: Cell<bool>;
}

/// Does some work, and says where everything is that was committed for it. Whoever answers for a commit need not hand its
/// durability through all layers.
pub async fn watched<F: Future>(work: F) -> (F::Output, Durability) {
    let both = async {
        let output = work.await;
        let degraded = SEEN.with(Cell::get);
        (output, if degraded { Durability::Degraded } else { Durability::Full })
    };
    SEEN.scope(Cell::new(false), both).await
}

/// To be called in the task of the work, with what a commit for it came to.
pub fn tell(durability: Durability) {
    if durability == Durability::Degraded {
        // Nobody watches a job.
        let _ = SEEN.try_with(|seen| seen.set(true));
    }
}

/// The answer of `commit_position`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub flushed: i64,
    pub standby: Option<i64>,
    /// `synchronous_standby_names` is not empty.
    pub named: bool,
}

/// A plane's way to ask for it.
pub(super) trait Asks {
    /// `None`: it cannot be found out.
    fn position(&mut self) -> impl Future<Output = Option<Position>> + Send;
}

/// Has a synchronous standby what the first answer after a COMMIT found flushed? What cannot be found out counts as no.
pub(super) async fn covered(asks: &mut (impl Asks + Send), first: Option<Position>) -> bool {
    let Some(mut seen) = first else { return false };
    let proof = Proof::begin(&seen);
    loop {
        if let Some(verdict) = proof.judge(&seen).await {
            return verdict;
        }
        match asks.position().await {
            Some(again) => seen = again,
            None => return false,
        }
    }
}

/// The search for a standby that has what was flushed when the COMMIT came back.
struct Proof {
    wanted: i64,
    until: Instant,
}

impl Proof {
    fn begin(first: &Position) -> Self {
        Self { wanted: first.flushed, until: Instant::now() + PROOF_LIMIT }
    }

    /// Has a standby got it? `None`, after a pause: look again.
    async fn judge(&self, seen: &Position) -> Option<bool> {
        if seen.standby.is_some_and(|standby| standby >= self.wanted) {
            return Some(true);
        }
        if !seen.named || Instant::now() >= self.until {
            return Some(false);
        }
        tokio::time::sleep(PROOF_PAUSE).await;
        None
    }
}

/// Applies the policy to the commits of one plane. Clones share what was said last.
#[derive(Clone)]
pub(super) struct Witness {
    policy: Policy,
    plane: &'static str,
    degraded: Arc<AtomicBool>,
}

impl Witness {
    pub(super) fn new(policy: Policy, plane: &'static str) -> Self {
        Self { policy, plane, degraded: Arc::default() }
    }

    /// Must the database be asked?
    pub(super) fn asks(&self) -> bool {
        self.policy != Policy::Single
    }

    /// What to make of a commit, and a line in the log when it is other than the last one's.
    pub(super) fn verdict(&self, name: &'static str, covered: bool) -> Result<Durability, StoreError> {
        if self.degraded.swap(!covered, Ordering::SeqCst) == covered {
            self.tell(covered);
        }
        if covered {
            return Ok(Durability::Full);
        }
        observe::store::uncovered(self.plane);
        match self.policy {
            Policy::Accept | Policy::Single => Ok(Durability::Degraded),
            Policy::Refuse => Err(StoreError::new(name, Fault::Unknown, REFUSED)),
        }
    }

    fn tell(&self, covered: bool) {
        let plane = self.plane;
        match (covered, self.policy) {
            (true, _) => tracing::info!(plane, "commits are on a synchronous standby again"),
            (false, Policy::Refuse) => tracing::error!(plane, "commits are not acknowledged: {REFUSED}"),
            (false, _) => tracing::error!(plane, "commits are acknowledged that no synchronous standby has"),
        }
    }
}

const REFUSED: &str = "committed on the primary, but no synchronous standby is known to have it, and \
     durability.policy is \"refuse\" (a cluster needs synchronous_mode_strict; a database that is one server on \
     purpose needs the policy \"single\")";

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_standby_that_is_on_its_way_is_waited_for_and_one_that_is_not_named_is_not() {
        let at = |standby, named| Position { flushed: 10, standby, named };
        let proof = Proof::begin(&at(None, true));
        assert_eq!(proof.judge(&at(Some(10), true)).await, Some(true));
        assert_eq!(proof.judge(&at(Some(9), true)).await, None);
        assert_eq!(proof.judge(&at(None, true)).await, None);
        assert_eq!(proof.judge(&at(None, false)).await, Some(false));
        let later = Position { flushed: 99, standby: Some(10), named: true };
        assert_eq!(proof.judge(&later).await, Some(true), "later commits do not matter");
        let late = Proof { wanted: 10, until: Instant::now() };
        assert_eq!(late.judge(&at(Some(9), true)).await, Some(false));
    }

    #[tokio::test]
    async fn one_degraded_commit_degrades_the_whole_work_and_no_other() {
        tell(Durability::Degraded);
        let both = watched(async {
            tell(Durability::Degraded);
            tell(Durability::Full);
            7
        });
        assert_eq!(both.await, (7, Durability::Degraded));
        assert_eq!(watched(async { tell(Durability::Full) }).await, ((), Durability::Full));
    }

    #[test]
    fn the_policy_decides() {
        let of = |policy| Witness::new(policy, "fleet");
        let fault = of(Policy::Refuse).verdict("s", false).unwrap_err().fault;
        assert_eq!(fault, Fault::Unknown);
        assert_eq!(of(Policy::Accept).verdict("s", false).unwrap(), Durability::Degraded);
        assert_eq!(of(Policy::Refuse).verdict("s", true).unwrap(), Durability::Full);
        assert!(of(Policy::Refuse).asks() && of(Policy::Accept).asks() && !of(Policy::Single).asks());
    }
}
