//! `everbeat operator …` and `everbeat token …`: who may do what, straight from and to the database.

use std::io::Write;
use std::time::Duration;

use comfy_table::{Table, presets};
use time::OffsetDateTime;
use uuid::Uuid;

use super::ConfigArgs;
use super::operate::{say, settings, with_tasks};
use crate::domain::access::Role;
use crate::domain::random::Random;
use crate::domain::time::rfc3339;
use crate::store::ControlStore;
use crate::store::operator_views::{OperatorView, TokenView};
use crate::tools::operators::FleetRole;
use crate::tools::{deploy, operators};

#[derive(clap::Subcommand)]
pub(super) enum OperatorCommand {
    /// Who there is, with their roles
    List(ConfigArgs),
    /// Refuse an operator and all of their tokens, within a second on every replica
    Disable(SubjectArgs),
    /// Let an operator in again, with a new token: those from before stay worthless
    Enable(SubjectArgs),
    /// Replace all roles of an operator, within a second on every replica
    Roles(RolesArgs),
}

#[derive(clap::Args)]
pub(super) struct SubjectArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The operator, as given to `token mint --subject`
    subject: String,
}

#[derive(clap::Args)]
#[group(id = "wanted", required = true, multiple = false, args = ["roles", "none"])]
pub(super) struct RolesArgs {
    #[command(flatten)]
    operator: SubjectArgs,
    /// `viewer`, `operator` or `admin` for every fleet; or FLEET=ROLE for one; may be repeated
    #[arg(long = "role", value_name = "[FLEET=]ROLE")]
    roles: Vec<String>,
    /// Take all roles away
    #[arg(long)]
    none: bool,
}

#[derive(clap::Subcommand)]
pub(super) enum TokenCommand {
    /// Make an operator, or give an operator's roles anew, and print a token
    Mint(MintArgs),
    /// Which tokens are accepted
    List(ListArgs),
    /// Make a token worthless, within a second on every replica
    Revoke(RevokeArgs),
}

#[derive(clap::Args)]
pub(super) struct MintArgs {
    #[command(flatten)]
    config: ConfigArgs,
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
pub(super) struct ListArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Only this operator's
    #[arg(long)]
    subject: Option<String>,
    /// Also those that are over, revoked, or of an operator who was disabled
    #[arg(long)]
    all: bool,
}

#[derive(clap::Args)]
pub(super) struct RevokeArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Which token: `token list` shows it, and `token mint` names it on standard error
    #[arg(long, value_name = "UUID")]
    jti: Uuid,
}

pub(super) async fn operator(command: OperatorCommand) -> Result<(), String> {
    match command {
        OperatorCommand::List(config) => {
            let known = on(&config, async |control| operators::list(&control).await).await?;
            say(&operator_table(&known).trim_fmt());
        }
        OperatorCommand::Disable(args) => {
            on(&args.config, async |control| operators::set_disabled(control, &args.subject, true).await).await?;
            say(&format!("{} is disabled", args.subject));
        }
        OperatorCommand::Enable(args) => {
            on(&args.config, async |control| operators::set_disabled(control, &args.subject, false).await).await?;
            say(&format!("{0} is enabled; `everbeat token mint --subject {0}` makes a new token", args.subject));
        }
        OperatorCommand::Roles(args) => {
            let (roles, SubjectArgs { config, subject }) = (roles(&args.roles)?, args.operator);
            on(&config, async |control| operators::set_roles(control, &subject, &roles).await).await?;
            let now = if args.none { "no role".to_owned() } else { args.roles.join(", ") };
            say(&format!("{subject} has {now}"));
        }
    }
    Ok(())
}

pub(super) async fn token(command: TokenCommand) -> Result<(), String> {
    match command {
        TokenCommand::Mint(args) => mint(args).await,
        TokenCommand::List(args) => {
            let (subject, all) = (args.subject, args.all);
            let known = on(&args.config, async |control| operators::tokens(&control, subject, all).await).await?;
            say(&token_table(&known).trim_fmt());
            Ok(())
        }
        TokenCommand::Revoke(args) => {
            on(&args.config, async |control| operators::revoke(control, args.jti).await).await?;
            say(&format!("{} is revoked", args.jti));
            Ok(())
        }
    }
}

/// Runs work on the control plane.
async fn on<T>(config: &ConfigArgs, work: impl AsyncFnOnce(ControlStore) -> Result<T, String>) -> Result<T, String> {
    let settings = settings(&config.config)?;
    with_tasks(async |tasks| work(deploy::control(&settings, tasks, Random::from_os()).await?).await).await
}

async fn mint(args: MintArgs) -> Result<(), String> {
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
fn roles(texts: &[String]) -> Result<Vec<FleetRole>, String> {
    let mut roles: Vec<FleetRole> = Vec::new();
    for text in texts {
        let (fleet, role) = text.split_once('=').map_or((None, text.as_str()), |(fleet, role)| (Some(fleet), role));
        if roles.iter().any(|(known, _)| known.as_deref() == fleet) {
            let scope = fleet.map_or_else(|| "every fleet".to_owned(), |fleet| format!("fleet {fleet:?}"));
            return Err(format!("--role: two roles for {scope}"));
        }
        roles.push((fleet.map(str::to_owned), role.parse::<Role>()?));
    }
    Ok(roles)
}

fn operator_table(operators: &[OperatorView]) -> Table {
    let mut table = with_header(&["SUBJECT", "STATE", "ROLES", "LIVE TOKENS", "SINCE"]);
    for operator in operators {
        let state = operator.disabled_at.map_or_else(|| "enabled".to_owned(), |at| format!("disabled {}", second(at)));
        let live = if operator.disabled_at.is_some() { 0 } else { operator.live_tokens };
        let roles = if operator.roles.is_empty() { "-".to_owned() } else { operator.roles.join(" ") };
        table.add_row(vec![operator.subject.clone(), state, roles, live.to_string(), second(operator.created_at)]);
    }
    table
}

fn token_table(tokens: &[TokenView]) -> Table {
    let mut table = with_header(&["JTI", "SUBJECT", "MADE", "UNTIL", "STATE"]);
    for token in tokens {
        let state = match (token.live, token.revoked_at) {
            (true, _) => "live".to_owned(),
            (false, Some(at)) => format!("revoked {}", second(at)),
            (false, None) => "dead".to_owned(),
        };
        let (made, until) = (second(token.created_at), second(token.expires_at));
        table.add_row(vec![token.jti.to_string(), token.subject.clone(), made, until, state]);
    }
    table
}

pub(super) fn with_header(names: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(names.to_vec());
    table
}

/// For people: fractions of a second say nothing here.
pub(super) fn second(at: OffsetDateTime) -> String {
    rfc3339(at.replace_nanosecond(0).unwrap_or(at))
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
