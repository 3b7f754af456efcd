//! Processes of this binary. Whatever was started is killed when the test ends, however it ends.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;

pub struct Process {
    child: Child,
    log: PathBuf,
}

fn everbeat(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_everbeat"));
    command.args(args).stdin(Stdio::null());
    command
}

fn append(path: &Path) -> File {
    OpenOptions::new().create(true).append(true).open(path).unwrap()
}

impl Process {
    /// Its output is added to the log.
    pub fn start(args: &[&str], log: &Path) -> Self {
        let child = everbeat(args).stdout(append(log)).stderr(append(log)).spawn().unwrap();
        Self { child, log: log.to_owned() }
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// SIGKILL, and waits until nothing is left of it.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    pub async fn ended(&mut self, limit: Duration) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(began.elapsed() < limit, "it has not ended after {limit:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SIGKILL ends a stopped process too.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(25)..].join("\n");
            eprintln!("---- the end of {}:\n{tail}", self.log.display());
        }
    }
}

/// Runs a command to its end; its standard output. It must succeed.
pub fn run(args: &[&str], environment: &[(&str, &str)]) -> String {
    let output = everbeat(args).envs(environment.iter().copied()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "everbeat {}: {error}", args.join(" "));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A port that nobody uses, below those that the system gives to outgoing connections: a server that is away for a
/// while finds it free when it comes back.
pub fn free_port() -> u16 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let step = NEXT.fetch_add(1, Ordering::SeqCst);
        let port = u16::try_from(15_000 + (std::process::id() * 37 + step) % 15_000).unwrap();
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
