//! What will end soon, as metrics: people want to hear of it while there is time. Each certificate is also announced
//! once, by a duty (`jobs::expiry`).

use std::time::Duration;

use crate::lifecycle::shutdown::Shutdown;
use crate::observe::identity::{self as observe, Within};
use crate::store::{ControlStore, expiry};

/// Between two looks. What they find changes in days.
const EVERY: Duration = Duration::from_mins(10);
/// After a look that failed: the old numbers stand meanwhile.
const AGAIN: Duration = Duration::from_secs(30);

/// Looks now and then, at every replica: it is one read of an index, and needs nobody to be elected.
pub(super) async fn run(control: ControlStore, shutdown: Shutdown) {
    loop {
        let pause = match expiry::count(&control).await {
            Ok(devices) => {
                observe::certificates_expiring(Within::Day1, devices.within_1_day);
                observe::certificates_expiring(Within::Days7, devices.within_7_days);
                observe::certificates_expiring(Within::Days30, devices.within_30_days);
                EVERY
            }
            Err(error) => {
                tracing::warn!(%error, "the certificates that end soon are not counted");
                AGAIN
            }
        };
        tokio::select! {
            () = shutdown.draining() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}
