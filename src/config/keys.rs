//! The keys of `config/default.toml`, as they stand there. What each means is said in that file.

use serde::{Deserialize, Serialize};

macro_rules! section {
    ($name:ident { $($key:ident: $type:ty),* $(,)? }) => {
        #[derive(Clone, Debug, Deserialize, Serialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name { $(pub $key: $type),* }
    };
}

section!(Keys {
    log: Log,
    observe: Observe,
    replica: Replica,
    pki: Pki,
    devices: Devices,
    admin: Admin,
    ops: Ops,
    http: Http,
    identity: Identity,
    database: Database,
    durability: Durability,
    ingest: Ingest,
    admission: Admission,
    presence: Presence,
    leases: Leases,
});
section!(Log { format: String, filter: String });
section!(Observe { drill: bool });
section!(Replica { addr: String, drain_limit_s: u64, dev: bool });
section!(Pki { dir: String });
section!(Devices {
    addr: String,
    endpoints: Vec<String>,
    connections_max: usize,
    handshakes_max: usize,
    handshake_deadline_ms: u64,
    first_request_deadline_ms: u64,
    idle_max_ms: u64,
    age_max_ms: u64,
    linger_ms: u64,
    proxy_peers: Vec<String>,
    unverified_connections_max: usize,
    unverified_age_max_ms: u64,
    unverified_requests_max: u64,
});
section!(Admin {
    addr: String,
    client_auth: String,
    connections_max: usize,
    handshakes_max: usize,
    handshake_deadline_ms: u64,
    first_request_deadline_ms: u64,
    idle_max_ms: u64,
    age_max_ms: u64,
    linger_ms: u64,
    proxy_peers: Vec<String>,
});
section!(Ops { addr: String, connections_max: usize });
section!(Http { body_max_bytes: usize, body_deadline_ms: u64, submit_deadline_ms: u64 });
section!(Identity { cache_devices_max: u64, cache_operators_max: u64, certificate_expiring_percent: u32 });
section!(Database {
    hosts: Vec<String>,
    name: String,
    tls: String,
    ca_file: String,
    connect_deadline_ms: u64,
    statement_deadline_ms: u64,
    control_connections_max: usize,
    fleet_connections_max: usize,
    owner: User,
    control: User,
    fleet: User,
    lease: User,
});
section!(User { user: String, password: String, password_file: String });
section!(Durability { policy: String });
section!(Admission {
    limit_min: u32,
    limit_max: u32,
    limit_initial: u32,
    database_requests_max: u32,
    device_requests_per_s: u32,
    device_burst: u32,
    fleet_requests_per_s: u32,
    fleet_burst: u32,
    failures_per_address: u32,
    failures_per_token: u32,
    failures_window_s: u64,
    failures_callers_max: u64,
});
section!(Ingest {
    body_max_bytes: usize,
    items_max: usize,
    retention_days: u32,
    future_max_s: u64,
    commit_rows_max: usize,
    commits_in_flight_max: usize,
    queue_rows_max: usize,
    queue_requests_max: usize,
});
section!(Presence {
    flush_interval_ms: u64,
    flush_rows_max: usize,
    devices_max: usize,
    heartbeat_blind_max_s: u64,
    blind_close_over_s: u64,
    promise_trust_s: u64,
    tick_interval_ms: u64,
    tick_gap_max_ms: u64,
    tick_fresh_ms: u64,
    restarts_max: i64,
    restarts_window_s: u64,
    sweep_rows_max: i64,
});
section!(Leases {
    ttl_ms: u64,
    renew_ms: u64,
    poll_ms: u64,
    sweep_interval_ms: u64,
    partitions_interval_ms: u64,
    partitions_ahead_days: u32,
    events_retention_days: u64,
});

impl Keys {
    /// TOML for people, without the passwords.
    ///
    /// # Errors
    /// When a value cannot be written as TOML; none of ours is such.
    pub fn printable(&self) -> Result<String, toml::ser::Error> {
        let mut shown = self.clone();
        let database = &mut shown.database;
        for user in [&mut database.owner, &mut database.control, &mut database.fleet, &mut database.lease] {
            if !user.password.is_empty() {
                "(set)".clone_into(&mut user.password);
            }
        }
        toml::to_string(&shown)
    }
}
