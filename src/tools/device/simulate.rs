//! A simulated device: heartbeats when the service wants them, readings at a pace of its own, goodbye at the end.
//! What could not be sent waits, up to a limit; then the oldest readings are dropped and counted as errors.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout};

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
    client: DeviceClient,
    context: Context,
    pace: Pace,
    counters: Arc<Counters>,
    sensors: Sensors,
    waiting: VecDeque<Reading>,
    seq: u64,
    online: bool,
    failures: u32,
}

impl SimulatedDevice {
    pub fn new(client: DeviceClient, context: Context, pace: Pace, counters: Arc<Counters>) -> Self {
        let sensors = Sensors::new(context.random.clone());
        let waiting = VecDeque::new();
        Self { client, context, pace, counters, sensors, waiting, seq: 0, online: false, failures: 0 }
    }

    /// Runs until the drain begins. Ends with an error only when the device has lost its identity.
    pub async fn run(mut self, shutdown: &Shutdown) -> Result<(), ClientError> {
        let outcome = tokio::select! {
            () = shutdown.draining() => Ok(()),
            lost = self.work() => Err(lost),
        };
        self.set_online(false);
        if outcome.is_ok() {
            let request = GoodbyeRequest { reason: Some("shutdown".to_owned()), back_at: None };
            match timeout(GOODBYE_LIMIT, self.client.goodbye(&request)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "no goodbye"),
                Err(_) => tracing::debug!("no goodbye in time"),
            }
        }
        outcome
    }

    /// Dropped between two steps or within one: nothing leaves `waiting` before it is acknowledged.
    async fn work(&mut self) -> ClientError {
        let phase = self.context.random.scale(self.pace.readings_every, 0.0, 1.0);
        let mut beat_at = Instant::now();
        let mut measure_at = beat_at + phase;
        loop {
            sleep_until(beat_at.min(measure_at)).await;
            if Instant::now() >= beat_at {
                match self.beat().await {
                    Ok(next_in) => beat_at = Instant::now() + next_in,
                    Err(lost) if lost.is_identity_lost() => return lost,
                    Err(error) => beat_at = Instant::now() + self.failed("heartbeat", &error),
                }
            }
            if Instant::now() >= measure_at {
                // Readings that a slow call delayed are not made up for.
                measure_at = (measure_at + self.pace.readings_every).max(Instant::now());
                match self.measure().await {
                    Ok(()) => {}
                    Err(lost) if lost.is_identity_lost() => return lost,
                    Err(error) => drop(self.failed("readings", &error)),
                }
            }
        }
    }

    async fn beat(&mut self) -> Result<Duration, ClientError> {
        let interval_s = self.pace.heartbeat_interval_s;
        let request = HeartbeatRequest { seq: Some(self.seq), interval_s, status: None };
        self.seq += 1;
        let answer = self.client.heartbeat(&request).await?;
        self.counters.heartbeat();
        self.set_online(true);
        self.failures = 0;
        Ok(Duration::from_secs_f64(answer.next_in_s))
    }

    async fn measure(&mut self) -> Result<(), ClientError> {
        let values = self.sensors.measure(self.pace.readings_every);
        self.waiting.push_back(Reading::fresh(self.context.clock.wall(), values)?);
        if self.waiting.len() > WAITING_MAX {
            self.waiting.pop_front();
            self.counters.errors(1);
        }
        while !self.waiting.is_empty() {
            let first: Vec<Reading> = self.waiting.iter().take(BATCH_MAX).cloned().collect();
            let outcome = self.client.readings(&Batch::new(&first)?).await?;
            self.waiting.drain(..first.len());
            self.counters.readings(outcome.stored + outcome.duplicates);
            self.counters.errors(outcome.rejected_total);
        }
        Ok(())
    }

    /// Counts a failed call; how long to wait before the next.
    fn failed(&mut self, what: &'static str, error: &ClientError) -> Duration {
        tracing::debug!(device = %self.client.device().name, what, %error, "failed");
        self.counters.errors(1);
        self.set_online(false);
        self.failures = self.failures.saturating_add(1);
        AGAIN_BASE / 2 + self.context.random.full_jitter(AGAIN_BASE, AGAIN_MAX, self.failures)
    }

    fn set_online(&mut self, is: bool) {
        if self.online != is {
            self.online = is;
            self.counters.online(is);
        }
    }
}
