//! A copy of a private cluster that streams from it.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::postgres::{ClusterOptions, OWNER, binaries, make_dir, unprivileged_user, write_for};

/// Makes the directory's data anew as a copy of the cluster at `port` on 127.0.0.1, ready to be started as its
/// standby. What was there is lost.
///
/// # Errors
/// One sentence.
pub(in crate::tools) fn copy(options: &ClusterOptions, port: u16) -> Result<(), String> {
    let say = |error: std::io::Error| format!("cannot prepare {}: {error}", options.dir.display());
    let (data, fresh) = (options.dir.join("data"), options.dir.join("data.new"));
    let user = unprivileged_user()?;
    make_dir(options.dir, user)?;
    for old in [&data, &fresh] {
        match fs::remove_dir_all(old) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(say(error)),
            _ => {}
        }
    }
    let mut backup = Command::new(binaries(&data)?.join("pg_basebackup"));
    backup
        .args([
            "-h",
            "127.0.0.1",
            "-p",
            &port.to_string(),
            "-U",
            OWNER,
            "--checkpoint=fast",
            "--wal-method=stream",
            "-D",
        ])
        .arg(&fresh)
        .env("PGPASSWORD", options.password)
        .current_dir("/");
    if options.throwaway {
        backup.arg("--no-sync");
    }
    if let Some((uid, gid)) = user {
        backup.uid(uid).gid(gid);
    }
    let output = backup.output().map_err(|error| format!("cannot run pg_basebackup: {error}"))?;
    if !output.status.success() {
        return Err(format!("pg_basebackup failed: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    write_for(&fresh.join("standby.signal"), "", user).map_err(say)?;
    fs::rename(&fresh, &data).map_err(say)
}

/// Where a standby streams from, as `primary_conninfo` has it. The password goes to a file that only the server reads.
///
/// # Errors
/// One sentence.
pub(in crate::tools) fn source(options: &ClusterOptions, name: &str, port: u16) -> Result<String, String> {
    let user = unprivileged_user()?;
    make_dir(options.dir, user)?;
    let file = options.dir.join("passfile");
    let line = format!("*:*:*:{OWNER}:{}\n", options.password);
    write_for(&file, &line, user).map_err(|error| format!("cannot write {}: {error}", file.display()))?;
    Ok(format!(
        "host=127.0.0.1 port={port} user={OWNER} passfile={} application_name={name} connect_timeout=2",
        file.display()
    ))
}
