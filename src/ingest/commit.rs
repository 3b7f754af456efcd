//! One commit, from rows to verdicts: retried by the store while nothing was done, halved where the database refuses
//! the data, and helped to the partitions it lacks. Bounded by one deadline over all of it; what is undecided then
//! fails its requests, whose senders try again.

use std::sync::Arc;
use std::time::Duration;

use time::{Date, UtcOffset};
use tokio::time::Instant;

use super::batch::{Progress, Verdict};
use crate::observe;
use crate::store::readings::{self, NewReadings, RowOutcome};
use crate::store::{Durability, Fault, FleetStore, StoreError};

/// A missing partition is made and the insert tried again, so often in one commit. A second time can be needed when
/// a commit is halved in between; more often, something else drops them.
const PARTITION_ROUNDS_MAX: usize = 3;

/// The rows' verdicts, and the error for those that have none.
pub(super) struct Outcome {
    pub verdicts: Vec<Option<Verdict>>,
    pub error: Option<StoreError>,
    /// Some of it is on the primary alone, and the policy accepts that.
    pub degraded: bool,
}

/// Commits the rows, within `limit`.
pub(super) async fn commit(store: &FleetStore, rows: Arc<NewReadings>, limit: Duration) -> Outcome {
    let begun = Instant::now();
    let mut progress = Progress::new(rows.len());
    let mut rounds = 0;
    let (mut error, mut degraded, mut vanished) = (None, false, false);
    while let Some(range) = progress.take() {
        let left = limit.saturating_sub(begun.elapsed());
        if left.is_zero() {
            error = Some(StoreError::new("readings_commit", Fault::Unavailable, "no time is left for all the rows"));
            break;
        }
        match readings::insert(store, &rows, range.clone(), left).await {
            Ok((outcomes, durability)) => {
                degraded |= durability == Durability::Degraded;
                vanished |= outcomes.contains(&RowOutcome::Vanished);
                progress.committed(range, &outcomes);
            }
            Err(refused) if refused.blames_data() => {
                if progress.refused(range) {
                    observe::ingest::split();
                } else {
                    tracing::warn!(error = %refused, "the database refuses a reading");
                }
            }
            Err(missing) if missing.fault == Fault::MissingPartition && rounds < PARTITION_ROUNDS_MAX => {
                rounds += 1;
                if let Err(failed) = make_partitions(store, &rows.ts[range.clone()], begun + limit).await {
                    error = Some(failed);
                    break;
                }
                progress.again(range);
            }
            Err(failed) => {
                error = Some(not_the_senders_fault(failed));
                break;
            }
        }
    }
    if vanished && error.is_none() {
        error = Some(StoreError::new("readings_commit", Fault::Unknown, "a row was in the way and is gone"));
    }
    // A request may have rows in what was committed and in what was not: nobody is told that nothing was stored.
    let is_partly_done = progress.verdicts().contains(&Some(Verdict::Stored));
    if let Some(error) = error.as_mut().filter(|_| is_partly_done || vanished) {
        error.fault = Fault::Unknown;
    }
    Outcome { verdicts: progress.verdicts().to_vec(), error, degraded }
}

/// A statement that the database refuses (a privilege, a column) was not done, and will be once somebody has mended
/// it: the senders keep their readings and come again.
fn not_the_senders_fault(mut error: StoreError) -> StoreError {
    if error.fault == Fault::Refused {
        tracing::error!(%error, "the database refuses to store readings: schema and privileges need a look");
        error.fault = Fault::Unavailable;
    }
    error
}

/// Outside the ingest transaction, one day after the other: as many as the time window has days, at most. What is
/// made stays, so that whoever comes again after `until` finds fewer missing.
async fn make_partitions(store: &FleetStore, times: &[time::OffsetDateTime], until: Instant) -> Result<(), StoreError> {
    let mut days: Vec<Date> = times.iter().map(|ts| ts.to_offset(UtcOffset::UTC).date()).collect();
    days.sort_unstable();
    days.dedup();
    for day in days {
        if Instant::now() >= until {
            return Err(StoreError::new("readings_partition", Fault::Unavailable, "more partitions are being made"));
        }
        if readings::ensure_partition(store, day).await? {
            observe::ingest::partition_made();
            tracing::info!(%day, "made a partition of readings on demand");
        }
    }
    Ok(())
}
