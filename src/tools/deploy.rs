//! What sets a deployment up: schema, keys, the first operator. Used by the commands and by `everbeat dev`.

use std::time::Duration;

use super::operators::{self, FleetRole};
use crate::config::Settings;
use crate::domain::random::Random;
use crate::domain::time::Clock;
use crate::identity::operators::{Mint, Minted, mint as mint_token};
use crate::identity::{keys, pki};
use crate::lifecycle::tasks::Tasks;
use crate::store::changes::ChangeLog;
use crate::store::{ControlStore, migrate, primary};

/// How long a command waits for the primary.
const PRIMARY_WAIT: Duration = Duration::from_secs(15);

/// Whom a token is for. A role without a fleet counts everywhere.
pub struct MintRequest {
    pub subject: String,
    pub roles: Vec<FleetRole>,
    pub ttl: Duration,
}

/// Applies the migrations on the primary.
pub async fn migrate(settings: &Settings) -> Result<(), String> {
    let primary = primary::find_writable(&settings.store, PRIMARY_WAIT).await?;
    migrate::migrate(&settings.store, &primary).await
}

/// Creates the database of the settings if there is none.
pub async fn create_database(settings: &Settings) -> Result<(), String> {
    migrate::create_database(&settings.store, PRIMARY_WAIT).await
}

/// Does the database hold the public halves of any keys yet?
pub async fn published(settings: &Settings, tasks: &Tasks, random: Random) -> Result<bool, String> {
    let control = control(settings, tasks, random).await?;
    keys::any(&control).await.map_err(|error| error.to_string())
}

/// Opens the control plane of a database whose schema is this binary's.
pub async fn control(settings: &Settings, tasks: &Tasks, random: Random) -> Result<ControlStore, String> {
    let control = open(settings, tasks, random).await?;
    let schema = migrate::check(&control).await.map_err(|error| error.to_string())?;
    schema.advice().map_or(Ok(control), |advice| Err(advice.to_owned()))
}

/// Opens the control plane, whatever is in the database.
pub(super) async fn open(settings: &Settings, tasks: &Tasks, random: Random) -> Result<ControlStore, String> {
    let mut watch = primary::track(settings.store.clone(), tasks).primary;
    let control = ControlStore::start(settings.store.clone(), watch.clone(), tasks, random);
    primary::wait_for_primary(&mut watch, PRIMARY_WAIT)
        .await
        .ok_or("no primary answers: check database.hosts, and the users' passwords (`everbeat migrate` sets them)")?;
    control.opened(PRIMARY_WAIT).await;
    Ok(control)
}

/// Makes the keys and publishes their public halves. With `join`, only compares.
pub async fn init(
    settings: &Settings,
    tasks: &Tasks,
    random: Random,
    server_names: &[String],
    join: bool,
) -> Result<(), String> {
    let control = control(settings, tasks, random).await?;
    if join {
        let ours = pki::load(&settings.pki_dir, settings.dev).map_err(|error| error.to_string())?;
        return keys::check(&control, &ours.public_halves()).await.map(drop).map_err(|error| error.to_string());
    }
    // Asked before any file is made: a second PKI would be of no use, and in the way of the one that counts.
    if pki::is_absent(&settings.pki_dir) && keys::any(&control).await.map_err(|error| error.to_string())? {
        let advice = "copy the PKI directory of a replica here and run `everbeat init --join`";
        return Err(format!("the database publishes keys already: {advice}"));
    }
    let halves = match pki::create(&settings.pki_dir, server_names, &Clock::System) {
        Ok(halves) => halves,
        // An init that died between the files and the database is finished; one that is complete is refused below.
        Err(pki::PkiError::Exists(_)) => {
            pki::load(&settings.pki_dir, settings.dev).map_err(|error| error.to_string())?.public_halves()
        }
        Err(error) => return Err(error.to_string()),
    };
    let log = ChangeLog::direct(control);
    keys::publish(&log, &halves).await.map_err(|error| error.to_string())
}

/// Makes or changes an operator, and a token for them: its text alone.
pub async fn mint(settings: &Settings, tasks: &Tasks, random: Random, request: MintRequest) -> Result<String, String> {
    Ok(minted(settings, tasks, random, request).await?.text)
}

/// The same, with what else is known of the token.
pub async fn minted(
    settings: &Settings,
    tasks: &Tasks,
    random: Random,
    request: MintRequest,
) -> Result<Minted, String> {
    let control = control(settings, tasks, random).await?;
    let pki = pki::load(&settings.pki_dir, settings.dev).map_err(|error| error.to_string())?;
    let published = keys::check(&control, &pki.public_halves()).await.map_err(|error| error.to_string())?;
    let keys = pki.held.ring(&published).tokens.clone();
    let keys = keys.ok_or("an active token key is not among the files in pki.dir: copy it from a replica")?;
    let grants = operators::grants(&control, &request.roles).await?;
    let grants = (!request.roles.is_empty()).then_some(grants);
    let mint = Mint { subject: request.subject, grants, ttl: request.ttl };
    let minted = mint_token(&ChangeLog::direct(control), keys, &Clock::System, mint).await;
    minted.map_err(|error| error.to_string())
}
