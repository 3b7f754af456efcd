//! What each key may be by itself. Rules between keys are in `settings`, and with the subsystems.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use serde_json::Value;

use super::Keys;
use crate::observe::log;

/// Shorter: no caller on a real network gets anything done.
const DEADLINE_MIN_MS: u64 = 100;
/// Shorter: no enrollment request fits. Longer: a few requests fill the memory.
const BODY_BYTES: RangeInclusive<usize> = 1_024..=64 * 1_024 * 1_024;

/// Every bound that is broken, one sentence each.
pub(super) fn problems(keys: &Keys) -> Vec<String> {
    let mut found = Vec::new();
    match serde_json::to_value(keys) {
        Ok(tree) => times(&tree, "", &mut found),
        Err(error) => found.push(error.to_string()),
    }
    let mut rule = |kept: bool, sentence: &str| {
        if !kept {
            found.push(sentence.to_owned());
        }
    };
    let (devices, identity) = (&keys.devices, &keys.identity);
    rule(identity.cache_devices_max > 0, "identity.cache_devices_max: at least 1");
    rule(identity.cache_operators_max > 0, "identity.cache_operators_max: at least 1");
    rule(
        (1..=33).contains(&identity.certificate_expiring_percent),
        "identity.certificate_expiring_percent: between 1 and 33, since devices renew when a third is left",
    );
    rule(devices.unverified_connections_max > 0, "devices.unverified_connections_max: at least 1, or nobody enrolls");
    rule(devices.unverified_requests_max > 0, "devices.unverified_requests_max: at least 1, or nobody enrolls");
    let admission = &keys.admission;
    // Below it, shares of a few percent come to nothing.
    rule(admission.limit_min >= 20, "admission.limit_min: at least 20");
    rule(admission.limit_max >= admission.limit_min, "admission.limit_max: at least admission.limit_min");
    let initial = admission.limit_min..=admission.limit_max.max(admission.limit_min);
    rule(
        initial.contains(&admission.limit_initial),
        "admission.limit_initial: from admission.limit_min to admission.limit_max",
    );
    rule(
        admission.database_requests_max as usize
            >= keys.database.control_connections_max + keys.database.fleet_connections_max,
        "admission.database_requests_max: at least the connections of both pools",
    );
    rule(admission.device_burst > 0, "admission.device_burst: at least 1");
    rule(admission.fleet_burst > 0, "admission.fleet_burst: at least 1");
    // The memory of callers does not reach further.
    rule((1..=3_600).contains(&admission.failures_window_s), "admission.failures_window_s: between 1 and 3600");
    rule(admission.failures_callers_max > 0, "admission.failures_callers_max: at least 1");
    rule(keys.ops.connections_max > 0, "ops.connections_max: at least 1");
    for (key, bytes) in [("http", keys.http.body_max_bytes), ("ingest", keys.ingest.body_max_bytes)] {
        let sentence = format!("{key}.body_max_bytes: between {} and {}", BODY_BYTES.start(), BODY_BYTES.end());
        rule(BODY_BYTES.contains(&bytes), &sentence);
    }
    let plain = keys.database.tls == "disable" && !keys.replica.dev && !keys.observe.drill;
    for host in keys.database.hosts.iter().filter(|host| plain && !is_local(host)) {
        rule(false, &format!("database.tls: \"disable\" is for a database on this host, which {host:?} is not"));
    }
    if let Err(sentence) = log::check(&keys.log.filter) {
        found.push(format!("log.filter: {sentence}"));
    }
    found
}

/// Every time has a lower bound: found by the key's name, so that no new key is forgotten.
fn times(tree: &Value, path: &str, found: &mut Vec<String>) {
    for (key, value) in tree.as_object().into_iter().flatten() {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let min = if key.ends_with("_deadline_ms") { DEADLINE_MIN_MS } else { 1 };
        match value.as_u64() {
            Some(ms) if key.ends_with("_ms") && ms < min => found.push(format!("{path}: at least {min}")),
            _ => times(value, &path, found),
        }
    }
}

/// A loopback address or name, or the directory of a socket. `host`: with its port.
fn is_local(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost"
        || name.starts_with('/')
        || name.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::config::merge::merge;

    /// What is wrong once these variables are set.
    fn with(pairs: &[(&str, &str)]) -> Vec<String> {
        let given = pairs.iter().map(|(key, value)| (format!("EVERBEAT__{key}"), (*value).to_owned()));
        problems(&merge(&[], given.collect::<HashMap<_, _>>()).unwrap())
    }

    #[test]
    fn the_defaults_break_nothing() {
        assert_eq!(with(&[]), Vec::<String>::new());
    }

    #[test]
    fn every_rule_bites() {
        for (key, value, named) in [
            ("DEVICES__HANDSHAKE_DEADLINE_MS", "99", "devices.handshake_deadline_ms: at least 100"),
            ("HTTP__SUBMIT_DEADLINE_MS", "0", "http.submit_deadline_ms: at least 100"),
            ("DATABASE__CONNECT_DEADLINE_MS", "1", "database.connect_deadline_ms: at least 100"),
            ("ADMIN__IDLE_MAX_MS", "0", "admin.idle_max_ms: at least 1"),
            ("LEASES__POLL_MS", "0", "leases.poll_ms: at least 1"),
            ("IDENTITY__CACHE_DEVICES_MAX", "0", "identity.cache_devices_max"),
            ("IDENTITY__CACHE_OPERATORS_MAX", "0", "identity.cache_operators_max"),
            ("DEVICES__UNVERIFIED_CONNECTIONS_MAX", "0", "devices.unverified_connections_max"),
            ("DEVICES__UNVERIFIED_REQUESTS_MAX", "0", "devices.unverified_requests_max"),
            ("OPS__CONNECTIONS_MAX", "0", "ops.connections_max"),
            ("ADMISSION__DATABASE_REQUESTS_MAX", "17", "admission.database_requests_max"),
            ("ADMISSION__FAILURES_WINDOW_S", "3601", "admission.failures_window_s"),
            ("ADMISSION__FAILURES_CALLERS_MAX", "0", "admission.failures_callers_max"),
            ("HTTP__BODY_MAX_BYTES", "1023", "http.body_max_bytes: between 1024 and 67108864"),
            ("INGEST__BODY_MAX_BYTES", "67108865", "ingest.body_max_bytes"),
            ("LOG__FILTER", "everbeat=loud", "log.filter"),
        ] {
            let found = with(&[(key, value)]);
            assert!(matches!(found.as_slice(), [one] if one.starts_with(named)), "{key}: {found:?}");
        }
        assert_eq!(with(&[("HTTP__BODY_DEADLINE_MS", "100"), ("HTTP__BODY_MAX_BYTES", "1024")]), Vec::<String>::new());
    }

    #[test]
    fn a_database_elsewhere_has_tls() {
        let of = |hosts: &str, permits: &str, value: &str| {
            with(&[("DATABASE__TLS", "disable"), ("DATABASE__HOSTS", hosts), (permits, value)]).len()
        };
        assert_eq!(of("127.0.0.1:1, localhost:2, [::1]:3, /run/postgresql:4", "REPLICA__DEV", "false"), 0);
        assert_eq!(of("127.0.0.1:1, db.example:2, 10.0.0.1:3, localhost.example:4", "REPLICA__DEV", "false"), 3);
        assert_eq!(of("db.example:2", "REPLICA__DEV", "true"), 0);
        assert_eq!(of("db.example:2", "OBSERVE__DRILL", "true"), 0);
        assert_eq!(of("db.example:2", "OBSERVE__DRILL", "false"), 1);
        assert_eq!(with(&[("DATABASE__HOSTS", "db.example:2")]).len(), 0);
    }
}
