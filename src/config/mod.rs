//! Settings: strings from files and the environment become validated values, with every error said at once.
//!
//! `config/default.toml` is part of the binary and holds every key; a key that it does not hold is unknown. Whatever
//! is laid over it (files in the order given, then the environment) must have the same shape. The subsystems own
//! their `Settings` types; this module depends on them, never the reverse.

mod bounds;
mod keys;
mod merge;
mod settings;

use std::fmt;
use std::path::PathBuf;

pub use keys::Keys;
pub use settings::Settings;

/// Everything that is wrong, one sentence each.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<String>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for ConfigErrors {}

/// Reads the defaults, `files` in order, and the environment (`EVERBEAT__SECTION__KEY`).
pub fn load(files: &[PathBuf]) -> Result<(Keys, Settings), ConfigErrors> {
    let keys = merge::merge(files, std::env::vars().collect())?;
    let settings = settings::validate(&keys)?;
    Ok((keys, settings))
}

/// The value of one variable of the environment that is not a setting (a token for a command).
pub fn secret_from_env(name: &str) -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "the environment is read here")]
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Those of these programs that no directory of PATH has.
pub fn missing_programs<'a>(names: &[&'a str]) -> Vec<&'a str> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let has = |name: &str| directories.iter().any(|directory| directory.join(name).is_file());
    names.iter().copied().filter(|name| !has(name)).collect()
}

/// What this host is called; a container has a name of its own. `None` where the system does not say.
fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?.trim().to_owned();
    (!name.is_empty()).then_some(name)
}

/// The file that this process runs, for programs that start another of their kind.
///
/// # Errors
/// When the system does not say.
pub fn this_program() -> std::io::Result<PathBuf> {
    std::env::current_exe()
}

/// Where the machine keeps what may be lost.
pub fn temporary_dir() -> PathBuf {
    std::env::temp_dir()
}
