//! Batches, and the patience to see each of them acknowledged.

use std::time::Duration;

use anyhow::Context as _;

use super::Numbered;
use super::progress::Progress;
use crate::client::{Batch, ClientError, Context, DeviceClient, Reading};
use crate::wire::device::ReadingsAnswer;

/// On top of the client's own retries: how often it is asked again while the service is away.
const AGAIN_BASE: Duration = Duration::from_millis(500);
const AGAIN_MAX: Duration = Duration::from_secs(15);
/// Brackets of the array, and a margin.
const BODY_OVERHEAD_BYTES: usize = 64;

/// What became of one batch.
pub(super) struct Outcome {
    pub counts: Progress,
    pub rejected: Vec<Rejected>,
}

/// A row that the service will not store.
pub(super) struct Rejected {
    pub line: u64,
    pub kind: String,
    pub detail: String,
}

pub(super) struct Sender {
    client: DeviceClient,
    context: Context,
    patience: Duration,
    batch_max: usize,
    body_bytes_max: usize,
    /// Read from the file, but too much for the batch before.
    left_over: Option<Numbered>,
}

impl Sender {
    /// Asks the service for its limits.
    pub async fn start(client: DeviceClient, context: Context, batch: u64, patience: Duration) -> anyhow::Result<Self> {
        let mut sender = Self { client, context, patience, batch_max: 1, body_bytes_max: 0, left_over: None };
        let client = sender.client.clone();
        let me = sender.insist(|| client.me()).await?;
        sender.batch_max = usize::try_from(batch.min(me.readings_batch_max).max(1))?;
        sender.body_bytes_max = usize::try_from(me.readings_body_max_bytes)?.saturating_sub(BODY_OVERHEAD_BYTES);
        Ok(sender)
    }

    /// The next rows that fit into one request; `None` at the end of the file. A row that fits into none is sent alone,
    /// for the service to judge.
    pub fn fill(
        &mut self,
        rows: &mut impl Iterator<Item = anyhow::Result<Numbered>>,
    ) -> anyhow::Result<Option<Vec<Numbered>>> {
        let mut batch: Vec<Numbered> = Vec::new();
        let mut bytes = 0;
        while batch.len() < self.batch_max {
            let Some(row) = self.left_over.take().map(Ok).or_else(|| rows.next()).transpose()? else { break };
            bytes += row.reading.bytes();
            if bytes > self.body_bytes_max && !batch.is_empty() {
                self.left_over = Some(row);
                break;
            }
            batch.push(row);
        }
        Ok((!batch.is_empty()).then_some(batch))
    }

    /// Sends one batch until it is acknowledged: the same bytes at every attempt.
    pub async fn send(&self, rows: &[Numbered]) -> anyhow::Result<Outcome> {
        let readings: Vec<Reading> = rows.iter().map(|row| row.reading.clone()).collect();
        let batch = Batch::new(&readings)?;
        let answer = self.insist(|| self.client.readings(&batch)).await?;
        Ok(outcome(rows, answer))
    }

    async fn insist<T, F: Future<Output = Result<T, ClientError>>>(&self, call: impl Fn() -> F) -> anyhow::Result<T> {
        let began = self.context.clock.boottime();
        let mut attempt = 0;
        loop {
            let error = match call().await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if !error.is_retryable() {
                return Err(error.into());
            }
            let waited = self.context.clock.boottime().since(began);
            if waited >= self.patience {
                return Err(error).context("giving up; start again to go on from here");
            }
            tracing::debug!(%error, attempt, "the service is away");
            tokio::time::sleep(self.context.random.full_jitter(AGAIN_BASE, AGAIN_MAX, attempt)).await;
            attempt += 1;
        }
    }
}

fn outcome(rows: &[Numbered], answer: ReadingsAnswer) -> Outcome {
    let line = |index: u64| usize::try_from(index).ok().and_then(|index| rows.get(index)).map_or(0, |row| row.line);
    let mut rejected: Vec<Rejected> = answer
        .rejected
        .into_iter()
        .map(|item| Rejected { line: line(item.index), kind: item.kind, detail: item.detail })
        .collect();
    // The service names a hundred of a batch at most.
    let unnamed = answer.rejected_total.saturating_sub(rejected.len() as u64);
    if unnamed > 0 {
        let last = rows.last().map_or(0, |row| row.line);
        let detail = format!("{unnamed} more rows up to here were rejected");
        rejected.push(Rejected { line: last, kind: "rejected".to_owned(), detail });
    }
    let counts = Progress {
        rows: rows.len() as u64,
        stored: answer.stored,
        duplicates: answer.duplicates,
        rejected: answer.rejected_total,
    };
    Outcome { counts, rejected }
}
