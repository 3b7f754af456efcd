//! Faults of a database node that need more than a signal: its clock, its disk, its connections, a planned change of
//! the primary. All of it runs as the node's own user, inside its container.

use std::time::Duration;

use super::engine::Engine;

/// libfaketime reads the node's offset from here, once a second (docker/postgres/entrypoint, in drills only).
const CLOCK_FILE: &str = "/var/lib/postgresql/faketime";
/// Until every process of the node has read its offset anew, with room to spare.
const CLOCK_SETTLES: Duration = Duration::from_millis(1_500);

const STEP_CLOCK: &str = r#"
set -eu
grep -qz '^FAKETIME_TIMESTAMP_FILE=' /proc/1/environ \
    || { echo "the node's clock cannot be moved: start it with docker/compose.drill.yml" >&2; exit 1; }
printf '%s' "$2" > "$1.new"
mv "$1.new" "$1"
"#;

const FILLER: &str = "/var/lib/postgresql/everbeat-drill-filler";

/// Only a file system in memory of at most 4 GiB is ever filled: anything else would be the host's disk.
const FILL_DISK: &str = r#"
set -eu
at=${1%/*}
[ "$(stat -f -c %T "$at")" = tmpfs ] \
    || { echo "the node's disk has no limit of its own: start it with docker/compose.drill.yml" >&2; exit 1; }
[ "$(($(stat -f -c '%S * %b' "$at")))" -le 4294967296 ] || { echo "the node's disk is too large to fill" >&2; exit 1; }
for block in 1M 4k 1; do dd if=/dev/zero bs=$block oflag=append conv=notrunc of="$1" status=none 2>/dev/null || :; done
[ "$(stat -f -c %a "$at")" -lt 16 ] || { echo "the disk did not get full" >&2; exit 1; }
"#;

/// Opens connections as a role of its own until none is left, takes each that comes free, and ends by itself when the
/// drill has died. `argv`: the role, its password, seconds, the file that says that all are taken, and the one that says
/// which process it is.
const STRANGER: &str = r#"
import os, sys, time
try:
    import psycopg2 as driver
except ImportError:
    import psycopg as driver
role, password, seconds, full, process = sys.argv[1:]
open(process, "w").write(str(os.getpid()))
until = time.monotonic() + float(seconds)
held = []
while time.monotonic() < until:
    try:
        held.append(driver.connect(host="127.0.0.1", dbname="everbeat", user=role, password=password,
                                   sslmode="require", application_name=role, connect_timeout=5))
    except driver.OperationalError:
        open(full, "w").write(str(len(held)))
        time.sleep(0.05)
"#;
const STRANGER_ROLE: &str = "everbeat_drill_stranger";
const STRANGER_FULL: &str = "/tmp/everbeat-drill-stranger";
const STRANGER_PROCESS: &str = "/tmp/everbeat-drill-stranger-process";
const STRANGER_LIMIT: Duration = Duration::from_mins(1);
/// Longer than any scenario holds it.
const STRANGER_SECONDS: &str = "120";

/// `$1`: the file that says which process it is; it may be an old one, and the number another process's by now. Looking
/// through all processes instead would take longer than a fault, since there are hundreds then.
const DISMISS_STRANGER: &str = r#"
if pid=$(cat "$1" 2>/dev/null) && tr '\0' ' ' < "/proc/$pid/cmdline" 2>/dev/null | grep -q ' everbeat_drill_stranger '; then
    kill -KILL "$pid" || :
fi
rm -f "$1" "$2"
"#;

/// Moves the node's wall clock so far from the host's. Monotonic clocks stay.
pub(super) async fn step_clock(engine: &Engine, id: &str, seconds: i8) -> Result<(), String> {
    let offset = format!("{seconds:+}s");
    engine.shell(id, STEP_CLOCK, &[CLOCK_FILE, &offset]).await?.success("moving a node's clock")?;
    tokio::time::sleep(CLOCK_SETTLES).await;
    Ok(())
}

pub(super) async fn restore_clock(engine: &Engine, id: &str) -> Result<(), String> {
    forget_clock(engine, id).await?;
    tokio::time::sleep(CLOCK_SETTLES).await;
    Ok(())
}

/// The same without waiting until every process has noticed.
pub(super) async fn forget_clock(engine: &Engine, id: &str) -> Result<(), String> {
    remove(engine, id, CLOCK_FILE).await
}

pub(super) async fn fill_disk(engine: &Engine, id: &str) -> Result<(), String> {
    engine.shell(id, FILL_DISK, &[FILLER]).await?.success("filling a node's disk").map(drop)
}

pub(super) async fn empty_disk(engine: &Engine, id: &str) -> Result<(), String> {
    remove(engine, id, FILLER).await
}

async fn remove(engine: &Engine, id: &str, path: &str) -> Result<(), String> {
    engine.shell(id, "rm -f \"$1\"", &[path]).await?.success("removing a file").map(drop)
}

/// What an exec ends with when its container does (128 + SIGKILL).
const ENDED_WITH_CONTAINER: i64 = 137;

/// Hands the primary's role over to the synchronous standby; returns when the primary's container, which starts again by
/// itself, has stopped.
pub(super) async fn switch_over(engine: &Engine, id: &str) -> Result<(), String> {
    let command = vec!["/usr/local/lib/everbeat/switchover".to_owned()];
    let output = engine.exec(id, command).await?;
    if output.status == ENDED_WITH_CONTAINER { Ok(()) } else { output.success("the switchover").map(drop) }
}

/// Runs SQL as the superuser of a node.
async fn sql(engine: &Engine, id: &str, text: &str) -> Result<String, String> {
    let command =
        ["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", "/run/postgresql", "-U", "postgres", "-d", "everbeat"];
    let command = command.into_iter().chain(["-c", text]).map(str::to_owned).collect();
    engine.exec(id, command).await?.success("psql")
}

/// A stranger takes every connection that an ordinary role can get, and keeps taking them.
pub(super) async fn take_connections(engine: &Engine, id: &str) -> Result<(), String> {
    let password = engine.shell(id, "cat /proc/sys/kernel/random/uuid", &[]).await?.success("a password")?;
    let password = password.trim();
    let make = format!("drop role if exists {STRANGER_ROLE}; create role {STRANGER_ROLE} login password '{password}'");
    sql(engine, id, &make).await?;
    let command =
        ["python3", "-c", STRANGER, STRANGER_ROLE, password, STRANGER_SECONDS, STRANGER_FULL, STRANGER_PROCESS];
    engine.exec_detached(id, command.map(str::to_owned).to_vec()).await?;
    let all_taken = async {
        while engine.shell(id, "test -s \"$1\"", &[STRANGER_FULL]).await?.status != 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    };
    let waited = tokio::time::timeout(STRANGER_LIMIT, all_taken).await;
    waited.unwrap_or_else(|_| Err("the stranger did not get all connections".to_owned()))
}

/// Ends the stranger.
pub(super) async fn dismiss_stranger(engine: &Engine, id: &str) -> Result<(), String> {
    let files = [STRANGER_PROCESS, STRANGER_FULL];
    engine.shell(id, DISMISS_STRANGER, &files).await?.success("ending the stranger").map(drop)
}

/// Removes the stranger's role, where `id` is the primary; a standby gets it from there.
pub(super) async fn forget_stranger(engine: &Engine, id: &str) -> Result<(), String> {
    if sql(engine, id, "select pg_is_in_recovery()").await?.trim() == "f" {
        let ended =
            format!("select pg_terminate_backend(pid, 2000) from pg_stat_activity where usename = '{STRANGER_ROLE}'");
        sql(engine, id, &ended).await?;
        sql(engine, id, &format!("drop role if exists {STRANGER_ROLE}")).await?;
    }
    Ok(())
}
