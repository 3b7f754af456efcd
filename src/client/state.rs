//! A device's identity on disk.
//!
//! ```text
//! <dir>/current -> generations/<n>         the identity in force; replaced by one rename
//! <dir>/generations/<n>/key.pem            private key, mode 0600
//!                       certificate.pem    the device's certificate, then the issuing CA's
//!                       ca.pem             whom the device trusts
//!                       device.json        id, name, fleet, endpoints, when to renew
//! <dir>/pending-key.pem                    a key for which a certificate was asked, and none has come yet
//! <dir>/lock                               held while a certificate is being asked for
//! ```
//!
//! A generation is written and synced whole before `current` points to it, so a kill at any point leaves the old
//! identity or the new one. The pending key is on disk before the request that names it leaves, so that a lost answer
//! is asked for again with the same key. Calls block on the disk for a few small files.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::keys;
use crate::wire::device::DeviceRef;
use crate::wire::timestamp;

/// The state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("{}: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
    /// Other users could read the private key.
    #[error("{}: others may read this key; set its mode to 0600", path.display())]
    Exposed { path: PathBuf },
    #[error("{}: {detail}", path.display())]
    Unreadable { path: PathBuf, detail: String },
    #[error("{}: there is no device here; enroll one first", path.display())]
    Empty { path: PathBuf },
    /// The directory belongs to a device of another name.
    #[error("{}: the device {name:?} lives here already", path.display())]
    Occupied { path: PathBuf, name: String },
    #[error("{}: another process is asking for a certificate", path.display())]
    Locked { path: PathBuf },
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_owned();
    move |error| StateError::Io { path, error }
}

/// Everything that a device needs to call.
#[derive(Clone, Debug)]
pub struct Identity {
    pub record: DeviceFile,
    pub key_pem: SecretString,
    /// The device's certificate, then the issuing CA's.
    pub certificate_pem: String,
    pub ca_pem: String,
}

/// `device.json`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceFile {
    pub device: DeviceRef,
    pub endpoints: Vec<String>,
    #[serde(with = "timestamp")]
    pub not_after: OffsetDateTime,
    #[serde(with = "timestamp")]
    pub renew_after: OffsetDateTime,
}

/// A directory for one device, readable by its owner only.
#[derive(Clone, Debug)]
pub struct StateDir {
    dir: PathBuf,
}

/// Held while a certificate is being asked for; ends with the process at the latest.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl StateDir {
    /// Makes the directory if it is not there.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, StateError> {
        let dir = dir.into();
        make_dir(&dir.join("generations"))?;
        Ok(Self { dir })
    }

    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// A directory of its own for what a tool keeps beside the identity.
    pub fn subdir(&self, name: &str) -> Result<PathBuf, StateError> {
        let path = self.dir.join(name);
        make_dir(&path)?;
        Ok(path)
    }

    /// One process at a time asks for a certificate.
    pub fn lock(&self) -> Result<Lock, StateError> {
        let path = self.dir.join("lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let file = file.map_err(io_error(&path))?;
        match file.try_lock() {
            Ok(()) => Ok(Lock { _file: file }),
            Err(TryLockError::WouldBlock) => Err(StateError::Locked { path: self.dir.clone() }),
            Err(TryLockError::Error(error)) => Err(StateError::Io { path, error }),
        }
    }

    /// The identity in force; `None` if no device was enrolled here.
    pub fn load(&self) -> Result<Option<Identity>, StateError> {
        // Another process may put a new identity in force while we read, and remove the one that we began with.
        let moved = |outcome: &Result<_, StateError>| matches!(outcome, Err(StateError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound);
        let first = self.load_once();
        if moved(&first) { self.load_once() } else { first }
    }

    fn load_once(&self) -> Result<Option<Identity>, StateError> {
        let current = self.dir.join("current");
        // Resolved once, so that all four files are of one generation even if another process renews meanwhile.
        let generation = match fs::canonicalize(&current) {
            Ok(path) => path,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StateError::Io { path: current, error }),
        };
        let record = generation.join("device.json");
        let parsed = serde_json::from_str(&read(&record)?);
        Ok(Some(Identity {
            record: parsed.map_err(|error| StateError::Unreadable { path: record, detail: error.to_string() })?,
            key_pem: read_key(&generation.join("key.pem"))?,
            certificate_pem: read(&generation.join("certificate.pem"))?,
            ca_pem: read(&generation.join("ca.pem"))?,
        }))
    }

    /// The key to ask a certificate for: the pending one, or a new one that is on disk when this returns.
    pub fn pending_key(&self, _held: &Lock) -> Result<SecretString, super::ClientError> {
        let path = self.dir.join("pending-key.pem");
        if path.exists() {
            let pending = read_key(&path)?;
            // A kill between the rename and the removal leaves the key that is in force already.
            let spent = self.load()?.is_some_and(|now| now.key_pem.expose_secret() == pending.expose_secret());
            if !spent {
                return Ok(pending);
            }
        }
        let key = keys::generate()?;
        replace_file(&path, key.expose_secret().as_bytes())?;
        Ok(key)
    }

    /// The service will not certify the pending key.
    pub fn drop_pending_key(&self, _held: &Lock) -> Result<(), StateError> {
        let path = self.dir.join("pending-key.pem");
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StateError::Io { path, error }),
            _ => Ok(()),
        }
    }

    /// Puts a new identity in force, durably, and removes what it replaces.
    pub fn commit(&self, identity: &Identity, held: &Lock) -> Result<(), StateError> {
        let generations = self.dir.join("generations");
        let number = numbers(&generations)?.into_iter().max().unwrap_or(0) + 1;
        let generation = generations.join(number.to_string());
        make_dir(&generation)?;
        let record = serde_json::to_vec_pretty(&identity.record)
            .map_err(|error| StateError::Unreadable { path: generation.clone(), detail: error.to_string() })?;
        let files: [(&str, &[u8]); 4] = [
            ("key.pem", identity.key_pem.expose_secret().as_bytes()),
            ("certificate.pem", identity.certificate_pem.as_bytes()),
            ("ca.pem", identity.ca_pem.as_bytes()),
            ("device.json", &record),
        ];
        for (name, content) in files {
            write_synced(&generation.join(name), content)?;
        }
        sync_dir(&generation)?;
        sync_dir(&generations)?;
        self.point_to(number)?;
        self.drop_pending_key(held)?;
        for old in numbers(&generations)?.into_iter().filter(|old| *old != number) {
            let path = generations.join(old.to_string());
            fs::remove_dir_all(&path).map_err(io_error(&path))?;
        }
        Ok(())
    }

    fn point_to(&self, number: u64) -> Result<(), StateError> {
        let (current, fresh) = (self.dir.join("current"), self.dir.join("current.new"));
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error(&fresh)(error)),
            _ => {}
        }
        symlink(Path::new("generations").join(number.to_string()), &fresh).map_err(io_error(&fresh))?;
        fs::rename(&fresh, &current).map_err(io_error(&current))?;
        sync_dir(&self.dir)
    }
}

/// Replaces a file by one rename: a kill leaves the old content or the new. Mode 0600.
pub fn replace_file(path: &Path, content: &[u8]) -> Result<(), StateError> {
    let fresh = path.with_extension("new");
    write_synced(&fresh, content)?;
    fs::rename(&fresh, path).map_err(io_error(path))?;
    path.parent().map_or(Ok(()), sync_dir)
}

fn write_synced(path: &Path, content: &[u8]) -> Result<(), StateError> {
    let write = || {
        let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(path)?;
        file.write_all(content)?;
        file.sync_all()
    };
    write().map_err(io_error(path))
}

fn sync_dir(path: &Path) -> Result<(), StateError> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(io_error(path))
}

fn make_dir(path: &Path) -> Result<(), StateError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io_error(path))
}

fn read(path: &Path) -> Result<String, StateError> {
    fs::read_to_string(path).map_err(io_error(path))
}

fn read_key(path: &Path) -> Result<SecretString, StateError> {
    let mode = fs::metadata(path).map_err(io_error(path))?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(StateError::Exposed { path: path.to_owned() });
    }
    read(path).map(SecretString::from)
}

/// The generations in a directory; other names are left alone.
fn numbers(generations: &Path) -> Result<Vec<u64>, StateError> {
    let entries: Result<Vec<_>, _> = fs::read_dir(generations).map_err(io_error(generations))?.collect();
    let entries = entries.map_err(io_error(generations))?;
    Ok(entries.iter().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Temp(PathBuf);

    impl Temp {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("everbeat-state-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&dir);
            Self(dir)
        }
    }

    impl Drop for Temp {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn identity(name: &str) -> Identity {
        let device = DeviceRef {
            id: "0192f6d0-7b7a-7c3e-9d5e-0123456789ab".parse().unwrap(),
            name: name.to_owned(),
            fleet: "plant".to_owned(),
        };
        let at = OffsetDateTime::UNIX_EPOCH;
        let record = DeviceFile { device, endpoints: vec!["https://a".to_owned()], not_after: at, renew_after: at };
        Identity {
            record,
            key_pem: format!("key of {name}").into(),
            certificate_pem: format!("certificate of {name}"),
            ca_pem: "ca".to_owned(),
        }
    }

    /// All four files of one identity, or a panic.
    fn whole(state: &StateDir) -> String {
        let found = state.load().unwrap().unwrap();
        let name = found.record.device.name;
        assert_eq!(found.key_pem.expose_secret(), format!("key of {name}"));
        assert_eq!(found.certificate_pem, format!("certificate of {name}"));
        name
    }

    #[test]
    fn a_kill_leaves_the_old_identity_or_the_new() {
        let temp = Temp::new("kill");
        let state = StateDir::open(&temp.0).unwrap();
        assert!(state.load().unwrap().is_none());
        let lock = state.lock().unwrap();
        state.commit(&identity("old"), &lock).unwrap();

        // Killed while writing the next generation: half of it is there, and a link that was not renamed.
        let half = temp.0.join("generations/2");
        make_dir(&half).unwrap();
        write_synced(&half.join("key.pem"), b"key of new").unwrap();
        symlink("generations/2", temp.0.join("current.new")).unwrap();
        assert_eq!(whole(&state), "old");

        state.commit(&identity("new"), &lock).unwrap();
        assert_eq!(whole(&state), "new");
        assert_eq!(numbers(&temp.0.join("generations")).unwrap(), [3], "the old and the half one are gone");

        // Killed after the rename, before the removal of the old one.
        make_dir(&temp.0.join("generations/2")).unwrap();
        assert_eq!(whole(&state), "new");
    }

    #[test]
    fn a_pending_key_is_kept_until_it_is_spent() {
        let temp = Temp::new("pending");
        let state = StateDir::open(&temp.0).unwrap();
        let lock = state.lock().unwrap();
        let text = |key: &SecretString| key.expose_secret().to_owned();
        let first = state.pending_key(&lock).unwrap();
        assert_eq!(text(&state.pending_key(&lock).unwrap()), text(&first), "a lost answer is asked for with one key");

        let certified = Identity { key_pem: first.clone(), ..identity("a") };
        state.commit(&certified, &lock).unwrap();
        assert_ne!(text(&state.pending_key(&lock).unwrap()), text(&first));

        // Killed between the rename of `current` and the removal of the pending key.
        replace_file(&temp.0.join("pending-key.pem"), first.expose_secret().as_bytes()).unwrap();
        assert_ne!(text(&state.pending_key(&lock).unwrap()), text(&first), "a key in force is not asked for again");
    }

    #[test]
    fn a_key_that_others_may_read_is_refused() {
        let temp = Temp::new("mode");
        let state = StateDir::open(&temp.0).unwrap();
        state.commit(&identity("a"), &state.lock().unwrap()).unwrap();
        let key = temp.0.join("current/key.pem");
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(state.load(), Err(StateError::Exposed { .. })));
    }

    #[test]
    fn one_process_at_a_time_asks() {
        let temp = Temp::new("lock");
        let state = StateDir::open(&temp.0).unwrap();
        let held = state.lock().unwrap();
        assert!(matches!(state.lock(), Err(StateError::Locked { .. })));
        drop(held);
        assert!(state.lock().is_ok());
    }
}
