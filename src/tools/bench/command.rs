//! The command: what to send, to whom, and where the results go.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;

use super::arrivals::{self, Arrivals};
use super::crowd::Place;
use super::drive::{Drive, Manners};
use super::outcome::{Measured, Mode, Outcome, compare};
use super::recorder::{End, Recorder};
use super::work::Work;
use super::{cpu, page};
use crate::domain::random::Random;
use crate::domain::time::{Clock, rfc3339};
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
    /// Each device sends again as soon as it is answered: finds the ceiling
    #[arg(long)]
    closed: bool,
    /// Devices send on although they were told to stay away (429, 503); otherwise they do as they are told
    #[arg(long)]
    stubborn: bool,
    /// Devices, each with a certificate and a connection of its own
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    devices: u32,
    /// Seconds in all
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(2..=3_600))]
    seconds: u64,
    /// Of them, so many at the beginning are left out of the figures
    #[arg(long, default_value_t = 5)]
    warm_up: u64,
    /// Report the CPU time of this process and its children; may be repeated
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
    anyhow::ensure!(load.closed || load.rate.is_some(), "give --rate, or --closed");
    anyhow::ensure!(load.warm_up < load.seconds, "--warm-up: shorter than --seconds");
    let place = Place {
        device_urls: args.target.urls.clone(),
        admin_urls: args.target.admin_urls.clone(),
        ca_pem: file(&args.target.ca)?,
        admin_token: file(&args.target.token_file)?.trim().to_owned().into(),
        dir: args.target.devices_dir.clone(),
        clock: clock.clone(),
        random: random.clone(),
    };
    let count = usize::try_from(load.devices)?;
    say(&format!("enrolling {count} devices, or finding them in {}\n", place.dir.display()));
    let callers = place.callers(count).await.map_err(anyhow::Error::msg)?;
    let stop = Shutdown::new();
    dev::stop_on_signal(&stop)?;
    let recorder = Arc::new(Recorder::new());
    let manners = if load.stubborn { Manners::Stubborn } else { Manners::Polite };
    let drive = Drive::new(callers, load.work.clone(), manners, random, recorder.clone());
    let over = Duration::from_secs(load.seconds);
    let mode = load.rate.map_or(Mode::Closed, |(from, to)| Mode::Open(Arrivals { from, to, over }));
    let work = async {
        match &mode {
            Mode::Open(arrivals) => drive.open(*arrivals, &stop).await,
            Mode::Closed => drive.closed(over, &stop).await,
        }
    };
    let ((), used) = tokio::join!(work, watch(load, &drive, &recorder, &stop));
    let measured =
        Measured { seconds: recorder.seconds(), warm_up: Duration::from_secs(load.warm_up), over, cpu: used };
    let outcome = Outcome::new(rfc3339(clock.wall()), load.work.clone(), mode, count, &measured);
    say(&outcome.text());
    if let Some(out) = &args.target.out {
        write(&out.with_extension("json"), &serde_json::to_string(&outcome)?)?;
        write(&out.with_extension("html"), &page::page(&outcome))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A line a second, and the CPU time between the end of the warm-up and that of the load.
async fn watch(load: &LoadArgs, drive: &Drive, recorder: &Recorder, stop: &Shutdown) -> Vec<(String, Duration)> {
    let own = ("generator".to_owned(), std::process::id());
    let watched: Vec<(String, u32)> = load.cpu.iter().cloned().chain([own]).collect();
    let now = || watched.iter().map(|(_, pid)| cpu::of_tree(*pid).unwrap_or_default()).collect::<Vec<_>>();
    let mut begun = now();
    for second in 1..=load.seconds {
        if stop.is_draining() {
            break;
        }
        let left = Duration::from_secs(second).saturating_sub(drive.elapsed());
        tokio::time::sleep(left).await;
        if second == load.warm_up {
            begun = now();
        }
        // What was due in the second before the last has been answered by now, or is late.
        let last = recorder.second(usize::try_from(second.saturating_sub(2)).unwrap_or(usize::MAX));
        let ms = |share| last.quantile_us(share).map_or_else(|| "-".to_owned(), |us| format!("{} ms", us / 1_000));
        let (good, held_back) = (last.count(End::Good), last.count(End::HeldBack));
        let other = last.total() - good - held_back;
        say(&format!(
            "{second:>4} s  good {good:>6}/s  held back {held_back:>6}/s  other {other:>6}/s  p50 {:>7}  p99 {:>7}  under way {}\n",
            ms(0.5),
            ms(0.99),
            drive.under_way()
        ));
    }
    let ended = now();
    let used = ended.iter().zip(&begun).map(|(ended, begun)| ended.saturating_sub(*begun));
    watched.iter().map(|(name, _)| name.clone()).zip(used).collect()
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

fn say(text: &str) {
    use std::io::Write;
    let _ = std::io::stdout().write_all(text.as_bytes());
}
