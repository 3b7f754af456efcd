//! What `everbeat dev` shows: how to call the service, then one line that lives.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;

use super::place::Place;
use super::replicas::{Ports, Replicas};
use super::{CURL_DEVICE, FLEET, shown};
use crate::client::{AdminClient, ClientError};
use crate::config;
use crate::lifecycle::shutdown::Shutdown;
use crate::tools::device::{Counters, Snapshot};
use crate::wire::admin::{Device, Lease};

const EVERY: Duration = Duration::from_secs(1);

/// What was counted, and when.
type Counted = (tokio::time::Instant, Snapshot);

pub(super) struct Screen {
    admin: AdminClient,
    counters: Arc<Counters>,
    ports: Ports,
}

impl Screen {
    pub(super) fn new(admin: AdminClient, counters: Arc<Counters>, ports: Ports) -> Self {
        Self { admin, counters, ports }
    }

    /// Everything a person needs to make the first call, on one screen.
    pub(super) fn print_greeting(place: &Place, ports: Ports, devices: u32) {
        let ca = shown(&place.path("pki/ca.pem"));
        let identity = shown(&place.path(&format!("devices/{CURL_DEVICE}/current")));
        let token = shown(&place.path("admin-token"));
        let (device, admin) = (ports.device_urls().join(" "), ports.admin_urls().join(" "));
        let (device_url, admin_url) = (&ports.device_urls()[0], &ports.admin_urls()[0]);
        let ops: Vec<String> = (0..ports.count).map(|index| ports.ops_url(index)).collect();
        let admin_token = place.read("admin-token").unwrap_or_default();
        let text = format!(
            r#"
Everbeat runs: {count} replicas, {devices} simulated devices in fleet "{FLEET}". Everything is in {root}

  devices    {device}
  operators  {admin}
  ops        {ops}    (/readyz?verbose, /metrics)
  admin token (30 days, in {token}):
{admin_token}

As a device (certificate and key of the device "{CURL_DEVICE}"):
  D="--cacert {ca} --cert {identity}/certificate.pem --key {identity}/key.pem"
  T=$(curl -sS $D -X POST {device_url}/v1/token | sed 's/.*"access_token":"\([^"]*\)".*/\1/')
  curl -sS $D -H "Authorization: Bearer $T" -X POST {device_url}/v1/heartbeat
  curl -sS $D -H "Authorization: Bearer $T" -H 'Content-Type: application/json' -d '{{"values":{{"temperature":21.5}}}}' {device_url}/v1/readings

As an operator:
  A="--cacert {ca}"
  curl -sS $A -H "Authorization: Bearer $(cat {token})" '{admin_url}/v1/devices?limit=3'
  curl -sS $A -H "Authorization: Bearer $(cat {token})" '{admin_url}/v1/devices/name:{FLEET}:{CURL_DEVICE}/readings'
  {program} admin --url {admin_url} --cacert {ca} --token-file {token} devices
  # …and in place of `devices`: readings {FLEET}/{CURL_DEVICE}, leases, events
"#,
            program = config::this_program().map_or_else(|_| "everbeat".to_owned(), |path| shown(&path)),
            count = ports.count,
            root = shown(place.root()),
            ops = ops.join(" "),
        );
        let _ = writeln!(std::io::stdout(), "{text}");
    }

    /// Shows the line until the drain begins; `quiet`: only what has ended.
    pub(super) async fn run(&self, shutdown: &Shutdown, replicas: &Replicas, quiet: bool) {
        let terminal = std::io::stdout().is_terminal();
        let pids: Vec<String> = replicas.pids().iter().map(u32::to_string).collect();
        let _ = writeln!(std::io::stdout(), "replicas are the processes {}; Ctrl-C stops everything", pids.join(", "));
        let mut before = (tokio::time::Instant::now(), self.counters.snapshot());
        let mut seconds = 0_u64;
        while !shutdown.is_draining() {
            tokio::select! {
                () = shutdown.draining() => return,
                () = tokio::time::sleep(EVERY) => {}
            }
            for number in replicas.newly_ended() {
                let _ = writeln!(std::io::stdout(), "\r\x1b[Kreplica {number} has ended; the others go on");
            }
            if quiet {
                continue;
            }
            let now = (tokio::time::Instant::now(), self.counters.snapshot());
            let line = self.line(before, now).await;
            before = now;
            seconds += 1;
            let mut out = std::io::stdout();
            if terminal {
                let _ = write!(out, "\r\x1b[K{line}").and_then(|()| out.flush());
            } else if seconds % 5 == 1 {
                let _ = writeln!(out, "{line}");
            }
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "for display")]
    async fn line(&self, (then, before): Counted, (at, now): Counted) -> String {
        let seconds = at.duration_since(then).as_secs_f64().max(0.001);
        let rate = |count: u64, before: u64| (count.saturating_sub(before) as f64 / seconds).round();
        let asked = tokio::time::timeout(Duration::from_secs(2), self.ask()).await;
        let (online, leader) = match asked {
            Ok(Ok((online, leader))) => (online.to_string(), leader),
            Ok(Err(error)) => ("?".to_owned(), format!("? ({error})")),
            Err(_) => ("?".to_owned(), "? (no answer)".to_owned()),
        };
        format!(
            "online {online} · heartbeats/s {} · readings/s {} · errors {} · leader {leader}",
            rate(now.heartbeats, before.heartbeats),
            rate(now.readings, before.readings),
            now.errors,
        )
    }

    /// How many devices the service believes online, and who sweeps.
    async fn ask(&self) -> Result<(usize, String), ClientError> {
        let query = [("presence", "online".to_owned()), ("fleet", FLEET.to_owned()), ("limit", "1000".to_owned())];
        let online: Vec<Device> = self.admin.pages("/v1/devices", &query).take(100_000).await?;
        let leases: Vec<Lease> = self.admin.pages("/v1/leases", &[]).take(100).await?;
        let sweeper = leases.iter().find(|lease| lease.role == "sweeper" && lease.holder.is_some() && !lease.expired);
        let leader = sweeper.map_or_else(
            || "none".to_owned(),
            |lease| {
                let index = (0..self.ports.count)
                    .find(|index| lease.addr.ends_with(&format!(":{}", self.ports.device + index)));
                let number = index.map_or_else(|| lease.addr.clone(), |index| format!("replica {}", index + 1));
                format!("{number} (epoch {})", lease.epoch)
            },
        );
        Ok((online.len(), leader))
    }
}
