//! A private PostgreSQL cluster: made, started and stopped by us, and never a server that happens to run.
//!
//! The server runs under a small shell that reads from a pipe we hold. When this process ends, however it ends, the
//! pipe closes and the shell stops the server: `kill -9` of the owner leaves nothing behind. Started by root, all of
//! it runs as an unprivileged user, since PostgreSQL refuses root.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::config::missing_programs;

/// Major versions that Everbeat is tested with; the newest installed one is taken for a new cluster.
const MAJORS: [u32; 4] = [18, 17, 16, 15];
/// What the keeper's shell runs, itself included.
const PROGRAMS: [&str; 3] = ["sh", "sleep", "rm"];
/// Crash recovery may take a while after `kill -9`.
const START_LIMIT: Duration = Duration::from_mins(1);
/// The superuser of the private cluster, who owns the schema.
pub const OWNER: &str = "everbeat_owner";

/// Stops the server when dropped.
pub struct Cluster {
    keeper: Child,
    port: u16,
    log: PathBuf,
}

/// How to run a cluster.
pub struct ClusterOptions<'a> {
    /// The directory that holds `data/`, `log` and the socket; made if missing.
    pub dir: &'a Path,
    /// The superuser's password, used when the cluster is made.
    pub password: &'a str,
    /// Further settings, `name=value`.
    pub settings: &'a [&'a str],
    /// On 127.0.0.1; a free one if it does not matter. With one, a cluster that was stopped comes back where it was.
    pub port: Option<u16>,
    /// For tests: nothing survives the machine's crash, and the directory is removed at the end.
    pub throwaway: bool,
}

impl Cluster {
    /// Makes the cluster if there is none, and starts it.
    ///
    /// # Errors
    /// One sentence that says what to do.
    pub fn start(options: &ClusterOptions) -> Result<Self, String> {
        let missing = missing_programs(&PROGRAMS);
        if !missing.is_empty() {
            return Err(format!(
                "{} not found in any directory of PATH: PostgreSQL is started and stopped with it; install the packages \
                 `dash` and `coreutils`, or set PATH",
                missing.join(", ")
            ));
        }
        let data = options.dir.join("data");
        let user = unprivileged_user()?;
        make_dir(options.dir, user)?;
        let bin = binaries(&data)?;
        if !data.join("PG_VERSION").exists() {
            init(options, &bin, &data, user)?;
        }
        stop_leftover(&data)?;
        let port = options.port.map_or_else(free_port, Ok)?;
        let log = options.dir.join("log");
        let keeper = spawn_keeper(options, &bin, port, user)?;
        let mut cluster = Self { keeper, port, log };
        cluster.wait_until_ready(&bin)?;
        Ok(cluster)
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    fn wait_until_ready(&mut self, bin: &Path) -> Result<(), String> {
        let pause = Duration::from_millis(50);
        for _ in 0..(START_LIMIT.as_millis() / pause.as_millis()) {
            let ready = Command::new(bin.join("pg_isready"))
                .args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string()])
                .status()
                .map_err(|e| format!("cannot run pg_isready: {e}"))?;
            if ready.success() {
                return Ok(());
            }
            if let Ok(Some(_)) = self.keeper.try_wait() {
                break;
            }
            std::thread::sleep(pause);
        }
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let tail: Vec<&str> = log.lines().rev().take(5).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        Err(format!("PostgreSQL did not start; the end of {}:\n{}", self.log.display(), tail.join("\n")))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

/// `(uid, gid)` to run as when we are root.
pub(super) fn unprivileged_user() -> Result<Option<(u32, u32)>, String> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd").map_err(|e| format!("cannot read /etc/passwd: {e}"))?;
    let find = |name: &str| {
        let fields: Vec<&str> = users.lines().find(|line| line.split(':').next() == Some(name))?.split(':').collect();
        Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
    };
    find("postgres")
        .or_else(|| find("nobody"))
        .map(Some)
        .ok_or_else(|| "PostgreSQL refuses to run as root, and there is no user postgres or nobody".to_owned())
}

pub(super) fn make_dir(dir: &Path, user: Option<(u32, u32)>) -> Result<(), String> {
    let say = |e: std::io::Error| format!("cannot prepare {}: {e}", dir.display());
    fs::create_dir_all(dir).map_err(say)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(say)?;
    if let Some((uid, gid)) = user {
        chown(dir, Some(uid), Some(gid)).map_err(say)?;
        if let Some(closed) = dir.ancestors().skip(1).find(|a| !passable(a)) {
            return Err(format!(
                "PostgreSQL runs as an unprivileged user, who may not enter {}: use a directory that others may enter",
                closed.display()
            ));
        }
    }
    Ok(())
}

/// May everybody pass through this directory?
pub fn passable(dir: &Path) -> bool {
    fs::metadata(dir).is_ok_and(|meta| meta.mode() & 0o001 != 0) || dir.as_os_str().is_empty()
}

/// The directory of the server's programs: of the data's major version, or the newest one installed.
pub(super) fn binaries(data: &Path) -> Result<PathBuf, String> {
    let at = |major: u32| {
        let dirs = [format!("/usr/lib/postgresql/{major}/bin"), format!("/usr/pgsql-{major}/bin")];
        dirs.into_iter().map(PathBuf::from).find(|dir| dir.join("postgres").exists())
    };
    let installed: Vec<u32> = MAJORS.into_iter().filter(|major| at(*major).is_some()).collect();
    if let Ok(version) = fs::read_to_string(data.join("PG_VERSION")) {
        let major: u32 = version.trim().parse().map_err(|_| format!("{} is unreadable", data.display()))?;
        return at(major).ok_or_else(|| {
            format!(
                "the data in {} is of PostgreSQL {major}, but installed is {installed:?}: install postgresql-{major}, \
                 or remove that directory to begin anew",
                data.display()
            )
        });
    }
    installed.first().and_then(|major| at(*major)).ok_or_else(|| {
        "PostgreSQL 15 to 18 is not installed: run ./script/dev, or install the package `postgresql`".to_owned()
    })
}

fn init(options: &ClusterOptions, bin: &Path, data: &Path, user: Option<(u32, u32)>) -> Result<(), String> {
    // A cluster is made beside its place and then moved, so that a kill in between leaves nothing half made.
    let fresh = options.dir.join("data.new");
    let _ = fs::remove_dir_all(&fresh);
    let password_file = options.dir.join("password");
    write_for(&password_file, options.password, user).map_err(|e| format!("cannot write the password file: {e}"))?;
    let mut initdb = Command::new(bin.join("initdb"));
    initdb
        .arg("-D")
        .arg(&fresh)
        .args(["-U", OWNER, "-E", "UTF8", "--locale=C.UTF-8", "--auth=scram-sha-256"])
        .arg(format!("--pwfile={}", password_file.display()))
        .current_dir("/");
    if options.throwaway {
        initdb.arg("--no-sync");
    } else {
        initdb.arg("--data-checksums");
    }
    if let Some((uid, gid)) = user {
        initdb.uid(uid).gid(gid);
    }
    let output = initdb.output().map_err(|e| format!("cannot run initdb: {e}"))?;
    let _ = fs::remove_file(&password_file);
    if !output.status.success() {
        return Err(format!("initdb failed: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    fs::rename(&fresh, data).map_err(|e| format!("cannot move the new cluster into place: {e}"))
}

pub(super) fn write_for(path: &Path, text: &str, user: Option<(u32, u32)>) -> std::io::Result<()> {
    let _ = fs::remove_file(path);
    let mut file = fs::File::create_new(path)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    file.write_all(text.as_bytes())?;
    match user {
        Some((uid, gid)) => chown(path, Some(uid), Some(gid)),
        None => Ok(()),
    }
}

/// The program of a process and its arguments; none if there is no such process. These may be read of anybody's, unlike
/// the links to its program and its directory: root in a container may not follow those of other users.
pub fn arguments_of(pid: i32) -> Vec<PathBuf> {
    let text = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let arguments = text.split(|byte| *byte == 0).filter(|argument| !argument.is_empty());
    arguments.map(|argument| PathBuf::from(String::from_utf8_lossy(argument).into_owned())).collect()
}

/// A server of an earlier run that is still shutting down, or whose keeper was killed together with its owner.
fn stop_leftover(data: &Path) -> Result<(), String> {
    let Ok(text) = fs::read_to_string(data.join("postmaster.pid")) else { return Ok(()) };
    let Some(pid) = text.lines().next().and_then(|line| line.trim().parse::<i32>().ok()) else { return Ok(()) };
    let whole = data.canonicalize().ok();
    let of_data = |argument: &PathBuf| argument == data || (whole.is_some() && argument.canonicalize().ok() == whole);
    let running = || arguments_of(pid).iter().skip(1).any(of_data);
    if !running() {
        return Ok(());
    }
    let Some(process) = rustix::process::Pid::from_raw(pid) else { return Ok(()) };
    let _ = rustix::process::kill_process(process, rustix::process::Signal::INT);
    for _ in 0..200 {
        if !running() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Err(format!("a PostgreSQL server (process {pid}) still uses {} and does not stop", data.display()))
}

fn free_port() -> Result<u16, String> {
    let say = |e: std::io::Error| format!("no free port on 127.0.0.1: {e}");
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).map_err(say)?;
    Ok(listener.local_addr().map_err(say)?.port())
}

/// The shell that holds the server: it stops it when its standard input closes.
fn spawn_keeper(options: &ClusterOptions, bin: &Path, port: u16, user: Option<(u32, u32)>) -> Result<Child, String> {
    const SCRIPT: &str = r#"dir=$1; throwaway=$2; shift 2
        "$@" >>"$dir/log" 2>&1 </dev/null & server=$!
        (while kill -0 $server 2>/dev/null; do sleep 1; done; kill $$ 2>/dev/null) & watch=$!
        trap 'gone=1' TERM
        read -r _
        kill $watch 2>/dev/null; kill -INT $server 2>/dev/null; wait $server
        [ "$throwaway" = yes ] && rm -rf "$dir"; exit 0"#;
    let mut keeper = Command::new("sh");
    keeper.args(["-c", SCRIPT, "everbeat-postgres"]).arg(options.dir).arg(if options.throwaway { "yes" } else { "no" });
    keeper.arg(bin.join("postgres")).arg("-D").arg(options.dir.join("data"));
    let mut set = |setting: String| {
        keeper.arg("-c").arg(setting);
    };
    set(format!("port={port}"));
    set("listen_addresses=127.0.0.1".to_owned());
    set("unix_socket_directories=".to_owned());
    if options.throwaway {
        for setting in ["fsync=off", "full_page_writes=off"] {
            set(setting.to_owned());
        }
    }
    options.settings.iter().for_each(|s| set((*s).to_owned()));
    keeper.current_dir("/").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    if let Some((uid, gid)) = user {
        keeper.uid(uid).gid(gid);
    }
    keeper.spawn().map_err(|e| format!("cannot start PostgreSQL: {e}"))
}
