//! CPU time of processes and of all their children, from /proc (proc_pid_stat(5)).

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

/// The unit of utime and stime, USER_HZ: 100 on every Linux that runs this.
const TICKS_PER_SECOND: u64 = 100;

/// A process and what it has used.
struct Used {
    parent: u32,
    /// Its own, and that of children that have ended.
    ticks: u64,
}

/// CPU time of the process and of whatever it has started, so far; `None` if there is no such process.
pub fn of_tree(pid: u32) -> Option<Duration> {
    let all = processes(Path::new("/proc"));
    all.contains_key(&pid).then(|| {
        let ticks = all
            .iter()
            .filter(|(candidate, _)| descends(&all, **candidate, pid))
            .map(|(_, used)| used.ticks)
            .sum::<u64>();
        Duration::from_millis(ticks * 1_000 / TICKS_PER_SECOND)
    })
}

fn processes(root: &Path) -> HashMap<u32, Used> {
    let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| Some((pid, parse(&std::fs::read_to_string(root.join(pid.to_string()).join("stat")).ok()?)?)))
        .collect()
}

/// `pid (comm) state ppid … utime stime cutime cstime …`; the name may hold anything, also brackets.
fn parse(stat: &str) -> Option<Used> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |place: usize| fields.get(place)?.parse::<u64>().ok();
    let ticks = (11..15).map(number).sum::<Option<u64>>()?;
    Some(Used { parent: u32::try_from(number(1)?).ok()?, ticks })
}

fn descends(all: &HashMap<u32, Used>, mut pid: u32, ancestor: u32) -> bool {
    // Bounded: processes may come and go while they are read.
    for _ in 0..64 {
        if pid == ancestor {
            return true;
        }
        match all.get(&pid) {
            Some(used) if used.parent != 0 => pid = used.parent,
            _ => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_kernels_is_read_whatever_the_process_is_called() {
        let stat = "77 (a (b) c) S 12 77 77 0 -1 4194560 100 0 0 0 30 12 5 3 20 0 1 0 100 0 0";
        let used = parse(stat).unwrap();
        assert_eq!((used.parent, used.ticks), (12, 50));
        assert!(parse("77 (x").is_none() && parse("77 (x) S 1").is_none());
    }

    #[test]
    fn this_process_has_used_some() {
        // A tick is 10 ms; each look at /proc takes some of it.
        while of_tree(std::process::id()).unwrap().is_zero() {}
        assert!(of_tree(u32::MAX).is_none());
    }
}
