//! `everbeat serve`: start, signals, stop.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::app::{self, Ground, Running};
use crate::config::{self, Settings};
use crate::domain::random::Random;
use crate::domain::time::Clock;
use crate::lifecycle::shutdown::Shutdown;
use crate::lifecycle::tasks::Tasks;
use crate::observe::log;

pub(super) fn run(files: &[PathBuf], die_with_parent: bool) -> ExitCode {
    let settings = match config::load(files) {
        Ok((_, settings)) => settings,
        Err(errors) => return super::failed(&format!("the settings are not usable:\n{errors}")),
    };
    if let Err(error) = log::install(settings.log_format, &settings.log_filter, settings.drill) {
        return super::failed(&error);
    }
    if die_with_parent {
        let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM));
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return super::failed(&error.to_string()),
    };
    runtime.block_on(serve(settings))
}

async fn serve(settings: Settings) -> ExitCode {
    let metrics = match app::install_metrics() {
        Ok(metrics) => metrics,
        Err(error) => return super::failed(&error),
    };
    let tasks = Tasks::new(Shutdown::new());
    let ground = Ground { clock: Clock::System, random: Random::from_os(), tasks: tasks.clone(), metrics };
    let drain_limit = settings.drain_limit;
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => return super::failed(&format!("cannot listen for signals: {error}")),
    };
    let started = tokio::select! {
        started = Box::pin(app::start(settings, &ground)) => started,
        () = signals.stop() => Err("stopped while starting".to_owned()),
    };
    let code = match started {
        Ok(running) => {
            until_drain(&running, &tasks, &mut signals).await;
            ExitCode::SUCCESS
        }
        Err(error) => super::failed(&error),
    };
    tasks.shutdown().drain();
    finish(&tasks, drain_limit, signals, code).await
}

async fn until_drain(running: &Running, tasks: &Tasks, signals: &mut Signals) {
    loop {
        tokio::select! {
            () = tasks.shutdown().draining() => return,
            _ = signals.terminate.recv() => break,
            _ = signals.interrupt.recv() => break,
            _ = signals.reload.recv() => running.reload().await,
        }
    }
    tracing::info!("draining");
}

/// Drains; a second signal aborts.
async fn finish(tasks: &Tasks, limit: Duration, mut signals: Signals, code: ExitCode) -> ExitCode {
    let shutdown = tasks.shutdown().clone();
    let failed = tokio::select! {
        failed = tasks.finish(limit) => failed,
        () = signals.stop() => {
            shutdown.abort();
            tasks.finish(Duration::from_secs(1)).await
        }
    };
    match failed {
        Some(task) => super::failed(&format!("the task {task} failed; see the log")),
        None => code,
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    reload: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            reload: signal(SignalKind::hangup())?,
        })
    }

    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
