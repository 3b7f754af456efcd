//! Commands of the people who run a deployment: each does one thing and ends.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use uuid::Uuid;

use crate::config::{self, Settings};
use crate::domain::access::Role;
use crate::domain::random::Random;
use crate::domain::time::rfc3339;
use crate::lifecycle::shutdown::Shutdown;
use crate::lifecycle::tasks::Tasks;
use crate::tools::deploy;

#[derive(clap::Args)]
pub(super) struct MintArgs {
    #[command(flatten)]
    config: super::ConfigArgs,
    /// Whose token it is: a name or an address of a person or service
    #[arg(long)]
    subject: String,
    /// `viewer`, `operator` or `admin` for every fleet; or FLEET=ROLE for one; may be repeated. Replaces all roles of
    /// the operator; without it they stay
    #[arg(long = "role", value_name = "[FLEET=]ROLE")]
    roles: Vec<String>,
    /// How long it is valid
    #[arg(long, default_value_t = 24, value_name = "HOURS", value_parser = clap::value_parser!(u64).range(1..=8_760))]
    ttl_h: u64,
}

#[derive(clap::Args)]
pub(super) struct RevokeArgs {
    #[command(flatten)]
    config: super::ConfigArgs,
    /// Which token: `token mint` names it on standard error
    #[arg(long, value_name = "UUID")]
    jti: Uuid,
}

fn settings(files: &[PathBuf]) -> Result<Settings, String> {
    let loaded = config::load(files).map_err(|errors| format!("the settings are not usable:\n{errors}"))?;
    Ok(loaded.1)
}

fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Runs work that needs the pools, and takes them down again.
async fn with_tasks<T>(work: impl AsyncFnOnce(&Tasks) -> Result<T, String>) -> Result<T, String> {
    let tasks = Tasks::new(Shutdown::new());
    let outcome = work(&tasks).await;
    tasks.shutdown().abort();
    let _ = tasks.finish(Duration::from_secs(1)).await;
    outcome
}

pub(super) async fn migrate(files: &[PathBuf]) -> Result<(), String> {
    let settings = settings(files)?;
    deploy::migrate(&settings).await?;
    say("the schema is up to date");
    Ok(())
}

pub(super) async fn init(files: &[PathBuf], server_names: Vec<String>, join: bool) -> Result<(), String> {
    let settings = settings(files)?;
    let random = Random::from_os();
    with_tasks(async |tasks| deploy::init(&settings, tasks, random, &server_names, join).await).await?;
    let dir = settings.pki_dir.display();
    if join {
        say(&format!("the keys in {dir} are the ones that the database publishes"));
    } else {
        say(&format!("made the PKI in {dir}; keep {dir}/root.key offline, it is only needed for the next issuing CA"));
    }
    Ok(())
}

pub(super) async fn mint(args: MintArgs) -> Result<(), String> {
    let settings = settings(&args.config.config)?;
    let roles = roles(&args.roles)?;
    let ttl = Duration::from_secs(args.ttl_h.saturating_mul(3_600));
    let request = deploy::MintRequest { subject: args.subject, roles, ttl };
    let random = Random::from_os();
    let minted = with_tasks(async |tasks| deploy::minted(&settings, tasks, random, request).await).await?;
    // Apart from the token, so that `$(everbeat token mint …)` is the token alone.
    let _ = writeln!(std::io::stderr(), "jti: {}, valid until {}", minted.jti, rfc3339(minted.expires_at));
    say(&minted.text);
    Ok(())
}

/// Reads `ROLE` and `FLEET=ROLE`, each scope once: of two roles for one scope, which is meant?
fn roles(texts: &[String]) -> Result<Vec<(Option<String>, Role)>, String> {
    let mut roles: Vec<(Option<String>, Role)> = Vec::new();
    for text in texts {
        let (fleet, role) = text.split_once('=').map_or((None, text.as_str()), |(fleet, role)| (Some(fleet), role));
        if roles.iter().any(|(known, _)| known.as_deref() == fleet) {
            let scope = fleet.map_or_else(|| "every fleet".to_owned(), |fleet| format!("fleet {fleet:?}"));
            return Err(format!("--role: two roles for {scope}"));
        }
        roles.push((fleet.map(str::to_owned), role.parse()?));
    }
    Ok(roles)
}

pub(super) async fn revoke(args: RevokeArgs) -> Result<(), String> {
    let settings = settings(&args.config.config)?;
    let random = Random::from_os();
    with_tasks(async |tasks| deploy::revoke(&settings, tasks, random, args.jti).await).await?;
    say(&format!("{} is revoked", args.jti));
    Ok(())
}

pub(super) fn config_check(files: &[PathBuf]) -> ExitCode {
    match config::load(files) {
        Ok(_) => {
            say("the settings are good");
            ExitCode::SUCCESS
        }
        Err(errors) => super::failed(&format!("the settings are not usable:\n{errors}")),
    }
}

pub(super) fn config_print(files: &[PathBuf]) -> ExitCode {
    let printed = config::load(files).map_err(|errors| errors.to_string());
    match printed.and_then(|(keys, _)| keys.printable().map_err(|error| error.to_string())) {
        Ok(text) => {
            say(&text);
            ExitCode::SUCCESS
        }
        Err(error) => super::failed(&error),
    }
}

/// Ready: exit status 0.
pub(super) async fn healthcheck(url: String) -> Result<(), String> {
    let (status, body) = crate::client::plain_get(&url, Duration::from_secs(2)).await?;
    if status == 200 { Ok(()) } else { Err(format!("{status}: {}", body.trim())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_scope_has_one_role() {
        let of = |texts: &[&str]| roles(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        let pumps = Some("pumps".to_owned());
        assert_eq!(of(&["viewer", "pumps=admin"]), Ok(vec![(None, Role::Viewer), (pumps, Role::Admin)]));
        assert!(of(&["viewer", "admin"]).unwrap_err().contains("every fleet"));
        assert!(of(&["pumps=viewer", "pumps=viewer"]).unwrap_err().contains("pumps"));
        assert!(of(&["king"]).is_err());
    }
}
