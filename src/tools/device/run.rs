//! `everbeat device run`

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use super::counters::Counters;
use super::simulate::{Pace, SimulatedDevice};
use crate::client::{Context, DeviceClient, StateDir};
use crate::lifecycle::shutdown::Shutdown;
use crate::lifecycle::tasks::spawn;

#[derive(clap::Args, Debug)]
pub struct RunArgs {
    /// Where the identity is kept
    #[arg(long, value_name = "DIR")]
    state: PathBuf,
    /// Seconds between readings
    #[arg(long, default_value_t = 5, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    readings_every_s: u64,
    /// Wish for this heartbeat interval; otherwise the fleet's
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=2_592_000))]
    heartbeat_interval_s: Option<u64>,
    /// A base URL to try beside those that the device knows; may be repeated
    #[arg(long, value_name = "URL")]
    url: Vec<String>,
}

pub(super) async fn run(args: RunArgs, context: Context) -> anyhow::Result<ExitCode> {
    let client = DeviceClient::open(StateDir::open(args.state)?, &args.url, context.clone())?;
    let shutdown = Shutdown::new();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let stop = shutdown.clone();
    let listener = spawn(async move {
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        stop.drain();
    });
    let pace = Pace {
        heartbeat_interval_s: args.heartbeat_interval_s,
        readings_every: Duration::from_secs(args.readings_every_s),
    };
    eprintln!("{} runs; stop it with Ctrl-C", client.device().name);
    let counters = Arc::new(Counters::default());
    let outcome = SimulatedDevice::new(client, context, pace, counters.clone()).run(&shutdown).await;
    listener.abort();
    let seen = counters.snapshot();
    eprintln!("{} heartbeats, {} readings, {} errors", seen.heartbeats, seen.readings, seen.errors);
    outcome?;
    Ok(ExitCode::SUCCESS)
}
