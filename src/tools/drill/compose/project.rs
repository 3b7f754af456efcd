//! A compose project as the drill sees it: which container is which member, where its ports are published, and the
//! secrets that the drill needs of it.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;

use super::engine::{Engine, State};
use crate::store::settings::{Login, TlsMode};
use crate::store::{Policy, StoreSettings};
use crate::tools::drill::deployment::Member;
use crate::tools::drill::target::Target;

const DEVICE_PORT: u16 = 8443;
const ADMIN_PORT: u16 = 9443;
const OPS_PORT: u16 = 9100;
const BALANCER_OPS_PORT: u16 = 8404;
const DATABASE_PORT: u16 = 5432;
const PROXY_CONTROL_PORT: u16 = 15400;
const PROXY: &str = "dbproxy";
const LOAD_BALANCERS: [&str; 2] = ["lb1", "lb2"];
/// Ran once and ended; it still has all the volumes with secrets.
const INIT: &str = "init";
/// Services that end by themselves.
const ENDING: [&str; 2] = ["secrets", INIT];

const CONNECT_DEADLINE: Duration = Duration::from_secs(2);
const STATEMENT_DEADLINE: Duration = Duration::from_secs(5);

/// The containers of one project by service, as they were when the drill began.
pub(super) struct Project {
    engine: Engine,
    services: BTreeMap<String, (String, State)>,
}

impl Project {
    pub(super) async fn find(engine: &Engine, project: &str) -> Result<Self, String> {
        let mut services = BTreeMap::new();
        for container in engine.containers(project).await? {
            let state = engine.state(&container.id).await?;
            services.insert(container.service, (container.id, state));
        }
        if services.is_empty() {
            return Err(format!("there is no compose project {project:?}: start it first"));
        }
        Ok(Self { engine: engine.clone(), services })
    }

    pub(super) fn id(&self, service: &str) -> Result<&str, String> {
        let found = self.services.get(service).map(|(id, _)| id.as_str());
        found.ok_or_else(|| format!("the project has no service {service}"))
    }

    pub(super) fn member(&self, member: Member) -> Result<&str, String> {
        self.id(&service(member))
    }

    /// Every container that should run, with its service.
    pub(super) fn running(&self) -> impl Iterator<Item = (&str, &str)> {
        let all = self.services.iter().map(|(service, (id, _))| (service.as_str(), id.as_str()));
        all.filter(|(service, _)| !ENDING.contains(service))
    }

    /// The members of one kind, by number from 1.
    pub(super) fn members(&self, kind: fn(u8) -> Member) -> Vec<Member> {
        (1..=u8::MAX).map(kind).take_while(|member| self.member(*member).is_ok()).collect()
    }

    fn published(&self, service: &str, port: u16) -> Result<u16, String> {
        let state = self.services.get(service).map(|(_, state)| state);
        let found = state.and_then(|state| state.published.get(&port)).copied();
        found.ok_or_else(|| {
            format!("port {port} of {service} is not published on 127.0.0.1: start with docker/compose.drill.yml, too")
        })
    }

    /// When a member's process was started that ran when the drill began, seconds since 1970.
    pub(super) fn started_unix_s(&self, member: Member) -> i32 {
        self.services.get(&service(member)).map_or(0, |(_, state)| state.started_unix_s)
    }

    /// Where the proxy before the third replica's database takes commands.
    pub(super) fn proxy(&self) -> Option<u16> {
        self.published(PROXY, PROXY_CONTROL_PORT).ok()
    }

    /// `replica.addr`, as leases show it.
    pub(super) fn replica_addrs(&self) -> Vec<String> {
        let addr = |member| {
            let named = &self.services.get(&service(member))?.1.environment;
            named.get("EVERBEAT__REPLICA__ADDR").cloned()
        };
        self.members(Member::Replica).into_iter().map(|member| addr(member).unwrap_or_default()).collect()
    }

    pub(super) fn ops_urls(&self) -> Result<Vec<String>, String> {
        let url = |member| Ok(format!("http://127.0.0.1:{}", self.published(&service(member), OPS_PORT)?));
        self.members(Member::Replica).into_iter().map(url).collect()
    }

    pub(super) fn balancer_urls(&self) -> Result<Vec<String>, String> {
        let url = |lb: &&str| Ok(format!("http://127.0.0.1:{}", self.published(lb, BALANCER_OPS_PORT)?));
        LOAD_BALANCERS.iter().map(url).collect()
    }

    /// What the load needs. `ca_file`: where the database's CA was written ([`write_ca`](Self::write_ca)).
    pub(super) async fn target(&self, ca_file: PathBuf) -> Result<Target, String> {
        let urls = |port| -> Result<Vec<String>, String> {
            LOAD_BALANCERS.iter().map(|lb| Ok(format!("https://127.0.0.1:{}", self.published(lb, port)?))).collect()
        };
        Ok(Target {
            device_urls: urls(DEVICE_PORT)?,
            admin_urls: urls(ADMIN_PORT)?,
            ca_pem: self.secret("/var/lib/everbeat/pki/ca.pem").await?,
            admin_token: self.secret("/var/lib/everbeat/operator/token").await?.trim().to_owned().into(),
            store: Arc::new(self.store(ca_file).await?),
        })
    }

    async fn store(&self, ca_file: PathBuf) -> Result<StoreSettings, String> {
        let nodes = self.members(Member::Database).into_iter();
        let hosts = nodes.map(|node| Ok(("127.0.0.1".to_owned(), self.published(&service(node), DATABASE_PORT)?)));
        Ok(StoreSettings {
            hosts: hosts.collect::<Result<_, String>>()?,
            database: "everbeat".to_owned(),
            tls: TlsMode::VerifyFull,
            ca_file: Some(ca_file),
            owner: Some(self.login("everbeat_owner", "/run/everbeat/owner/owner").await?),
            control: self.login("everbeat_control", "/run/everbeat/service/control").await?,
            fleet: self.login("everbeat_fleet", "/run/everbeat/service/fleet").await?,
            lease: self.login("everbeat_lease", "/run/everbeat/service/lease").await?,
            control_connections_max: 2,
            fleet_connections_max: 2,
            connect_deadline: CONNECT_DEADLINE,
            statement_deadline: STATEMENT_DEADLINE,
            // The drill looks and changes nothing, so there is nothing to be said of its commits.
            durability: Policy::Single,
        })
    }

    async fn login(&self, user: &str, path: &str) -> Result<Login, String> {
        let password = SecretString::from(self.secret(path).await?.trim().to_owned());
        Ok(Login { user: user.to_owned(), password })
    }

    async fn secret(&self, path: &str) -> Result<String, String> {
        let content = self.engine.file(self.id(INIT)?, path).await?;
        String::from_utf8(content).map_err(|_| format!("{path} is no text"))
    }

    /// The database's CA in a new file of this process, for drivers that read it from one.
    pub(super) async fn write_ca(&self, project: &str) -> Result<PathBuf, String> {
        let content = self.secret("/run/everbeat/owner/database-ca.pem").await?;
        let path = PathBuf::from(format!("/tmp/everbeat-drill-{project}-{}.pem", std::process::id()));
        // Of an earlier process with this number.
        let _ = std::fs::remove_file(&path);
        let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let written = file.and_then(|mut file| file.write_all(content.as_bytes()));
        written.map_err(|e| format!("cannot write {}: {e}", path.display()))?;
        Ok(path)
    }
}

/// The service that a member is in docker/compose.yml.
fn service(member: Member) -> String {
    match member {
        Member::Replica(number) => format!("everbeat{number}"),
        Member::Database(number) => format!("pg{number}"),
        Member::Etcd(number) => format!("etcd{number}"),
        Member::LoadBalancer => LOAD_BALANCERS[0].to_owned(),
    }
}

/// Is this service a database node?
pub(super) fn is_database(service: &str) -> bool {
    service.strip_prefix("pg").is_some_and(|number| number.parse::<u8>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_the_services_of_the_compose_file() {
        let compose = include_str!("../../../../docker/compose.yml");
        let members =
            [Member::Replica(1), Member::Replica(3), Member::Database(2), Member::Etcd(3), Member::LoadBalancer];
        for name in members.map(service).into_iter().chain([INIT, "lb2", "secrets"].map(str::to_owned)) {
            assert!(compose.contains(&format!("\n  {name}:\n")), "docker/compose.yml has a service {name}");
        }
    }

    #[test]
    fn database_nodes_are_told_by_their_service() {
        for (name, is) in [("pg1", true), ("pg12", true), ("pg", false), ("prometheus", false), ("pgx", false)] {
            assert_eq!(is_database(name), is, "{name}");
        }
    }
}
