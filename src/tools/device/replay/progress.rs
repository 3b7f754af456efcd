//! How far a file has got, for one device: saves sending it again, and nothing depends on it.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::client::{StateDir, state};
use crate::domain::digest::{hex, sha256};
use crate::domain::ids::DeviceId;

/// The acknowledged beginning of a file, and what became of its rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Progress {
    /// Rows from the first, all acknowledged: the sum of the others.
    pub rows: u64,
    pub stored: u64,
    pub duplicates: u64,
    pub rejected: u64,
}

impl Progress {
    pub fn add(&mut self, more: &Self) {
        self.rows += more.rows;
        self.stored += more.stored;
        self.duplicates += more.duplicates;
        self.rejected += more.rejected;
    }
}

/// `<state>/replay/<digest of file and device>.json`
pub(super) struct ProgressFile {
    path: PathBuf,
}

impl ProgressFile {
    pub fn new(state: &StateDir, file_sha256: &[u8; 32], device: DeviceId) -> anyhow::Result<Self> {
        let digest = sha256(&[file_sha256.as_slice(), device.0.as_bytes()].concat());
        Ok(Self { path: state.subdir("replay")?.join(format!("{}.json", hex(&digest[..16]))) })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn load(&self) -> anyhow::Result<Progress> {
        let named = || self.path.display().to_string();
        match fs::read(&self.path) {
            Ok(text) => serde_json::from_slice(&text).with_context(named),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Progress::default()),
            Err(error) => Err(error).with_context(named),
        }
    }

    /// Durable when it returns.
    pub fn store(&self, progress: &Progress) -> anyhow::Result<()> {
        Ok(state::replace_file(&self.path, &serde_json::to_vec(progress)?)?)
    }
}
