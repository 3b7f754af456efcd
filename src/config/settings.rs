//! Keys become the subsystems' settings. Every rule that is broken is reported, not only the first.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::keys::User;
use super::{ConfigErrors, Keys, bounds};
use crate::admission::{AdmissionSettings, FailureSettings, LimitSettings, Rate};
use crate::http::HttpSettings;
use crate::identity::CacheSettings;
use crate::ingest::{IngestSettings, Limits};
use crate::jobs::JobsSettings;
use crate::net::{ClientAuth, ConnectionSettings, ListenerSettings, UnverifiedSettings};
use crate::observe::log::Format;
use crate::store::presence::RestartCap;
use crate::store::settings::TlsMode;
use crate::store::sweep::SweepSettings;
use crate::store::{Login, Policy, StoreSettings};

const DAY_S: u64 = 86_400;

/// All that the composition root needs.
#[derive(Clone, Debug)]
pub struct Settings {
    pub log_format: Format,
    pub log_filter: String,
    pub drill: bool,
    pub replica_addr: String,
    pub drain_limit: Duration,
    pub dev: bool,
    pub pki_dir: PathBuf,
    pub device_addr: SocketAddr,
    pub device_listener: Arc<ListenerSettings>,
    pub endpoints: Vec<String>,
    pub admin_addr: SocketAddr,
    pub admin_listener: Arc<ListenerSettings>,
    pub admin_client_auth: ClientAuth,
    pub ops_addr: SocketAddr,
    pub ops_connections: Arc<ConnectionSettings>,
    pub http: Arc<HttpSettings>,
    pub caches: CacheSettings,
    pub store: Arc<StoreSettings>,
    pub ingest: IngestSettings,
    pub admission: AdmissionSettings,
    pub presence: PresenceValues,
    pub jobs: JobsSettings,
}

/// Presence's settings without the replica's identity, which is made at start.
#[derive(Clone, Debug)]
pub struct PresenceValues {
    pub flush_interval: Duration,
    pub flush_rows_max: usize,
    pub devices_max: usize,
    pub blind_max: Duration,
    /// The connections of devices are closed within this time while the replica is blind.
    pub blind_close_over: Duration,
    pub promise_trust: Duration,
    pub tick_interval: Duration,
    pub tick_gap_max: Duration,
    pub cap: RestartCap,
}

struct Checker(Vec<String>);

impl Checker {
    fn rule(&mut self, kept: bool, sentence: &str) {
        if !kept {
            self.0.push(sentence.to_owned());
        }
    }

    fn parse<T: std::str::FromStr>(&mut self, key: &str, text: &str, wanted: &str) -> Option<T> {
        let parsed = text.parse().ok();
        self.rule(parsed.is_some(), &format!("{key}: {text:?} is not {wanted}"));
        parsed
    }

    fn choice<T: Copy>(&mut self, key: &str, text: &str, choices: &[(&str, T)]) -> Option<T> {
        let chosen = choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        self.rule(chosen.is_some(), &format!("{key}: must be one of {}", names.join(", ")));
        chosen
    }
}

pub(super) fn validate(keys: &Keys) -> Result<Settings, ConfigErrors> {
    let mut check = Checker(Vec::new());
    let built = build(keys, &mut check);
    rules(keys, &mut check);
    // Some are said by a subsystem as well.
    for sentence in bounds::problems(keys) {
        if !check.0.contains(&sentence) {
            check.0.push(sentence);
        }
    }
    match built {
        Some(settings) if check.0.is_empty() => Ok(settings),
        _ => Err(ConfigErrors(check.0)),
    }
}

fn build(keys: &Keys, check: &mut Checker) -> Option<Settings> {
    let formats = [("human", Format::Human), ("json", Format::Json)];
    let auths = [("none", ClientAuth::None), ("optional", ClientAuth::Optional), ("required", ClientAuth::Required)];
    let address = "an address such as 0.0.0.0:8443";
    let log_format = check.choice("log.format", &keys.log.format, &formats);
    let device_addr = check.parse("devices.addr", &keys.devices.addr, address);
    let admin_addr = check.parse("admin.addr", &keys.admin.addr, address);
    let ops_addr = check.parse("ops.addr", &keys.ops.addr, address);
    let admin_client_auth = check.choice("admin.client_auth", &keys.admin.client_auth, &auths);
    let device_listener = device_listener(keys, check);
    let admin_listener = admin_listener(keys, check);
    let store = store(keys, check);
    let ingest = ingest(keys);
    if let Err(sentences) = ingest.check() {
        check.0.extend(sentences.into_iter().map(|s| format!("ingest.{s}")));
    }
    let jobs = jobs(keys);
    check.0.extend(jobs.problems().into_iter().map(|s| format!("leases.{s}")));
    Some(Settings {
        log_format: log_format?,
        log_filter: keys.log.filter.clone(),
        replica_addr: replica_addr(&keys.replica.addr, device_addr?, super::host_name()),
        drill: keys.observe.drill,
        drain_limit: Duration::from_secs(keys.replica.drain_limit_s),
        dev: keys.replica.dev,
        pki_dir: PathBuf::from(&keys.pki.dir),
        device_addr: device_addr?,
        device_listener: Arc::new(device_listener),
        endpoints: keys.devices.endpoints.clone(),
        admin_addr: admin_addr?,
        admin_listener: Arc::new(admin_listener),
        admin_client_auth: admin_client_auth?,
        ops_addr: ops_addr?,
        ops_connections: Arc::new(ops_connections(keys)),
        http: Arc::new(http(keys)),
        caches: CacheSettings {
            devices_max: keys.identity.cache_devices_max,
            operators_max: keys.identity.cache_operators_max,
        },
        store: Arc::new(store?),
        ingest,
        admission: admission(keys),
        presence: presence(keys),
        jobs,
    })
}

/// How others name this replica. An address that stands for all of this host's would name every replica alike.
fn replica_addr(given: &str, listens: SocketAddr, host_name: Option<String>) -> String {
    match host_name.filter(|_| listens.ip().is_unspecified()) {
        _ if !given.is_empty() => given.to_owned(),
        Some(host) => format!("{host}:{}", listens.port()),
        None => listens.to_string(),
    }
}

/// Rules that no subsystem can check alone.
fn rules(keys: &Keys, check: &mut Checker) {
    let (presence, database) = (&keys.presence, &keys.database);
    check.rule(
        (1..=1_000).contains(&presence.flush_interval_ms),
        "presence.flush_interval_ms: between 1 and 1000, or a crash forgets more than a second",
    );
    check.rule((1..=5_000).contains(&presence.flush_rows_max), "presence.flush_rows_max: between 1 and 5000");
    check.rule(presence.devices_max > 0, "presence.devices_max: at least 1");
    check.rule(
        presence.heartbeat_blind_max_s * 1_000 > presence.flush_interval_ms,
        "presence.heartbeat_blind_max_s: longer than a flush interval",
    );
    check.rule(
        presence.tick_interval_ms > 0 && presence.tick_interval_ms * 2 <= presence.tick_gap_max_ms,
        "presence.tick_gap_max_ms: at least two tick intervals",
    );
    check.rule(
        presence.tick_fresh_ms > presence.tick_interval_ms,
        "presence.tick_fresh_ms: longer than a tick interval, or nobody ever turns offline",
    );
    check.rule(
        database.fleet_connections_max > keys.ingest.commits_in_flight_max + 1,
        "database.fleet_connections_max: at least two more than ingest.commits_in_flight_max, for flushes and reads",
    );
    check.rule(database.control_connections_max > 0, "database.control_connections_max: at least 1");
    check.rule(keys.replica.drain_limit_s > 0, "replica.drain_limit_s: at least 1");
    check.rule(!keys.devices.endpoints.is_empty(), "devices.endpoints: name at least one");
    for endpoint in &keys.devices.endpoints {
        check.rule(
            endpoint.starts_with("https://"),
            &format!("devices.endpoints: {endpoint:?} must begin with https://"),
        );
    }
}

fn connections(values: [u64; 4], connections_max: usize) -> ConnectionSettings {
    let [first, idle, age, linger] = values.map(Duration::from_millis);
    ConnectionSettings { connections_max, first_request_deadline: first, idle_max: idle, age_max: age, linger }
}

fn peers(key: &str, texts: &[String], check: &mut Checker) -> Vec<crate::net::Network> {
    texts.iter().filter_map(|text| check.parse(key, text, "an address or a network such as 10.1.0.0/16")).collect()
}

fn device_listener(keys: &Keys, check: &mut Checker) -> ListenerSettings {
    let d = &keys.devices;
    check.rule(d.connections_max > 0 && d.handshakes_max > 0, "devices: connections_max and handshakes_max at least 1");
    let times = [d.first_request_deadline_ms, d.idle_max_ms, d.age_max_ms, d.linger_ms];
    ListenerSettings {
        connections: connections(times, d.connections_max),
        handshakes_max: d.handshakes_max,
        handshake_deadline: Duration::from_millis(d.handshake_deadline_ms),
        unverified: UnverifiedSettings {
            connections_max: d.unverified_connections_max,
            age_max: Duration::from_millis(d.unverified_age_max_ms),
            requests_max: d.unverified_requests_max,
        },
        proxy_peers: peers("devices.proxy_peers", &d.proxy_peers, check),
    }
}

fn admin_listener(keys: &Keys, check: &mut Checker) -> ListenerSettings {
    let a = &keys.admin;
    check.rule(a.connections_max > 0 && a.handshakes_max > 0, "admin: connections_max and handshakes_max at least 1");
    let times = [a.first_request_deadline_ms, a.idle_max_ms, a.age_max_ms, a.linger_ms];
    ListenerSettings {
        connections: connections(times, a.connections_max),
        handshakes_max: a.handshakes_max,
        handshake_deadline: Duration::from_millis(a.handshake_deadline_ms),
        unverified: UnverifiedSettings {
            connections_max: a.connections_max,
            age_max: Duration::from_millis(a.age_max_ms),
            requests_max: u64::MAX,
        },
        proxy_peers: peers("admin.proxy_peers", &a.proxy_peers, check),
    }
}

fn ops_connections(keys: &Keys) -> ConnectionSettings {
    connections([10_000, 75_000, 3_600_000, 10_000], keys.ops.connections_max)
}

fn http(keys: &Keys) -> HttpSettings {
    HttpSettings {
        body_max_bytes: keys.http.body_max_bytes,
        body_deadline: Duration::from_millis(keys.http.body_deadline_ms),
        submit_deadline: Duration::from_millis(keys.http.submit_deadline_ms),
    }
}

fn store(keys: &Keys, check: &mut Checker) -> Option<StoreSettings> {
    let database = &keys.database;
    let policies = [("refuse", Policy::Refuse), ("accept", Policy::Accept), ("single", Policy::Single)];
    let durability = check.choice("durability.policy", &keys.durability.policy, &policies);
    let modes = [("verify-full", TlsMode::VerifyFull), ("disable", TlsMode::Disable)];
    let tls = check.choice("database.tls", &database.tls, &modes);
    let ca_file = (!database.ca_file.is_empty()).then(|| PathBuf::from(&database.ca_file));
    check.rule(
        tls != Some(TlsMode::VerifyFull) || ca_file.is_some(),
        "database.ca_file: needed for database.tls = \"verify-full\" (or set database.tls = \"disable\" for a local database)",
    );
    let hosts: Vec<Option<(String, u16)>> = database.hosts.iter().map(|text| host(text, check)).collect();
    check.rule(!hosts.is_empty(), "database.hosts: name at least one");
    let owner = (!database.owner.user.is_empty()).then(|| login("owner", &database.owner, check));
    Some(StoreSettings {
        hosts: hosts.into_iter().collect::<Option<_>>()?,
        database: database.name.clone(),
        tls: tls?,
        ca_file,
        owner,
        control: login("control", &database.control, check),
        fleet: login("fleet", &database.fleet, check),
        lease: login("lease", &database.lease, check),
        durability: durability?,
        control_connections_max: database.control_connections_max,
        fleet_connections_max: database.fleet_connections_max,
        connect_deadline: Duration::from_millis(database.connect_deadline_ms),
        statement_deadline: Duration::from_millis(database.statement_deadline_ms),
    })
}

fn host(text: &str, check: &mut Checker) -> Option<(String, u16)> {
    let parsed = text.rsplit_once(':').and_then(|(host, port)| {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        (!host.is_empty()).then_some((host.to_owned(), port.parse().ok()?))
    });
    check.rule(parsed.is_some(), &format!("database.hosts: {text:?} is not host:port"));
    parsed
}

fn login(name: &str, user: &User, check: &mut Checker) -> Login {
    let password = if user.password_file.is_empty() {
        user.password.clone()
    } else {
        let read = fs::read_to_string(&user.password_file);
        if let Err(error) = &read {
            check.0.push(format!("database.{name}.password_file {}: {error}", user.password_file));
        }
        read.unwrap_or_default().trim_end_matches(['\r', '\n']).to_owned()
    };
    check.rule(
        user.password.is_empty() || user.password_file.is_empty(),
        &format!("database.{name}: give password or password_file, not both"),
    );
    Login { user: user.user.clone(), password: password.into() }
}

fn ingest(keys: &Keys) -> IngestSettings {
    let i = &keys.ingest;
    IngestSettings {
        limits: Limits {
            body_max_bytes: i.body_max_bytes,
            items_max: i.items_max,
            retention: Duration::from_secs(u64::from(i.retention_days) * DAY_S),
            future_max: Duration::from_secs(i.future_max_s),
        },
        commit_rows_max: i.commit_rows_max,
        commits_in_flight_max: i.commits_in_flight_max,
        queue_rows_max: i.queue_rows_max,
        queue_requests_max: i.queue_requests_max,
    }
}

fn admission(keys: &Keys) -> AdmissionSettings {
    let a = &keys.admission;
    let rate = |per_second: u32, burst| Rate { per_second: per_second.into(), burst };
    AdmissionSettings {
        limit: LimitSettings { min: a.limit_min, max: a.limit_max, initial: a.limit_initial },
        database_requests_max: a.database_requests_max,
        device_rate: rate(a.device_requests_per_s, a.device_burst),
        fleet_rate: rate(a.fleet_requests_per_s, a.fleet_burst),
        failures: FailureSettings {
            address_max: a.failures_per_address,
            token_max: a.failures_per_token,
            window: Duration::from_secs(a.failures_window_s),
            callers_max: a.failures_callers_max,
        },
    }
}

fn cap(keys: &Keys) -> RestartCap {
    RestartCap {
        restarts_max: keys.presence.restarts_max,
        window: Duration::from_secs(keys.presence.restarts_window_s),
    }
}

fn presence(keys: &Keys) -> PresenceValues {
    let p = &keys.presence;
    PresenceValues {
        flush_interval: Duration::from_millis(p.flush_interval_ms),
        flush_rows_max: p.flush_rows_max,
        devices_max: p.devices_max,
        blind_max: Duration::from_secs(p.heartbeat_blind_max_s),
        blind_close_over: Duration::from_secs(p.blind_close_over_s),
        promise_trust: Duration::from_secs(p.promise_trust_s),
        tick_interval: Duration::from_millis(p.tick_interval_ms),
        tick_gap_max: Duration::from_millis(p.tick_gap_max_ms),
        cap: cap(keys),
    }
}

fn jobs(keys: &Keys) -> JobsSettings {
    let sweep = SweepSettings {
        rows_max: keys.presence.sweep_rows_max,
        tick_fresh: Duration::from_millis(keys.presence.tick_fresh_ms),
        blind_max: Duration::from_secs(keys.presence.heartbeat_blind_max_s),
        cap: cap(keys),
    };
    JobsSettings {
        ttl_ms: keys.leases.ttl_ms,
        renew_ms: keys.leases.renew_ms,
        poll_ms: keys.leases.poll_ms,
        sweep_interval_ms: keys.leases.sweep_interval_ms,
        partitions_interval_ms: keys.leases.partitions_interval_ms,
        partitions_ahead_days: keys.leases.partitions_ahead_days,
        // A day longer than what is accepted, so that no row that was just accepted is dropped.
        retention_days: keys.ingest.retention_days.saturating_add(1),
        events_retention_ms: keys.leases.events_retention_days * DAY_S * 1_000,
        expiring_percent: keys.identity.certificate_expiring_percent,
        ..JobsSettings::standard(sweep)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_are_told_apart_without_a_setting() {
        let addr = |given: &str, listens: &str, host: Option<&str>| {
            replica_addr(given, listens.parse().unwrap(), host.map(str::to_owned))
        };
        assert_eq!(addr("", "0.0.0.0:8443", Some("node-1")), "node-1:8443");
        assert_eq!(addr("", "[::]:8443", Some("node-1")), "node-1:8443");
        assert_eq!(addr("", "10.0.0.7:8443", Some("node-1")), "10.0.0.7:8443", "more is known than the name");
        assert_eq!(addr("a.example:443", "0.0.0.0:8443", Some("node-1")), "a.example:443");
        assert_eq!(addr("", "0.0.0.0:8443", None), "0.0.0.0:8443");
    }
}
