//! `everbeat admin`: what an operator asks most, as tables or as JSON.

mod show;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use secrecy::SecretString;
use serde::de::DeserializeOwned;

use crate::client::admin::percent;
use crate::client::{AdminClient, ClientSettings, Context, EventFeed};
use crate::domain::random::Random;
use crate::domain::time::Clock;

/// The longest page that the service gives.
const PAGE_MAX: usize = 1_000;
/// How often `events --follow` asks.
const FOLLOW_EVERY: std::time::Duration = std::time::Duration::from_secs(2);

/// Look at the fleet.
#[derive(clap::Args, Debug)]
pub struct AdminArgs {
    /// Base URL of the admin listener; several for failover
    #[arg(long, global = true, default_value = "https://127.0.0.1:9443", value_name = "URL")]
    url: Vec<String>,
    /// The CA bundle to trust
    #[arg(long, global = true, value_name = "FILE")]
    cacert: Option<PathBuf>,
    /// Read the operator's token from this file; otherwise it is taken from EVERBEAT_TOKEN
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Print JSON, one item a line, as the service gave it
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: AdminCommand,
}

#[derive(clap::Subcommand, Debug)]
enum AdminCommand {
    /// Devices with their presence and newest values
    Devices(DevicesArgs),
    /// Readings of one device
    Readings(ReadingsArgs),
    /// Who holds which duty
    Leases,
    /// What has changed
    Events(EventsArgs),
}

#[derive(clap::Args, Debug)]
struct DevicesArgs {
    /// Of this fleet (its name)
    #[arg(long)]
    fleet: Option<String>,
    /// In this state: never_seen, online, suspect, offline
    #[arg(long)]
    presence: Option<String>,
    /// Whose name begins so
    #[arg(long)]
    name_prefix: Option<String>,
    /// With this tag
    #[arg(long)]
    tag: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 1_000)]
    limit: usize,
}

#[derive(clap::Args, Debug)]
struct ReadingsArgs {
    /// The device: its id, or FLEET/NAME
    device: String,
    /// From this time on (RFC 3339)
    #[arg(long)]
    from: Option<String>,
    /// Before this time (RFC 3339)
    #[arg(long)]
    to: Option<String>,
    /// Only this metric
    #[arg(long)]
    metric: Option<String>,
    /// Oldest first (asc), or newest first (desc)
    #[arg(long, default_value = "desc", value_parser = ["asc", "desc"])]
    order: String,
    /// At most so many
    #[arg(long, default_value_t = 20)]
    limit: usize,
}

#[derive(clap::Args, Debug)]
struct EventsArgs {
    /// Of this device (its id, or FLEET/NAME)
    #[arg(long)]
    device: Option<String>,
    /// The newest, at most so many (1000)
    #[arg(long, default_value_t = 20)]
    limit: usize,
    /// Go on and print what is new
    #[arg(long)]
    follow: bool,
}

/// Runs `everbeat admin …`. `token`: the value of EVERBEAT_TOKEN.
pub async fn run(
    args: AdminArgs,
    token: Option<SecretString>,
    clock: Clock,
    random: Random,
) -> anyhow::Result<ExitCode> {
    let token = super::device::secret(args.token_file.as_deref(), token, "EVERBEAT_TOKEN")?;
    let ca = super::device::ca_bundle(args.cacert.as_ref().context("give the CA bundle to trust with --cacert")?)?;
    let context = Context { settings: ClientSettings::operator(), clock, random };
    let client = AdminClient::new(&args.url, &ca, token, context)?;
    let json = args.json;
    match args.command {
        AdminCommand::Devices(args) => devices(&client, args, json).await?,
        AdminCommand::Readings(args) => readings(&client, args, json).await?,
        AdminCommand::Leases => {
            let items = fetch(&client, "/v1/leases", Vec::new(), usize::MAX).await?;
            show::print(&items, json, show::leases)?;
        }
        AdminCommand::Events(args) => events(&client, args, json).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn devices(client: &AdminClient, args: DevicesArgs, json: bool) -> anyhow::Result<()> {
    let query =
        [("fleet", args.fleet), ("presence", args.presence), ("name_prefix", args.name_prefix), ("tag", args.tag)];
    let items = fetch(client, "/v1/devices", given(query), args.limit).await?;
    show::print(&items, json, show::devices)
}

async fn readings(client: &AdminClient, args: ReadingsArgs, json: bool) -> anyhow::Result<()> {
    let path = format!("/v1/devices/{}/readings", percent(&reference(&args.device)));
    let query = [("from", args.from), ("to", args.to), ("metric", args.metric), ("order", Some(args.order))];
    let items = fetch(client, &path, given(query), args.limit).await?;
    show::print(&items, json, show::readings)
}

/// Prints the newest events, oldest first; with `follow`, then those that come.
async fn events(client: &AdminClient, args: EventsArgs, json: bool) -> anyhow::Result<()> {
    let query = given([("device", args.device.map(|device| reference(&device)))]);
    let mut feed = EventFeed::new(client.clone(), query);
    let mut items = feed.newest(args.limit).await?;
    loop {
        if !items.is_empty() {
            show::print(&items, json, show::events)?;
        }
        if !args.follow {
            return Ok(());
        }
        tokio::time::sleep(FOLLOW_EVERY).await;
        items = feed.next().await.context("some events may have been missed")?;
    }
}

/// `FLEET/NAME` as the path element `name:<fleet>:<name>`; anything else as it is.
fn reference(device: &str) -> String {
    match device.split_once('/') {
        Some((fleet, name)) => format!("name:{fleet}:{name}"),
        None => device.to_owned(),
    }
}

fn given<const N: usize>(query: [(&'static str, Option<String>); N]) -> Vec<(&'static str, String)> {
    query.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

async fn fetch<T: DeserializeOwned>(
    client: &AdminClient,
    path: &str,
    mut query: Vec<(&'static str, String)>,
    max: usize,
) -> anyhow::Result<Vec<T>> {
    query.push(("limit", max.clamp(1, PAGE_MAX).to_string()));
    Ok(client.pages(path, &query).take(max).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_by_id_or_by_fleet_and_name() {
        assert_eq!(reference("plant/pump-1"), "name:plant:pump-1");
        assert_eq!(reference("0192f6d0-7b7a-7c3e-9d5e-0123456789ab"), "0192f6d0-7b7a-7c3e-9d5e-0123456789ab");
    }
}
