//! A simulated fleet in one process: each device has its own key, certificate and connection.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use super::counters::Counters;
use super::simulate::{Pace, SimulatedDevice};
use crate::client::{ClientError, ClientSettings, Context, DeviceClient, Enrollment, StateDir};
use crate::domain::enrollment::EnrollmentToken;
use crate::domain::name::Name;
use crate::domain::random::Random;
use crate::domain::time::Clock;
use crate::lifecycle::shutdown::Shutdown;
use crate::lifecycle::tasks::spawn;

/// Between attempts to enroll while the service is away.
const AGAIN_BASE: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_secs(15);

/// Who the devices are, and how they behave.
#[derive(Clone)]
pub struct FleetOptions {
    pub count: u32,
    /// Devices are named `<prefix>-001`, `<prefix>-002`, …
    pub name_prefix: String,
    /// Base URLs of the device listener.
    pub urls: Vec<String>,
    /// A counted token, for devices that have no identity in `state_dir` yet.
    pub token: EnrollmentToken,
    /// The CA bundle; `None`: fetched, and checked against the token's pin.
    pub ca_pem: Option<String>,
    /// One directory for each device is made in it. An identity in it must be one of this service: whoever makes a
    /// new service removes the directory.
    pub state_dir: PathBuf,
    pub pace: Pace,
    /// The devices begin one after the other over this time.
    pub start_spread: Duration,
}

/// Runs the fleet until the drain begins and every device has said goodbye. A device that cannot go on is logged and
/// counted; the others do not mind.
pub async fn run_fleet(
    options: FleetOptions,
    counters: Arc<Counters>,
    shutdown: &Shutdown,
    clock: Clock,
    random: Random,
) {
    let options = Arc::new(options);
    let context = Context { settings: ClientSettings::device(), clock, random };
    let devices = (0..options.count).map(|index| {
        let (options, counters) = (options.clone(), counters.clone());
        let (context, shutdown) = (context.clone(), shutdown.clone());
        spawn(async move {
            let name = format!("{}-{:03}", options.name_prefix, index + 1);
            if let Err(error) = one(&name, index, &options, &counters, (context, &shutdown)).await {
                counters.errors(1);
                tracing::warn!(device = %name, %error, "the simulated device stopped");
            }
        })
    });
    join_all(devices.collect::<Vec<_>>()).await;
}

async fn one(
    name: &str,
    index: u32,
    options: &FleetOptions,
    counters: &Arc<Counters>,
    (context, shutdown): (Context, &Shutdown),
) -> Result<(), ClientError> {
    let place = f64::from(index) + context.random.uniform(0.0, 1.0);
    let wait = options.start_spread.mul_f64(place / f64::from(options.count.max(1)));
    let begin = async {
        tokio::time::sleep(wait).await;
        join(name, options, &context).await
    };
    let client = tokio::select! {
        () = shutdown.draining() => return Ok(()),
        client = begin => client?,
    };
    counters.enrolled();
    SimulatedDevice::new(client, context, options.pace.clone(), counters.clone()).run(shutdown).await
}

/// Opens or enrolls the device, for as long as the service may be away.
async fn join(name: &str, options: &FleetOptions, context: &Context) -> Result<DeviceClient, ClientError> {
    let state = StateDir::open(options.state_dir.join(name))?;
    if state.load()?.is_some() {
        return DeviceClient::open(state, &options.urls, context.clone());
    }
    let parsed: Name = name.parse().map_err(|error| ClientError::Input(format!("{name:?}: {error}")))?;
    let asked = Enrollment {
        urls: options.urls.clone(),
        name: parsed,
        token: options.token.clone(),
        ca_pem: options.ca_pem.clone(),
        tags: vec!["simulated".to_owned()],
    };
    let mut failures = 0;
    loop {
        match DeviceClient::enroll(state.clone(), &asked, context.clone()).await {
            Err(error) if error.is_retryable() => {
                tracing::debug!(device = %name, %error, "not enrolled yet");
                tokio::time::sleep(context.random.full_jitter(AGAIN_BASE, AGAIN_MAX, failures)).await;
                failures += 1;
            }
            outcome => return outcome,
        }
    }
}
