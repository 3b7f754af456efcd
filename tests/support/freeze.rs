//! A PostgreSQL server as a whole: found by its data directory, stopped in its tracks and let go again.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

/// The process that all others of the server come from.
pub fn postmaster(data: &Path) -> Pid {
    let text = std::fs::read_to_string(data.join("postmaster.pid")).unwrap();
    Pid::from_raw(text.lines().next().unwrap().trim().parse().unwrap()).unwrap()
}

/// SIGSTOP to every process of the server. Its sockets stay open, and the kernel goes on acknowledging.
pub fn freeze(data: &Path) -> Frozen {
    let postmaster = postmaster(data);
    kill_process(postmaster, Signal::STOP).unwrap();
    let mut stopped = children(postmaster);
    stopped.push(postmaster);
    for pid in &stopped {
        let _ = kill_process(*pid, Signal::STOP);
    }
    Frozen(stopped)
}

/// Thaws when dropped: a test that fails must still be able to stop the server.
pub struct Frozen(Vec<Pid>);

impl Drop for Frozen {
    fn drop(&mut self) {
        for pid in &self.0 {
            let _ = kill_process(*pid, Signal::CONT);
        }
    }
}

/// Processes whose parent it is. In /proc/PID/stat the parent stands second after the name in parentheses.
fn children(parent: Pid) -> Vec<Pid> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw) else {
            continue;
        };
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let of: Option<i32> = after_name.split_whitespace().nth(1).and_then(|text| text.parse().ok());
        if of.and_then(Pid::from_raw) == Some(parent) {
            found.push(pid);
        }
    }
    found
}
