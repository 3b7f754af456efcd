//! `everbeat device`: enroll a device, run a simulated one, replay a real sensor's file.
//!
//! Secrets never stand in arguments: the enrollment token comes from the caller (who read the environment) or from a
//! file. Results go to standard output, everything else to standard error.

mod counters;
mod enroll;
pub mod fleet;
pub mod replay;
mod run;
pub mod sensors;
pub mod simulate;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use secrecy::{ExposeSecret, SecretString};

pub use counters::{Counters, Snapshot};
pub use enroll::EnrollArgs;
pub use fleet::{FleetOptions, run_fleet};
pub use replay::ReplayArgs;
pub use run::RunArgs;

use crate::client::{ClientSettings, Context};
use crate::domain::random::Random;
use crate::domain::time::Clock;

/// Act as a device.
#[derive(clap::Args, Debug)]
pub struct DeviceArgs {
    #[command(subcommand)]
    command: DeviceCommand,
}

#[derive(clap::Subcommand, Debug)]
enum DeviceCommand {
    /// Get an identity with an enrollment token
    Enroll(EnrollArgs),
    /// Send heartbeats and simulated readings until stopped, then say goodbye
    Run(RunArgs),
    /// Send the readings of a CSV file, each exactly once
    Replay(ReplayArgs),
}

/// Runs `everbeat device …`. `token`: the value of EVERBEAT_ENROLLMENT_TOKEN.
pub async fn run(
    args: DeviceArgs,
    token: Option<SecretString>,
    clock: Clock,
    random: Random,
) -> anyhow::Result<ExitCode> {
    let context = Context { settings: ClientSettings::device(), clock, random };
    match args.command {
        DeviceCommand::Enroll(args) => Box::pin(enroll::run(args, token, context)).await,
        DeviceCommand::Run(args) => Box::pin(run::run(args, context)).await,
        DeviceCommand::Replay(args) => Box::pin(replay::run(args, context)).await,
    }
}

/// A secret from a file, or the one that the environment held; a file wins.
pub(super) fn secret(
    file: Option<&Path>,
    environment: Option<SecretString>,
    variable: &str,
) -> anyhow::Result<SecretString> {
    let found = match file {
        Some(path) => {
            let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
            SecretString::from(text.trim())
        }
        None => environment.with_context(|| format!("no token: set {variable}, or give --token-file"))?,
    };
    anyhow::ensure!(!found.expose_secret().is_empty(), "the token is empty");
    Ok(found)
}

/// The text of a CA bundle.
pub(super) fn ca_bundle(path: &PathBuf) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| path.display().to_string())
}
