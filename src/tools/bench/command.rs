//! The command: what to send, to whom, and where the results go.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;

use super::arrivals::{self, Arrivals};
use super::crowd::Place;
use super::drive::Manners;
use super::outcome::{Mode, Outcome, compare};
use super::run::{Plan, say};
use super::work::Work;
use super::{cpu, page};
use crate::domain::random::Random;
use crate::domain::time::Clock;
use crate::lifecycle::shutdown::Shutdown;
use crate::tools::dev;

/// Sends load at a rate that does not depend on the answers, and reports what came of it.
#[derive(clap::Args, Debug)]
pub struct BenchArgs {
    /// Compare two results, the second beside the first
    #[arg(long, num_args = 2, value_names = ["FIRST", "SECOND"], exclusive = true)]
    compare: Vec<PathBuf>,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    target: TargetArgs,
}

#[derive(clap::Args, Debug)]
struct LoadArgs {
    /// What to send: heartbeat, reading, batch:N, mix, storm (a new connection each time)
    ///
    /// A mix is half heartbeats and half readings, or has weights: mix:heartbeat=55,reading=35,batch:100=10.
    #[arg(long, default_value = "reading")]
    work: Work,
    /// Requests per second: a rate (500) or a ramp (100..2000)
    #[arg(long, value_parser = arrivals::parse, conflicts_with = "closed")]
    rate: Option<(f64, f64)>,
    /// Each device sends again as soon as it is answered
    #[arg(long)]
    closed: bool,
    /// Finds the ceiling: closed loops of 16 devices, then of twice as many, up to --devices
    ///
    /// It goes on as long as the goodput grows by 5 %. Each step takes --seconds, and has a --warm-up of its own. The
    /// result is that of the best step.
    #[arg(long, conflicts_with_all = ["rate", "closed"])]
    search: bool,
    /// Devices send on although they were told to stay away (429, 503); otherwise they do as they are told
    #[arg(long)]
    stubborn: bool,
    /// Devices, each with a certificate and a connection of its own
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    devices: u32,
    /// Seconds in all, or of each step of a search
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(2..=3_600))]
    seconds: u64,
    /// Of them, so many at the beginning are left out of the figures
    #[arg(long, default_value_t = 5)]
    warm_up: u64,
    /// Report the CPU time of this process and its children; may be repeated
    ///
    /// Of processes on this machine. The server: --cpu server=$(pgrep -of 'everbeat serve'). The database: --cpu
    /// database=$(pgrep -ox postgres), or the first line of postmaster.pid in its data directory. The generator is
    /// always reported.
    #[arg(long = "cpu", value_name = "NAME=PID", value_parser = named_pid)]
    cpu: Vec<(String, u32)>,
}

#[derive(clap::Args, Debug)]
struct TargetArgs {
    /// The device listener; may be repeated
    #[arg(long = "url", default_values_t = ["https://localhost:8443".to_owned()])]
    urls: Vec<String>,
    /// The admin listener; may be repeated
    #[arg(long = "admin-url", default_values_t = ["https://localhost:9443".to_owned()])]
    admin_urls: Vec<String>,
    /// Whom to trust
    #[arg(long, value_name = "FILE", default_value = ".everbeat/pki/ca.pem")]
    ca: PathBuf,
    /// An admin's token, to enroll devices with
    #[arg(long, value_name = "FILE", default_value = ".everbeat/admin-token")]
    token_file: PathBuf,
    /// Where the devices' keys are kept from run to run
    #[arg(long, value_name = "DIR", default_value = ".everbeat/bench-devices")]
    devices_dir: PathBuf,
    /// Where the result goes: NAME.json and NAME.html
    #[arg(long, value_name = "NAME")]
    out: Option<PathBuf>,
}

fn named_pid(text: &str) -> Result<(String, u32), String> {
    let (name, pid) = text.split_once('=').ok_or("NAME=PID, as in server=1234")?;
    let pid = pid.parse().map_err(|_| format!("{pid:?} is not a process id"))?;
    Ok((name.to_owned(), pid))
}

/// Does what the arguments say.
pub async fn run(args: BenchArgs, clock: Clock, random: Random) -> anyhow::Result<ExitCode> {
    if let [first, second] = args.compare.as_slice() {
        say(&compare(&read(first)?, &read(second)?));
        return Ok(ExitCode::SUCCESS);
    }
    let load = &args.load;
    anyhow::ensure!(load.closed || load.search || load.rate.is_some(), "give --rate, --closed or --search");
    anyhow::ensure!(load.warm_up < load.seconds, "--warm-up: shorter than --seconds");
    let plan = load.plan()?;
    let place = Place {
        device_urls: args.target.urls.clone(),
        admin_urls: args.target.admin_urls.clone(),
        ca_pem: file(&args.target.ca)?,
        admin_token: file(&args.target.token_file)?.trim().to_owned().into(),
        dir: args.target.devices_dir.clone(),
        clock,
        random,
    };
    let stop = Shutdown::new();
    dev::stop_on_signal(&stop)?;
    let devices = usize::try_from(load.devices)?;
    let outcome = match load.rate {
        Some((from, to)) => {
            let arrivals = Arrivals { from, to, over: plan.over };
            plan.run(&place, devices, Mode::Open(arrivals), &stop).await?
        }
        None if load.search => plan.search(&place, devices, &stop).await?,
        None => plan.run(&place, devices, Mode::Closed, &stop).await?,
    };
    say(&outcome.text());
    if let Some(out) = &args.target.out {
        write(&out.with_extension("json"), &serde_json::to_string(&outcome)?)?;
        write(&out.with_extension("html"), &page::page(&outcome))?;
    }
    Ok(ExitCode::SUCCESS)
}

impl LoadArgs {
    fn plan(&self) -> anyhow::Result<Plan> {
        for (name, pid) in &self.cpu {
            anyhow::ensure!(cpu::of_tree(*pid).is_some(), "--cpu {name}={pid}: there is no such process");
        }
        let own = ("generator".to_owned(), std::process::id());
        Ok(Plan {
            work: self.work.clone(),
            manners: if self.stubborn { Manners::Stubborn } else { Manners::Polite },
            over: Duration::from_secs(self.seconds),
            warm_up: Duration::from_secs(self.warm_up),
            watched: self.cpu.iter().cloned().chain([own]).collect(),
        })
    }
}

fn read(path: &Path) -> anyhow::Result<Outcome> {
    serde_json::from_str(&file(path)?).with_context(|| format!("{} is not the result of a run", path.display()))
}

fn file(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
