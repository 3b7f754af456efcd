//! `everbeat drill`: what to run, on what, and what comes of it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use super::compose::Compose;
use super::deployment::Deployment;
use super::evidence::Evidence;
use super::judge_files::{self, CheckArgs};
use super::load::{LoadSettings, Place, Population};
use super::local::Local;
use super::proxy::{self, ProxyArgs};
use super::report::{self, Machine, Run, RunReport, ScenarioReport};
use super::round::Field;
use super::scenario::Scenario;
use super::scenarios;
use super::screen::Screen;
use super::state::Watcher;
use crate::config;
use crate::domain::random::Random;
use crate::domain::time::{Clock, rfc3339};
use crate::lifecycle::shutdown::Shutdown;
use crate::lifecycle::tasks::Tasks;
use crate::tools::dev;

/// A fresh deployment's first state: elections, the first lease.
const FIRST_HEALTHY: Duration = Duration::from_mins(3);
const END_LIMIT: Duration = Duration::from_secs(5);
/// The exit status when every promise was kept and only figures are over their bounds, as on a machine that was busy with
/// something else. 1: a promise was broken, or nothing was proved; 2: the command line.
const ONLY_SLOW: u8 = 3;
/// The same, and the machine itself stood still in each of these runs: no verdict on figures.
const STOOD_STILL: u8 = 4;

/// Injects faults into a running deployment under load, and judges what is left.
#[derive(clap::Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct DrillArgs {
    #[command(subcommand)]
    command: Option<DrillCommand>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(clap::Subcommand, Debug)]
enum DrillCommand {
    /// Judge the evidence of earlier runs again
    Check(CheckArgs),
    /// A proxy before PostgreSQL that hurts on command
    #[command(hide = true)]
    Proxy(ProxyArgs),
}

#[derive(clap::Args, Debug)]
struct RunArgs {
    /// Start a small deployment of processes on this machine, instead of using the one of containers
    #[arg(long)]
    local: bool,
    /// The compose project to attack
    #[arg(long, default_value = "everbeat", value_name = "NAME")]
    compose_project: String,
    /// Only these scenarios
    #[arg(long, value_delimiter = ',', value_name = "NAME,…")]
    only: Vec<String>,
    /// Only the quick set
    #[arg(long, conflicts_with = "only")]
    smoke: bool,
    /// Each scenario so many times, with the seeds that follow
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1000))]
    repeat: u64,
    /// What all draws come from; a random one if it is not given
    #[arg(long)]
    seed: Option<u64>,
    /// Where evidence and reports go
    #[arg(long, default_value = "drill-report", value_name = "DIR")]
    out: PathBuf,
    /// Devices that send readings
    #[arg(long, default_value_t = LoadSettings::usual().devices, value_parser = parse_devices)]
    devices: usize,
    /// With --local: where the deployment is kept; a directory under the temporary one if it is not given
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Say which scenarios there are
    #[arg(long)]
    list: bool,
}

fn parse_devices(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..=10_000) => Ok(count),
        _ => Err("1 to 10000".to_owned()),
    }
}

/// Does what the arguments say. Success only when everything passed; see [`ONLY_SLOW`] and [`STOOD_STILL`] for what else there is.
pub async fn run(args: DrillArgs, clock: Clock, random: Random) -> anyhow::Result<ExitCode> {
    let outcome = match args.command {
        Some(DrillCommand::Check(args)) => return judge_files::run(&args),
        Some(DrillCommand::Proxy(args)) => return proxy::run(args).await,
        None if args.run.list => Ok(list()),
        None => Box::pin(drill(args.run, clock, random)).await,
    };
    outcome.map_err(anyhow::Error::msg)
}

fn list() -> ExitCode {
    for scenario in scenarios::all() {
        print(&format!("{:<34} {}\n", scenario.name, scenario.about));
    }
    ExitCode::SUCCESS
}

async fn drill(args: RunArgs, clock: Clock, random: Random) -> Result<ExitCode, String> {
    let chosen = if args.smoke {
        scenarios::smoke()
    } else if args.only.is_empty() {
        scenarios::all()
    } else {
        scenarios::named(&args.only)?
    };
    std::fs::create_dir_all(&args.out).map_err(|error| format!("cannot use {}: {error}", args.out.display()))?;
    let shutdown = Shutdown::new();
    dev::stop_on_signal(&shutdown).map_err(|error| error.to_string())?;
    let tasks = Tasks::new(shutdown);
    let seed = args.seed.unwrap_or_else(|| random.below(1 << 31) as u64);
    let screen = Screen::default();
    screen.say(&format!("drill: seed {seed}; preparing the deployment"));
    let scratch = Scratch::new(args.dir.as_deref());
    let deployment = open(&args, &scratch.0, random.clone()).await?;
    let mut field = match prepare(&args, deployment, &scratch.0, (clock, seed), tasks.clone()).await {
        Ok(field) => field,
        Err((deployment, error)) => {
            deployment.shutdown().await;
            return Err(error);
        }
    };
    let report = Box::pin(all(&args, chosen, seed, &mut field, &scratch.0)).await;
    tasks.shutdown().drain();
    field.deployment.shutdown().await;
    let _ = tasks.finish(END_LIMIT).await;
    let report = report?;
    print(&report::table(&report));
    Ok(match (report.passed(), report.only_slow()) {
        (true, _) => ExitCode::SUCCESS,
        (false, true) if report.stood_still() => ExitCode::from(STOOD_STILL),
        (false, true) => ExitCode::from(ONLY_SLOW),
        (false, false) => ExitCode::FAILURE,
    })
}

async fn open(args: &RunArgs, dir: &Path, random: Random) -> Result<Deployment, String> {
    if args.local {
        return Box::pin(Local::start(dir, random)).await.map(|local| Deployment::Local(Box::new(local)));
    }
    Compose::attach(&args.compose_project).await.map(|compose| Deployment::Compose(Box::new(compose)))
}

/// Waits until all is well, and enrolls the devices.
async fn prepare(
    args: &RunArgs,
    deployment: Deployment,
    dir: &Path,
    (clock, seed): (Clock, u64),
    tasks: Tasks,
) -> Result<Field, (Deployment, String)> {
    let mut watcher = Watcher::new(deployment.store());
    if let Err(error) = watcher.healthy(&deployment, FIRST_HEALTHY).await {
        return Err((deployment, format!("the deployment is not well: {error}")));
    }
    let tag = format!("run-{}", clock.unix_us() / 1_000_000);
    let place = Place { dir: dir.join("devices"), tag, clock: clock.clone(), random: Random::seeded(seed) };
    let settings = LoadSettings { devices: args.devices, ..LoadSettings::usual() };
    let population = match Population::enroll(deployment.target(), settings, place).await {
        Ok(population) => population,
        Err(error) => return Err((deployment, format!("the devices cannot be enrolled: {error}"))),
    };
    let absences = Vec::new();
    Ok(Field { deployment, watcher, population, clock, tasks, screen: Screen::default(), absences })
}

/// Runs the scenarios that this deployment can bear; a failure does not keep the next from running.
async fn all(
    args: &RunArgs,
    chosen: Vec<Scenario>,
    seed: u64,
    field: &mut Field,
    dir: &Path,
) -> Result<RunReport, String> {
    let mut report = RunReport {
        date: rfc3339(field.clock.wall()),
        machine: machine(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        seed,
        arguments: arguments(args),
        scenarios: Vec::new(),
    };
    for scenario in chosen {
        if let Some(fault) = scenario.faults.iter().find(|fault| !field.deployment.can(fault)) {
            field.screen.say(&format!("drill: {}: left out, {:?} is not possible here", scenario.name, fault.kind));
            if args.only.contains(&scenario.name) {
                return Err(format!("{} is not possible on this deployment", scenario.name));
            }
            continue;
        }
        if scenario.needs_three_nodes() && field.deployment.store().hosts.len() < 3 {
            field.screen.say(&format!("drill: {}: left out, it takes three database nodes", scenario.name));
            if args.only.contains(&scenario.name) {
                return Err(format!("{} is not possible on this deployment", scenario.name));
            }
            continue;
        }
        let mut runs = Vec::new();
        for number in 1..=args.repeat {
            if field.tasks.shutdown().is_draining() {
                return Err("stopped".to_owned());
            }
            let seed = seed.wrapping_add(number - 1);
            let outcome = Box::pin(field.run(&scenario, seed, &dir.join("history"))).await;
            let file = args.out.join(format!("{}-{number}.json", scenario.name));
            let run = outcome.and_then(|evidence| keep(&file, &evidence).map(|()| Run::of(&evidence)));
            let run = run.unwrap_or_else(|why| Run::aborted(seed, why));
            field.screen.say(&line(&scenario, &run, args));
            runs.push(run);
        }
        report.scenarios.push(ScenarioReport { name: scenario.name, about: scenario.about, runs });
        write_report(&args.out, &report)?;
    }
    Ok(report)
}

/// What one run came to, and how to repeat it if it failed.
fn line(scenario: &Scenario, run: &Run, args: &RunArgs) -> String {
    let seconds = run.duration_us / 1_000_000;
    if run.passed() {
        return format!("pass  {:<32} {seconds} s, seed {}", scenario.name, run.seed);
    }
    let repeat = format!("everbeat drill --only {} --seed {} {}", scenario.name, run.seed, arguments(args));
    format!("FAIL  {:<32} {seconds} s, seed {}\n{}  repeat it: {repeat}", scenario.name, run.seed, report::told(run))
}

/// What a repetition needs beside scenario and seed.
fn arguments(args: &RunArgs) -> String {
    let place = if args.local { "--local".to_owned() } else { format!("--compose-project {}", args.compose_project) };
    format!("{place} --devices {}", args.devices)
}

fn keep(file: &Path, evidence: &Evidence) -> Result<(), String> {
    let text = serde_json::to_string(evidence).map_err(|error| error.to_string())?;
    std::fs::write(file, text).map_err(|error| format!("cannot write {}: {error}", file.display()))
}

/// Written after every scenario, so that a drill that is killed has left what it knew.
fn write_report(out: &Path, report: &RunReport) -> Result<(), String> {
    let json = serde_json::to_string_pretty(report).map_err(|error| error.to_string())?;
    for (name, text) in [("report.json", json), ("report.html", report::page(report))] {
        let path = out.join(name);
        std::fs::write(&path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    }
    Ok(())
}

fn machine() -> Machine {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse().ok());
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    Machine { cores, memory_mib: total.unwrap_or(0_u64) / 1_024 }
}

fn print(text: &str) {
    use std::io::Write;
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Where a local deployment lives; removed at the end unless somebody chose it.
struct Scratch(PathBuf, bool);

impl Scratch {
    fn new(chosen: Option<&Path>) -> Self {
        match chosen {
            Some(dir) => Self(dir.to_owned(), false),
            None => Self(config::temporary_dir().join(format!("everbeat-drill-{}", std::process::id())), true),
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.1 {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}
