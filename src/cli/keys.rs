//! `everbeat keys …` and `everbeat ca …`: keys are replaced while devices talk. See docs/keys.md.

use std::path::PathBuf;

use comfy_table::Table;

use super::ConfigArgs;
use super::operate::{say, settings, with_tasks};
use super::operator::{second, with_header};
use crate::domain::random::Random;
use crate::domain::time::rfc3339;
use crate::identity::jwt::Audience;
use crate::store::key_life::Step;
use crate::store::key_views::{KeyRole, LiveReplica};
use crate::tools::key_life::{Desk, Listed, Made, Unknown};

#[derive(clap::Subcommand)]
pub(super) enum KeysCommand {
    /// Which keys sign tokens or are accepted, and which replicas have confirmed them
    List(ConfigArgs),
    /// Make the next key of an audience in pki.dir, and publish it. Signs nothing yet
    Next(AudienceArgs),
    /// Sign with the next key from now on; what the former one signed is accepted until `retire`
    Activate(AudienceArgs),
    /// Accept no more what the former key signed
    Retire(RetireKeyArgs),
}

#[derive(clap::Args)]
pub(super) struct AudienceArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Whose tokens
    #[arg(long, value_enum)]
    audience: For,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum For {
    /// Devices' access tokens
    Device,
    /// Operators' tokens
    Admin,
}

impl For {
    fn role(self) -> KeyRole {
        match self {
            Self::Device => KeyRole::Device,
            Self::Admin => KeyRole::Admin,
        }
    }

    fn audience(self) -> Audience {
        match self {
            Self::Device => Audience::Device,
            Self::Admin => Audience::Operator,
        }
    }
}

#[derive(clap::Args)]
pub(super) struct RetireKeyArgs {
    #[command(flatten)]
    audience: AudienceArgs,
    #[command(flatten)]
    which: WhichArgs,
}

#[derive(clap::Args)]
struct WhichArgs {
    // Names of token keys may begin with a hyphen.
    /// Only this key, also one that was never active. Otherwise every one that is retiring
    #[arg(long, value_name = "KEY", allow_hyphen_values = true)]
    key: Option<String>,
    /// It is compromised: do not wait for what it signed
    #[arg(long)]
    force: bool,
}

#[derive(clap::Subcommand)]
pub(super) enum CaCommand {
    /// Which CAs sign or are trusted, what they have signed, and which replicas have confirmed them
    List(ConfigArgs),
    /// Make the next issuing CA under the root in pki.dir, and publish it. Signs nothing yet
    Next(NextCaArgs),
    /// Sign certificates with the next CA from now on; what the former one signed is trusted until `retire`
    Activate(ActivateCaArgs),
    /// Trust no more what the former CA signed
    Retire(RetireCaArgs),
    /// Make a new key and certificate for replicas, by the active CA; running replicas use it within seconds
    Server(ServerArgs),
}

#[derive(clap::Args)]
pub(super) struct NextCaArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The root's private key, which is kept offline
    #[arg(long, value_name = "FILE")]
    root_key: PathBuf,
}

#[derive(clap::Args)]
pub(super) struct ActivateCaArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Do not wait until every device has been told of it. Devices that trust the root need not be told
    #[arg(long)]
    now: bool,
}

#[derive(clap::Args)]
pub(super) struct RetireCaArgs {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    which: WhichArgs,
}

#[derive(clap::Args)]
pub(super) struct ServerArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// A name or address that the certificate is for; may be repeated
    #[arg(long = "server-name", value_name = "NAME", required = true)]
    server_names: Vec<String>,
}

pub(super) async fn keys(command: KeysCommand) -> Result<(), String> {
    match command {
        KeysCommand::List(config) => list(&config, &[KeyRole::Device, KeyRole::Admin]).await,
        KeysCommand::Next(AudienceArgs { config, audience }) => {
            let made = at(&config, async |mut desk| desk.next_token_key(audience.audience()).await).await?;
            say_next(&made, "everbeat keys activate");
            Ok(())
        }
        KeysCommand::Activate(AudienceArgs { config, audience }) => {
            let role = audience.role();
            let (key, step) = at(&config, async |desk| desk.activate(role, false).await).await?;
            say_active(&key, &step);
            Ok(())
        }
        KeysCommand::Retire(RetireKeyArgs { audience: AudienceArgs { config, audience }, which }) => {
            retire(&config, audience.role(), which).await
        }
    }
}

pub(super) async fn ca(command: CaCommand) -> Result<(), String> {
    match command {
        CaCommand::List(config) => list(&config, &[KeyRole::Issuing]).await,
        CaCommand::Next(NextCaArgs { config, root_key }) => {
            let made = at(&config, async |mut desk| desk.next_ca(&root_key).await).await?;
            say_next(&made, "everbeat ca activate");
            Ok(())
        }
        CaCommand::Activate(ActivateCaArgs { config, now }) => {
            let (key, step) = at(&config, async |desk| desk.activate(KeyRole::Issuing, now).await).await?;
            say_active(&key, &step);
            Ok(())
        }
        CaCommand::Retire(RetireCaArgs { config, which }) => retire(&config, KeyRole::Issuing, which).await,
        CaCommand::Server(ServerArgs { config, server_names }) => {
            let until = at(&config, async |desk| desk.renew_server(&server_names).await).await?;
            say(&format!("the server certificate is in place, valid until {}", rfc3339(until)));
            say(
                "replicas on this directory use it within seconds; for others, copy server.key and server.pem, or run this there",
            );
            Ok(())
        }
    }
}

/// Runs work on keys and database.
async fn at<T>(config: &ConfigArgs, work: impl AsyncFnOnce(Desk) -> Result<T, String>) -> Result<T, String> {
    let settings = settings(&config.config)?;
    with_tasks(async |tasks| work(Desk::open(&settings, tasks, Random::from_os()).await?).await).await
}

async fn list(config: &ConfigArgs, roles: &[KeyRole]) -> Result<(), String> {
    let (listed, unknown, live) = at(config, async |desk| desk.list(roles).await).await?;
    say(&table(&listed, &unknown, &live).trim_fmt());
    Ok(())
}

async fn retire(config: &ConfigArgs, role: KeyRole, which: WhichArgs) -> Result<(), String> {
    let WhichArgs { key, force } = which;
    let done = at(config, async |desk| {
        let done = desk.retire(role, key, force).await?;
        Ok(done.into_iter().map(|(key, step)| (desk.file_of(&key).map(str::to_owned), key, step)).collect::<Vec<_>>())
    })
    .await?;
    if done.is_empty() {
        say("nothing is retiring");
    }
    for (file, key, step) in done {
        say(&match step {
            Step::Done => format!("{key} is retired"),
            Step::Before => format!("{key} was retired before"),
        });
        if let Some(file) = file {
            say(&format!("{file} may be removed from every pki.dir{}", also(&file)));
        }
    }
    Ok(())
}

/// A replica does not start with a server certificate whose CA it does not hold. The first CA's certificate has a file of
/// its own.
fn also(file: &str) -> &'static str {
    match file {
        "issuing.key" => ", with issuing.pem, once server.key is by another CA (`everbeat ca server`)",
        _ if file.starts_with("issuing.") => ", once server.key is by another CA (`everbeat ca server`)",
        _ => "",
    }
}

fn say_next(made: &Made, then: &str) {
    let Made { key, file, step } = made;
    say(&match step {
        Step::Done => format!("{key} is published as the next key; its private half is in {file}"),
        Step::Before => format!("{key} was published before; its private half is in {file}"),
    });
    say(&format!("copy {file} into the pki.dir of every replica (mode 0600); once all have confirmed: `{then}`"));
}

fn say_active(key: &str, step: &Step) {
    say(&match step {
        Step::Done => format!("{key} signs from now on; what the former key signed is accepted until it is retired"),
        Step::Before => format!("{key} is active already; there is no next key"),
    });
}

fn table(listed: &[Listed], unknown: &[Unknown], live: &[LiveReplica]) -> Table {
    let with_ca = listed.iter().any(|one| one.ca.is_some());
    let columns = ["USE", "KEY", "STATE", "SINCE", "CONFIRMED", "FILE HERE"];
    let more: &[&str] = if with_ca { &["UNTIL", "LIVE CERTIFICATES"] } else { &[] };
    let mut table = with_header(&[&columns[..], more].concat());
    for Listed { view, file, ca } in listed {
        let confirmed = live.iter().filter(|replica| replica.keys.contains(&view.key)).count();
        let mut row = vec![
            view.role.as_str().to_owned(),
            view.key.clone(),
            view.state.as_str().to_owned(),
            second(view.since),
            format!("{confirmed} of {}", live.len()),
            file.clone().unwrap_or_else(|| "-".to_owned()),
        ];
        if let Some(ca) = ca {
            row.extend([second(ca.not_after), ca.signed.count.to_string()]);
        }
        table.add_row(row);
    }
    for Unknown { file, key } in unknown {
        table.add_row(["-", key, "not published", "-", "-", file]);
    }
    table
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(clap::Parser)]
    struct Keys {
        #[command(subcommand)]
        command: KeysCommand,
    }

    #[test]
    fn a_key_whose_name_begins_with_a_hyphen_can_be_named() {
        let parsed = Keys::try_parse_from(["keys", "retire", "--audience", "device", "--key", "-Bx7", "--force"]);
        let KeysCommand::Retire(args) = parsed.ok().unwrap().command else { panic!("another command") };
        assert_eq!((args.which.key.as_deref(), args.which.force), (Some("-Bx7"), true));
    }
}
