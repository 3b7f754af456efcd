//! What is left when the load has ended, beside the database's rows: the replicas' logs, and what could leak.

use std::time::Duration;

use super::beliefs;
use super::deployment::{Deployment, Sample};
use super::evidence::{Absence, BeliefSpan, LeakSample};
use crate::store::drill_views::DrillView;

/// Until a primary answers the drill's own session; all was well a moment before.
pub const OPEN_LIMIT: Duration = Duration::from_secs(30);
/// Backends of those who are gone end in this time, or count as left.
const SETTLE_LIMIT: Duration = Duration::from_secs(20);

/// How much more there may be afterwards: pools and caches breathe, and a process that was started anew differs.
const FDS_MORE: f64 = 100.0;
const RESIDENT_BYTES_MORE: f64 = 134_217_728.0;
const BACKENDS_MORE: f64 = 24.0;
const LOCKS_MORE: f64 = 24.0;
/// `pg_notification_queue_usage()`: the part of the queue that listeners have not read yet. A listener that hangs lets it
/// grow, and a full queue fails every NOTIFY.
const NOTIFICATION_QUEUE: &str = "database.notification_queue";
const NOTIFICATION_QUEUE_MORE: f64 = 0.001;

/// What replicas believed since `since_us`; `absences`: of the whole drill, since a killed process logs no end.
pub async fn beliefs(deployment: &Deployment, absences: &[Absence], since_us: u64) -> Result<Vec<BeliefSpan>, String> {
    let logs = deployment.logs().await?;
    let spans = logs.iter().flat_map(|log| beliefs::read(log).spans).collect();
    Ok(beliefs::reaching(spans, absences, since_us))
}

/// What could leak, now.
pub async fn samples(deployment: &Deployment) -> Result<Vec<Sample>, String> {
    let mut samples = deployment.process_samples().await?;
    let view = DrillView::open(&deployment.store(), OPEN_LIMIT).await.map_err(|error| error.detail)?;
    let backends = view.settled(SETTLE_LIMIT).await.map_err(|error| error.detail)?;
    let mut add = |what, count: i64| {
        let value = f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        samples.push(Sample { place: "database".to_owned(), what, value });
    };
    add("database.backends", backends.backends);
    add("database.locks", backends.locks);
    add("database.abandoned", backends.abandoned);
    let value = backends.notification_queue;
    samples.push(Sample { place: "database".to_owned(), what: NOTIFICATION_QUEUE, value });
    Ok(samples)
}

/// Joins two looks; what was not there before was zero.
pub fn leaks(before: &[Sample], after: Vec<Sample>) -> Vec<LeakSample> {
    let was = |sample: &Sample| before.iter().find(|old| old.place == sample.place && old.what == sample.what);
    let join = |sample: Sample| LeakSample {
        before: was(&sample).map_or(0.0, |old| old.value),
        after: sample.value,
        tolerance: tolerance(sample.what),
        place: sample.place,
        what: sample.what.to_owned(),
    };
    after.into_iter().map(join).collect()
}

fn tolerance(what: &str) -> f64 {
    match what {
        "process.fds" => FDS_MORE,
        "process.resident_bytes" => RESIDENT_BYTES_MORE,
        "database.backends" => BACKENDS_MORE,
        "database.locks" => LOCKS_MORE,
        NOTIFICATION_QUEUE => NOTIFICATION_QUEUE_MORE,
        _ => 0.0,
    }
}
