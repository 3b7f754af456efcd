//! `everbeat config check`: do the settings lead to a database that will serve, with keys that are its own? Every
//! problem is said, with what to do about it, not only the first.

use std::collections::BTreeMap;

use super::deploy;
use crate::config::Settings;
use crate::domain::random::Random;
use crate::domain::time::{Clock, rfc3339};
use crate::identity::pki::{self, Pki};
use crate::identity::{ca, keys};
use crate::lifecycle::tasks::Tasks;
use crate::store::capacity::{self, Capacity};
use crate::store::settings::Plane;
use crate::store::{ControlStore, StoreSettings, migrate, primary};

/// Sessions of the lease user that one replica holds: two for each duty, the change log's, the tracker's, and some
/// that are being replaced.
const LEASE_SESSIONS: usize = 10;
/// For whoever has to look at the database while all replicas are up: a shell, a backup, a monitor.
const PEOPLE: i64 = 3;

/// What was seen, and what is wrong: one sentence each.
#[derive(Debug, Default)]
pub struct Checked {
    pub found: Vec<String>,
    pub problems: Vec<String>,
}

/// Checks keys and database. `replicas`: how many there are to be; otherwise as many as run now, and at least one.
pub async fn everything(settings: &Settings, tasks: &Tasks, random: Random, replicas: Option<u32>) -> Checked {
    let mut checked = Checked::default();
    let pki = check_keys(settings, &mut checked);
    if check_connections(&settings.store, &mut checked).await {
        match deploy::open(settings, tasks, random).await {
            Ok(control) => check_database(settings, &control, (pki, replicas), &mut checked).await,
            Err(problem) => checked.problems.push(problem),
        }
    }
    checked
}

fn check_keys(settings: &Settings, checked: &mut Checked) -> Option<Pki> {
    let pki = match pki::load(&settings.pki_dir, settings.dev) {
        Ok(pki) => pki,
        Err(error) => {
            checked.problems.push(format!("pki.dir: {error} (`everbeat init` makes the first keys)"));
            return None;
        }
    };
    let now = Clock::System.wall();
    let server = ca::chain_end(&pki.server_chain_pem);
    let issuers = pki.held.issuers.iter();
    // The first one's certificate has a file of its own.
    let issuers = issuers.map(|held| (held.file.replace("issuing.key", "issuing.pem"), Ok(held.issuer.not_after())));
    for (file, end) in issuers.chain([("server.pem".to_owned(), server)]) {
        match end {
            Ok(end) if end <= now => {
                let advice = "replace it (docs/keys.md), or remove it if the database has retired it";
                checked.problems.push(format!("pki.dir: {file} ended at {}: {advice}", rfc3339(end)));
            }
            Ok(end) => checked.found.push(format!("{file} is good until {}", rfc3339(end))),
            Err(error) => checked.problems.push(format!("pki.dir: {file}: {error}")),
        }
    }
    Some(pki)
}

/// Connects to each host as each user. Can the rest be checked?
async fn check_connections(store: &StoreSettings, checked: &mut Checked) -> bool {
    let (mut primaries, mut all_in) = (0, true);
    for host in &store.hosts {
        let name = format!("{}:{}", host.0, host.1);
        let mut refused: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut writable = None;
        for plane in [Plane::Owner, Plane::Control, Plane::Fleet, Plane::Lease] {
            let Some(login) = store.login(plane) else { continue };
            match primary::writable(store, host, plane).await {
                Ok(yes) => writable = Some(yes),
                Err(error) => {
                    let who = format!("{} (database.{})", login.user, plane.as_str());
                    refused.entry(error.detail).or_default().push(who);
                }
            }
        }
        match writable {
            Some(true) => checked.found.push(format!("{name} is the primary")),
            Some(false) => checked.found.push(format!("{name} is a standby")),
            None => {}
        }
        primaries += usize::from(writable == Some(true));
        all_in &= writable != Some(true) || refused.is_empty();
        for (why, who) in refused {
            let advice = "check database.hosts, name, tls and the password (`everbeat migrate` sets the planes')";
            checked.problems.push(format!("{name}: no connection as {}: {why}: {advice}", who.join(", ")));
        }
    }
    if primaries != 1 {
        let advice = "exactly one of database.hosts must take writes";
        checked.problems.push(format!("{primaries} of {} hosts are primaries: {advice}", store.hosts.len()));
    }
    primaries > 0 && all_in
}

async fn check_database(
    settings: &Settings,
    control: &ControlStore,
    (pki, replicas): (Option<Pki>, Option<u32>),
    checked: &mut Checked,
) {
    let right = match migrate::check(control).await {
        Ok(schema) => schema.advice().map_or(Ok(()), |advice| Err(advice.to_owned())),
        Err(error) => Err(format!("the schema cannot be checked: {error}")),
    };
    let mut live = 0;
    if let Err(problem) = right {
        checked.problems.push(problem);
    } else {
        if let Some(pki) = pki
            && let Err(error) = keys::check(control, &pki.public_halves()).await
        {
            checked.problems.push(format!("pki.dir {}: {error}", settings.pki_dir.display()));
        }
        match capacity::replicas_live(control).await {
            Ok(count) => live = count,
            Err(error) => checked.problems.push(format!("the replicas cannot be counted: {error}")),
        }
    }
    let replicas = replicas.map_or(live.max(1), i64::from);
    match capacity::load(control, demands(&settings.store).into_keys().collect()).await {
        Ok(capacity) => connections(&capacity, &settings.store, replicas, checked),
        Err(error) => checked.problems.push(format!("the limits on connections cannot be read: {error}")),
    }
}

/// Connections of one replica by user; planes may share one.
fn demands(store: &StoreSettings) -> BTreeMap<String, i64> {
    let mut demands = BTreeMap::new();
    for (plane, connections) in [
        (Plane::Control, store.control_connections_max),
        (Plane::Fleet, store.fleet_connections_max),
        (Plane::Lease, LEASE_SESSIONS),
    ] {
        if let Some(login) = store.login(plane) {
            *demands.entry(login.user.clone()).or_default() += i64::try_from(connections).unwrap_or(i64::MAX);
        }
    }
    demands
}

/// Compares what the replicas may open with what the server lets them.
fn connections(allowed: &Capacity, store: &StoreSettings, replicas: i64, checked: &mut Checked) {
    let demands = demands(store);
    let each: i64 = demands.values().sum();
    let all = each.saturating_mul(replicas);
    checked.found.push(format!("{replicas} replica(s) of {each} connections need {all}, and people {PEOPLE}"));
    let room = allowed.connections_max - allowed.reserved;
    let needed = all.saturating_add(PEOPLE);
    let less = "or lower database.control_connections_max and fleet_connections_max, or run fewer replicas";
    if needed > room {
        checked.problems.push(format!(
            "the server leaves {room} connections (max_connections {} less {} reserved), and {needed} are needed: set \
             max_connections to at least {}, {less}",
            allowed.connections_max,
            allowed.reserved,
            needed.saturating_add(allowed.reserved)
        ));
    }
    if let Some(max) = allowed.database_max.filter(|max| needed > *max) {
        let name = &store.database;
        checked.problems.push(format!(
            "the database {name} allows {max} connections, and {needed} are needed: `alter database {name} connection \
             limit {needed}`, {less}"
        ));
    }
    for (user, max) in &allowed.users {
        let needed = demands.get(user).copied().unwrap_or(0).saturating_mul(replicas);
        if let Some(max) = max.filter(|max| needed > *max) {
            checked.problems.push(format!(
                "the user {user} may have {max} connections, and {needed} are needed: `alter role {user} connection \
                 limit {needed}`, {less}"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::store::Login;
    use crate::store::settings::TlsMode;

    fn settings(fleet_user: &str) -> StoreSettings {
        let login = |user: &str| Login { user: user.to_owned(), password: String::new().into() };
        StoreSettings {
            hosts: Vec::new(),
            database: "everbeat".to_owned(),
            tls: TlsMode::Disable,
            ca_file: None,
            owner: None,
            control: login("control"),
            fleet: login(fleet_user),
            lease: login("lease"),
            control_connections_max: 6,
            fleet_connections_max: 12,
            connect_deadline: Duration::from_secs(1),
            statement_deadline: Duration::from_secs(1),
            durability: crate::store::Policy::Single,
        }
    }

    fn problems(allowed: &Capacity, store: &StoreSettings, replicas: i64) -> Vec<String> {
        let mut checked = Checked::default();
        connections(allowed, store, replicas, &mut checked);
        checked.problems
    }

    #[test]
    fn replicas_and_people_fit_or_it_is_said_what_to_change() {
        let users = |control, fleet| vec![("control".to_owned(), control), ("fleet".to_owned(), fleet)];
        let allowed =
            |connections_max, database_max, users| Capacity { connections_max, reserved: 3, database_max, users };
        let store = settings("fleet");
        // 28 each: 84 and 3 for people, of 97.
        assert_eq!(problems(&allowed(100, None, users(None, Some(36))), &store, 3), Vec::<String>::new());
        assert_eq!(problems(&allowed(90, None, Vec::new()), &store, 3), Vec::<String>::new(), "to the last one");
        let one_less = problems(&allowed(89, None, Vec::new()), &store, 3);
        assert!(matches!(one_less.as_slice(), [one] if one.contains("at least 90")), "{one_less:?}");
        let all = problems(&allowed(100, Some(99), users(Some(48), Some(47))), &store, 4);
        assert_eq!(all.len(), 3, "{all:?}");
        assert!(all[1].contains("everbeat allows 99") && all[2].contains("fleet may have 47"), "{all:?}");
        // Two planes that share a user share its limit.
        let shared = problems(&allowed(1_000, None, vec![("control".to_owned(), Some(35))]), &settings("control"), 2);
        assert!(matches!(shared.as_slice(), [one] if one.contains("36 are needed")), "{shared:?}");
    }
}
