//! `everbeat device replay`: sends a real sensor's file as one device.
//!
//! Every row is stored exactly once, whatever is killed and started again: a row's id follows from the device and the
//! row ([`row_id`]), so that a row sent twice is one reading, and two rows that differ are two. The progress file only
//! saves work; without it the same readings result. It moves on after an acknowledgement, never before.

mod csv_file;
mod progress;
mod row_id;
mod send;
#[cfg(test)]
mod tests;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;

use self::csv_file::CsvFile;
use self::progress::{Progress, ProgressFile};
use self::send::Sender;
use crate::client::{Context, DeviceClient, Reading, StateDir};

/// Without a terminal, one line this often.
const LINE_EVERY: Duration = Duration::from_secs(5);

#[derive(clap::Args, Debug)]
pub struct ReplayArgs {
    /// A CSV file: the first column is the time (UTC where it names no zone), each other column is a metric
    #[arg(value_name = "FILE.csv")]
    file: PathBuf,
    /// Where the device's identity is kept; the progress is kept there too
    #[arg(long, value_name = "DIR")]
    state: PathBuf,
    /// Readings in one request
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    batch: u64,
    /// Give up when the service has answered nothing for this long; start again to go on
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    patience_s: u64,
    /// Send the file from its first row, whatever was acknowledged before
    #[arg(long)]
    from_start: bool,
    /// A base URL to try beside those that the device knows; may be repeated
    #[arg(long, value_name = "URL")]
    url: Vec<String>,
}

pub(super) async fn run(args: ReplayArgs, context: Context) -> anyhow::Result<ExitCode> {
    let state = StateDir::open(&args.state)?;
    let client = DeviceClient::open(state.clone(), &args.url, context.clone())?;
    // The whole file is read first: nothing is sent of a file with a fault in it.
    let file = CsvFile::check(&args.file)?;
    let device = client.device();
    let saved = ProgressFile::new(&state, file.sha256(), device.id)?;
    let mut progress = if args.from_start { Progress::default() } else { saved.load()? };
    anyhow::ensure!(progress.rows <= file.rows(), "{}: more rows are done than there are", saved.path().display());
    if progress.rows > 0 {
        eprintln!("{} of {} rows were acknowledged before", progress.rows, file.rows());
    }

    let mut display = Display::new(file.rows(), progress.rows);
    let mut rows = file.readings(device.id)?;
    rows.pass_over(progress.rows)?;
    let mut sender = Sender::start(client, context, args.batch, Duration::from_secs(args.patience_s)).await?;
    while let Some(batch) = sender.fill(&mut rows)? {
        let outcome = sender.send(&batch).await?;
        for rejected in &outcome.rejected {
            display.note(&format!("line {}: {}: {}", rejected.line, rejected.kind, rejected.detail));
        }
        progress.add(&outcome.counts);
        saved.store(&progress)?;
        display.advance(progress.rows);
    }
    display.finish();
    summarize(&progress)
}

/// What became of the file's rows, over all runs. Rejected rows are a failure.
fn summarize(progress: &Progress) -> anyhow::Result<ExitCode> {
    let Progress { rows, stored, duplicates, rejected } = progress;
    writeln!(std::io::stdout(), "{rows} rows: {stored} stored, {duplicates} duplicates, {rejected} rejected")?;
    Ok(if *rejected == 0 { ExitCode::SUCCESS } else { ExitCode::from(2) })
}

/// A row of the file as a reading, and where it stands.
struct Numbered {
    line: u64,
    reading: Reading,
}

/// A bar on a terminal; lines elsewhere.
struct Display {
    bar: ProgressBar,
    rows: u64,
    last_line: Instant,
}

impl Display {
    fn new(rows: u64, done: u64) -> Self {
        let bar = ProgressBar::new(rows).with_position(done);
        let form = "{wide_bar} {human_pos}/{human_len} readings, {per_sec}, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(form) {
            bar.set_style(style);
        }
        bar.reset_eta();
        Self { bar, rows, last_line: Instant::now() }
    }

    fn advance(&mut self, done: u64) {
        self.bar.set_position(done);
        if self.bar.is_hidden() && self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            eprintln!("{done} of {} readings", self.rows);
        }
    }

    fn note(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
