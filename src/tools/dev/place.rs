//! The directory that everything is kept in, and the lock that makes it one start at a time.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::postgres;
use crate::domain::digest;

pub(in crate::tools) struct Place {
    root: PathBuf,
    database: PathBuf,
    /// Ends with the process.
    _lock: File,
}

impl Place {
    pub(in crate::tools) fn open(dir: &Path) -> Result<Self, String> {
        let say = |error: std::io::Error| format!("cannot use {}: {error}", dir.display());
        fs::DirBuilder::new().recursive(true).mode(0o755).create(dir).map_err(say)?;
        let root = dir.canonicalize().map_err(say)?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(root.join("lock")).map_err(say)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(format!("another Everbeat runs in {}: stop it first", root.display()));
            }
            Err(TryLockError::Error(error)) => return Err(say(error)),
        }
        let database = database_dir(&root);
        Ok(Self { root, database, _lock: lock })
    }

    pub(in crate::tools) fn root(&self) -> &Path {
        &self.root
    }

    pub(in crate::tools) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub(in crate::tools) fn database_dir(&self) -> &Path {
        &self.database
    }

    pub(in crate::tools) fn read(&self, name: &str) -> Result<String, String> {
        let path = self.path(name);
        fs::read_to_string(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))
    }

    /// Replaces a file that only its owner may read.
    pub(in crate::tools) fn write(&self, name: &str, text: &str) -> Result<(), String> {
        let (path, fresh) = (self.path(name), self.path(&format!("{name}.new")));
        let write = || {
            let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&fresh)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&fresh, &path)
        };
        write().map_err(|error| format!("cannot write {}: {error}", path.display()))
    }

    /// Removes a directory with all that is in it.
    pub(in crate::tools) fn remove(&self, name: &str) -> Result<(), String> {
        let path = self.path(name);
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(format!("cannot remove {}: {error}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// The password of one database user: made once, then kept.
    pub(in crate::tools) fn password(&self, user: &str) -> Result<String, String> {
        let name = format!("password-{user}");
        if let Ok(text) = fs::read_to_string(self.path(&name)) {
            return Ok(text);
        }
        // Two version 4 UUIDs carry 244 bits of the operating system's randomness.
        let secret = format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple());
        self.write(&name, &secret)?;
        Ok(secret)
    }
}

/// Under the place; but a server of an unprivileged user cannot live below a directory that it may not enter (a clone
/// in root's home), and goes to a directory of its own then.
fn database_dir(root: &Path) -> PathBuf {
    let reachable = root.ancestors().all(postgres::passable);
    if reachable || !rustix::process::geteuid().is_root() {
        return root.join("postgres");
    }
    let id = digest::hex(&digest::sha256(root.as_os_str().as_encoded_bytes())[..8]);
    PathBuf::from("/var/lib/everbeat-dev").join(id)
}
