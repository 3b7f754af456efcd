//! Commands of the people who run a deployment: each does one thing and ends.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use crate::config::{self, Settings};
use crate::domain::random::Random;
use crate::lifecycle::shutdown::Shutdown;
use crate::lifecycle::tasks::Tasks;
use crate::tools::{check, deploy};

#[derive(clap::Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    config: super::ConfigArgs,
    /// Only the settings: reads no key and connects to nothing
    #[arg(long)]
    offline: bool,
    /// How many replicas there are to be; otherwise as many as run now, and at least one
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    replicas: Option<u32>,
}

pub(super) fn settings(files: &[PathBuf]) -> Result<Settings, String> {
    let loaded = config::load(files).map_err(|errors| format!("the settings are not usable:\n{errors}"))?;
    Ok(loaded.1)
}

pub(super) fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Runs work that needs the pools, and takes them down again.
pub(super) async fn with_tasks<T>(work: impl AsyncFnOnce(&Tasks) -> Result<T, String>) -> Result<T, String> {
    let tasks = Tasks::new(Shutdown::new());
    let outcome = work(&tasks).await;
    tasks.shutdown().abort();
    let _ = tasks.finish(Duration::from_secs(1)).await;
    outcome
}

pub(super) async fn migrate(files: &[PathBuf]) -> Result<(), String> {
    let settings = settings(files)?;
    deploy::migrate(&settings).await?;
    say("the schema is up to date");
    Ok(())
}

pub(super) async fn init(files: &[PathBuf], server_names: Vec<String>, join: bool) -> Result<(), String> {
    let settings = settings(files)?;
    let random = Random::from_os();
    with_tasks(async |tasks| deploy::init(&settings, tasks, random, &server_names, join).await).await?;
    let dir = settings.pki_dir.display();
    if join {
        say(&format!("the keys in {dir} are the ones that the database publishes"));
    } else {
        say(&format!("made the PKI in {dir}; keep {dir}/root.key offline, it is only needed for the next issuing CA"));
    }
    Ok(())
}

pub(super) async fn config_check(args: CheckArgs) -> Result<(), String> {
    let settings = settings(&args.config.config)?;
    if args.offline {
        say("the settings are good");
        return Ok(());
    }
    let random = Random::from_os();
    let checked =
        with_tasks(async |tasks| Ok(Box::pin(check::everything(&settings, tasks, random, args.replicas)).await))
            .await?;
    for line in checked.found {
        say(&line);
    }
    if checked.problems.is_empty() {
        say("the settings, the keys and the database are good");
        return Ok(());
    }
    Err(format!("not good:\n{}", checked.problems.join("\n")))
}

pub(super) fn config_print(files: &[PathBuf]) -> ExitCode {
    let printed = config::load(files).map_err(|errors| errors.to_string());
    match printed.and_then(|(keys, _)| keys.printable().map_err(|error| error.to_string())) {
        Ok(text) => {
            say(&text);
            ExitCode::SUCCESS
        }
        Err(error) => super::failed(&error),
    }
}

/// Ready: exit status 0.
pub(super) async fn healthcheck(url: String) -> Result<(), String> {
    let (status, body) = crate::client::plain_get(&url, Duration::from_secs(2)).await?;
    if status == 200 { Ok(()) } else { Err(format!("{status}: {}", body.trim())) }
}
