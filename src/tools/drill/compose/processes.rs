//! Processes inside containers: stopped and continued, killed, found by their program.
//!
//! The first process of a container ignores SIGSTOP from inside, so it is stopped through the engine. A database node
//! has many processes under its first one, which only waits for them: there all others are stopped, from inside.

use super::engine::Engine;

/// Every process that the container's user may signal, but the first and the shell itself.
const STOP_ALL: &str = "kill -STOP -1";
const CONTINUE_ALL: &str = "kill -CONT -1";

/// `$1`: the signal. Patroni is the Python program that is not the first process; that one is Patroni too, but only
/// hands on signals and reaps.
const SIGNAL_PATRONI: &str = r#"
found=0
for process in /proc/[0-9]*; do
    pid=${process#/proc/}
    case $(readlink "$process/exe") in
    */python3*) [ "$pid" = 1 ] || { kill "-$1" "$pid" && found=1; } ;;
    esac
done
[ $found = 1 ] || { echo "no Patroni runs here" >&2; exit 1; }
"#;

const KILL_POSTMASTER: &str = "kill -KILL \"$(head -n 1 /var/lib/postgresql/data/postmaster.pid)\"";

/// The third field of /proc/1/stat: `T` when it was stopped.
const FIRST_STATE: &str = "sed 's/^.*) \\(.\\).*/\\1/' /proc/1/stat";

/// SIGSTOP to the service's process.
pub async fn pause(engine: &Engine, id: &str) -> Result<(), String> {
    engine.signal(id, "SIGSTOP").await
}

/// SIGCONT, if it is stopped: a signal through the engine also tells it not to restart the container.
pub async fn resume(engine: &Engine, id: &str) -> Result<(), String> {
    let state = engine.shell(id, FIRST_STATE, &[]).await?.success("reading a process's state")?;
    if state.trim() == "T" { engine.signal(id, "SIGCONT").await } else { Ok(()) }
}

/// Stops PostgreSQL with all its backends, and Patroni.
pub async fn pause_node(engine: &Engine, id: &str) -> Result<(), String> {
    engine.shell(id, STOP_ALL, &[]).await?.success("stopping a database node's processes").map(drop)
}

pub async fn resume_node(engine: &Engine, id: &str) -> Result<(), String> {
    engine.shell(id, CONTINUE_ALL, &[]).await?.success("continuing a database node's processes").map(drop)
}

/// SIGSTOP to Patroni; its PostgreSQL goes on.
pub async fn freeze_patroni(engine: &Engine, id: &str) -> Result<(), String> {
    engine.shell(id, SIGNAL_PATRONI, &["STOP"]).await?.success("freezing Patroni").map(drop)
}

pub async fn kill_postmaster(engine: &Engine, id: &str) -> Result<(), String> {
    engine.shell(id, KILL_POSTMASTER, &[]).await?.success("killing the postmaster").map(drop)
}

const SAMPLE: &str = "ls /proc/1/fd | wc -l; sed -n 's/^VmRSS:[^0-9]*\\([0-9]*\\) kB/\\1/p' /proc/1/status";

/// Open descriptors, and resident memory in bytes, of the service's process.
pub async fn sample(engine: &Engine, id: &str) -> Result<(f64, f64), String> {
    let text = engine.shell(id, SAMPLE, &[]).await?.success("looking at a process")?;
    figures(&text).ok_or_else(|| format!("a process shows no figures: {text:?}"))
}

fn figures(text: &str) -> Option<(f64, f64)> {
    let mut lines = text.lines().map(|line| line.trim().parse::<u32>().ok());
    let (fds, resident_kib) = (lines.next()??, lines.next()??);
    Some((f64::from(fds), f64::from(resident_kib) * 1024.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_two_numbers() {
        assert_eq!(figures("21\n5120\n"), Some((21.0, 5_242_880.0)));
        for bad in ["", "21\n", "21\nnone\n"] {
            assert_eq!(figures(bad), None, "{bad:?}");
        }
    }
}
