//! A simulated device: heartbeats when the service wants them, readings at a pace of its own, goodbye at the end.
//! What could not be sent waits, up to a limit; then the oldest readings are dropped and counted as errors.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::counters::Counters;
use super::sensors::Sensors;
use crate::client::{Batch, ClientError, Context, DeviceClient, Reading};
use crate::lifecycle::shutdown::Shutdown;
use crate::wire::device::{GoodbyeRequest, HeartbeatRequest};

/// Readings that wait for a service that is away.
const WAITING_MAX: usize = 1_000;
/// Readings in one request.
const BATCH_MAX: usize = 100;
/// Between attempts while the service is away.
const AGAIN_BASE: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_secs(30);
const GOODBYE_LIMIT: Duration = Duration::from_secs(3);

/// How a simulated device behaves.
#[derive(Clone, Debug)]
pub struct Pace {
    /// The interval that the device wishes for; `None`: what its fleet says.
    pub heartbeat_interval_s: Option<u64>,
    pub readings_every: Duration,
}

pub struct SimulatedDevice {
    common: Common,
    heart: Heart,
    sensing: Sensing,
}

/// What both halves use.
#[derive(Clone)]
struct Common {
    client: DeviceClient,
    context: Context,
    pace: Pace,
    counters: Arc<Counters>,
}

impl Common {
    fn failed(&self, what: &'static str, error: &ClientError) {
        tracing::debug!(device = %self.client.device().name, what, %error, "failed");
        self.counters.errors(1);
    }
}

impl SimulatedDevice {
    pub fn new(client: DeviceClient, context: Context, pace: Pace, counters: Arc<Counters>) -> Self {
        let sensors = Sensors::new(context.random.clone());
        let common = Common { client, context, pace, counters };
        Self {
            heart: Heart { common: common.clone(), seq: 0, online: false, failures: 0 },
            sensing: Sensing { common: common.clone(), sensors, waiting: VecDeque::new() },
            common,
        }
    }

    /// Runs until the drain begins. Ends with an error only when the device has lost its identity.
    pub async fn run(mut self, shutdown: &Shutdown) -> Result<(), ClientError> {
        // Side by side: readings that wait for their commit must not hold a heartbeat back.
        let outcome = tokio::select! {
            () = shutdown.draining() => Ok(()),
            lost = self.heart.work() => Err(lost),
            lost = self.sensing.work() => Err(lost),
        };
        self.heart.set_online(false);
        if outcome.is_ok() {
            let request = GoodbyeRequest { reason: Some("shutdown".to_owned()), back_at: None };
            match timeout(GOODBYE_LIMIT, self.common.client.goodbye(&request)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "no goodbye"),
                Err(_) => tracing::debug!("no goodbye in time"),
            }
        }
        outcome
    }
}

struct Heart {
    common: Common,
    seq: u64,
    online: bool,
    failures: u32,
}

impl Heart {
    async fn work(&mut self) -> ClientError {
        loop {
            let pause = match self.beat().await {
                Ok(next_in) => next_in,
                Err(lost) if lost.is_identity_lost() => return lost,
                Err(error) => self.failed(&error),
            };
            sleep(pause).await;
        }
    }

    async fn beat(&mut self) -> Result<Duration, ClientError> {
        let interval_s = self.common.pace.heartbeat_interval_s;
        let request = HeartbeatRequest { seq: Some(self.seq), interval_s, status: None };
        self.seq += 1;
        let answer = self.common.client.heartbeat(&request).await?;
        self.common.counters.heartbeat();
        self.set_online(true);
        self.failures = 0;
        // A service that says nonsense is asked again in a second.
        Ok(Duration::try_from_secs_f64(answer.next_in_s).unwrap_or(AGAIN_BASE))
    }

    /// How long to wait before the next.
    fn failed(&mut self, error: &ClientError) -> Duration {
        self.common.failed("heartbeat", error);
        self.set_online(false);
        self.failures = self.failures.saturating_add(1);
        AGAIN_BASE / 2 + self.common.context.random.full_jitter(AGAIN_BASE, AGAIN_MAX, self.failures)
    }

    fn set_online(&mut self, is: bool) {
        if self.online != is {
            self.online = is;
            self.common.counters.online(is);
        }
    }
}

struct Sensing {
    common: Common,
    sensors: Sensors,
    waiting: VecDeque<Reading>,
}

impl Sensing {
    /// Dropped between two steps or within one: nothing leaves `waiting` before it is acknowledged.
    async fn work(&mut self) -> ClientError {
        let every = self.common.pace.readings_every;
        let mut measure_at = Instant::now() + self.common.context.random.scale(every, 0.0, 1.0);
        loop {
            sleep_until(measure_at).await;
            // Readings that a slow call delayed are not made up for.
            measure_at = (measure_at + every).max(Instant::now());
            match self.measure().await {
                Ok(()) => {}
                Err(lost) if lost.is_identity_lost() => return lost,
                Err(error) => self.common.failed("readings", &error),
            }
        }
    }

    async fn measure(&mut self) -> Result<(), ClientError> {
        let counters = self.common.counters.clone();
        let values = self.sensors.measure(self.common.pace.readings_every);
        self.waiting.push_back(Reading::fresh(self.common.context.clock.wall(), values)?);
        if self.waiting.len() > WAITING_MAX {
            self.waiting.pop_front();
            counters.errors(1);
        }
        while !self.waiting.is_empty() {
            let first: Vec<Reading> = self.waiting.iter().take(BATCH_MAX).cloned().collect();
            let outcome = self.common.client.readings(&Batch::new(&first)?).await?;
            self.waiting.drain(..first.len());
            counters.readings(outcome.stored + outcome.duplicates);
            counters.errors(outcome.rejected_total);
        }
        Ok(())
    }
}
