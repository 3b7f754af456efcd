//! `everbeat dev`: the whole service on one machine. A PostgreSQL cluster of its own under `.everbeat/`, PKI and
//! keys, two replicas as processes of their own, and a fleet of simulated devices that talk to them over mutual TLS.
//!
//! Everything that is kept is under one directory, and a second start goes on with it. Every step finds out what is
//! there already, so a start after `kill -9` at any point works.

pub(in crate::tools) mod place;
pub mod postgres;
pub(in crate::tools) mod replicas;
mod screen;
pub(in crate::tools) mod standby;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;

use self::place::Place;
use self::postgres::{Cluster, ClusterOptions};
use self::replicas::{Ports, Replicas};
use self::screen::Screen;
use super::deploy::{self, MintRequest};
use super::device::simulate::Pace;
use super::device::{Counters, FleetOptions, run_fleet};
use super::enrolling;
use crate::client::{AdminClient, ClientError, ClientSettings, Context, DeviceClient, Enrollment, StateDir};
use crate::config::{self, Settings};
use crate::domain::access::Role;
use crate::domain::random::Random;
use crate::domain::time::Clock;
use crate::lifecycle::shutdown::Shutdown;
use crate::lifecycle::tasks::{self, Tasks};
use crate::wire::admin::NewFleet;

/// The fleet that the simulated devices belong to.
const FLEET: &str = "dev";
/// Devices beside the simulated ones that the start's enrollment token is good for.
const MORE_DEVICES: i32 = 100;
/// The device whose certificate the printed `curl` lines use.
const CURL_DEVICE: &str = "curl";
const TOKEN_TTL: Duration = Duration::from_hours(30 * 24);
const READY_LIMIT: Duration = Duration::from_mins(1);

/// What to run.
#[derive(clap::Args, Debug)]
pub struct DevArgs {
    /// Simulated devices
    #[arg(long, default_value_t = 50)]
    devices: u32,
    /// Replicas, each on ports of its own
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=9))]
    replicas: u16,
    /// No line about the state: to count devices that are online costs something when there are many
    #[arg(long)]
    quiet: bool,
    /// Where everything is kept
    #[arg(long, default_value = ".everbeat", value_name = "DIR")]
    dir: PathBuf,
    /// The first replica's device listener; the next replica has the next port, and so on
    #[arg(long, default_value_t = 8443)]
    device_port: u16,
    /// The first replica's admin listener
    #[arg(long, default_value_t = 9443)]
    admin_port: u16,
    /// The first replica's ops listener
    #[arg(long, default_value_t = 9100)]
    ops_port: u16,
    /// Heartbeat interval of the fleet, made with the first start, in seconds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    heartbeat_s: u64,
    /// Each device sends readings this often, in seconds
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    readings_every_s: u64,
}

/// Runs until Ctrl-C or SIGTERM.
pub async fn run(args: DevArgs, clock: Clock, random: Random) -> anyhow::Result<ExitCode> {
    let shutdown = Shutdown::new();
    stop_on_signal(&shutdown)?;
    let outcome = tokio::select! {
        outcome = Box::pin(work(&args, &shutdown, clock, random)) => outcome,
        () = shutdown.aborting() => Ok(()),
    };
    outcome.map(|()| ExitCode::SUCCESS).map_err(anyhow::Error::msg)
}

async fn work(args: &DevArgs, shutdown: &Shutdown, clock: Clock, random: Random) -> Result<(), String> {
    let ports = Ports { count: args.replicas, device: args.device_port, admin: args.admin_port, ops: args.ops_port };
    ports.check_free()?;
    let place = Place::open(&args.dir)?;
    step("starting PostgreSQL");
    let cluster = start_cluster(&place).await?;
    let (_, settings) = settings(&place, ports, cluster.port())?;
    step("preparing schema and keys");
    let admin_token = prepare(&settings, &place, random.clone()).await?;
    step("starting the replicas");
    let replicas = Replicas::start(&place, ports)?;
    replicas.wait_until_ready(READY_LIMIT, shutdown).await?;
    if shutdown.is_draining() {
        return stop(replicas, cluster).await;
    }
    let context = Context { settings: ClientSettings::operator(), clock: clock.clone(), random: random.clone() };
    let ca_pem = place.read("pki/ca.pem")?;
    let admin = AdminClient::new(&ports.admin_urls(), &ca_pem, admin_token, context).map_err(|e| e.to_string())?;
    let fleet = NewFleet {
        name: FLEET.to_owned(),
        heartbeat_interval_s: Some(args.heartbeat_s),
        certificate_ttl_s: None,
        renew_expired_within_s: None,
    };
    let uses_max = i32::try_from(args.devices).unwrap_or(i32::MAX).saturating_add(MORE_DEVICES);
    let token = enrolling::fleet_and_token(&admin, &fleet, uses_max).await;
    let token = token.map_err(|error| format!("cannot prepare the fleet: {error}"))?;
    let options = fleet_options(args, &place, ports, token, ca_pem);
    curl_device(&options, &clock, &random).await.map_err(|error| format!("cannot enroll a device: {error}"))?;
    Screen::print_greeting(&place, ports, args.devices);
    let counters = Arc::new(Counters::default());
    let fleet = tasks::spawn({
        let (counters, shutdown) = (counters.clone(), shutdown.clone());
        async move { run_fleet(options, counters, &shutdown, clock, random).await }
    });
    Screen::new(admin, counters, ports).run(shutdown, &replicas, args.quiet).await;
    step("stopping");
    let _ = tokio::time::timeout(Duration::from_secs(5), fleet).await;
    stop(replicas, cluster).await
}

async fn stop(replicas: Replicas, cluster: Cluster) -> Result<(), String> {
    replicas.stop().await;
    let stopped = tokio::task::spawn_blocking(move || drop(cluster)).await;
    stopped.map_err(|error| error.to_string())
}

fn step(what: &str) {
    let _ = writeln!(std::io::stderr(), "\r\x1b[Keverbeat dev: {what} …");
}

/// The first signal drains; the second aborts.
pub(in crate::tools) fn stop_on_signal(shutdown: &Shutdown) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let shutdown = shutdown.clone();
    tasks::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                _ = hangup.recv() => {}
            }
            if shutdown.is_draining() {
                shutdown.abort();
                return;
            }
            shutdown.drain();
        }
    });
    Ok(())
}

async fn start_cluster(place: &Place) -> Result<Cluster, String> {
    let (dir, password) = (place.database_dir().to_owned(), place.password("owner")?);
    let start = move || {
        let settings = ["max_connections=200", "shared_buffers=128MB", "wal_level=logical"];
        Cluster::start(&ClusterOptions {
            dir: &dir,
            password: &password,
            settings: &settings,
            port: None,
            throwaway: false,
        })
    };
    tokio::task::spawn_blocking(start).await.map_err(|error| error.to_string())?
}

/// Writes each replica's settings file, and returns the first's.
fn settings(place: &Place, ports: Ports, database_port: u16) -> Result<(PathBuf, Settings), String> {
    let hosts = [format!("127.0.0.1:{database_port}")];
    for index in 0..ports.count {
        place.write(&format!("replica-{}.toml", index + 1), &ports.settings_toml(index, place, &hosts, "")?)?;
    }
    let first = place.path("replica-1.toml");
    let (_, settings) = config::load(std::slice::from_ref(&first)).map_err(|errors| errors.to_string())?;
    Ok((first, settings))
}

/// Database, schema, PKI and the operator's token: whatever of them is missing.
pub(in crate::tools) async fn prepare(
    settings: &Settings,
    place: &Place,
    random: Random,
) -> Result<SecretString, String> {
    let tasks = Tasks::new(Shutdown::new());
    let outcome = async {
        deploy::create_database(settings).await?;
        deploy::migrate(settings).await?;
        if deploy::published(settings, &tasks, random.clone()).await? {
            deploy::init(settings, &tasks, random.clone(), &[], true)
                .await
                .map_err(|error| format!("{error}; remove {} to begin anew", place.root().display()))?;
        } else {
            // Devices of an earlier service would meet a CA that they do not know.
            place.remove("devices")?;
            let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
            deploy::init(settings, &tasks, random.clone(), &names, false).await?;
        }
        let roles = vec![(None, Role::Admin)];
        let request = MintRequest { subject: "dev".to_owned(), roles, ttl: TOKEN_TTL };
        deploy::mint(settings, &tasks, random, request).await
    }
    .await;
    tasks.shutdown().abort();
    let _ = tasks.finish(Duration::from_secs(1)).await;
    let token = outcome?;
    place.write("admin-token", &token)?;
    Ok(token.into())
}

fn fleet_options(
    args: &DevArgs,
    place: &Place,
    ports: Ports,
    token: crate::domain::enrollment::EnrollmentToken,
    ca_pem: String,
) -> FleetOptions {
    FleetOptions {
        count: args.devices,
        name_prefix: "sim".to_owned(),
        urls: ports.device_urls(),
        token,
        ca_pem: Some(ca_pem),
        state_dir: place.path("devices"),
        pace: Pace { heartbeat_interval_s: None, readings_every: Duration::from_secs(args.readings_every_s) },
        start_spread: Duration::from_secs(3),
    }
}

/// Enrolls the device of the `curl` lines, if it is not there yet.
async fn curl_device(options: &FleetOptions, clock: &Clock, random: &Random) -> Result<(), ClientError> {
    let state = StateDir::open(options.state_dir.join(CURL_DEVICE))?;
    if state.load()?.is_some() {
        return Ok(());
    }
    let name = CURL_DEVICE.parse().map_err(|error| ClientError::Input(format!("{error}")))?;
    let asked = Enrollment {
        urls: options.urls.clone(),
        name,
        token: options.token.clone(),
        ca_pem: options.ca_pem.clone(),
        tags: Vec::new(),
    };
    let context = Context { settings: ClientSettings::device(), clock: clock.clone(), random: random.clone() };
    DeviceClient::enroll(state, &asked, context).await.map(drop)
}

/// For people: relative to where they are, if that is shorter.
fn shown(path: &Path) -> String {
    path.display().to_string()
}
