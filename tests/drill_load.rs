//! The drill's load against two replicas of the production wiring: what it writes down, and what the database has then.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[expect(dead_code, reason = "the API's tests use all of it")]
#[path = "support/app.rs"]
mod app;
#[path = "support/proxy.rs"]
mod proxy;
mod support;
#[expect(dead_code, reason = "the API's tests use all of it")]
#[path = "support/wire.rs"]
mod wire;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use app::{Replica, TestApp, eventually};
use everbeat::domain::random::Random;
use everbeat::domain::time::Clock;
use everbeat::lifecycle::shutdown::Shutdown;
use everbeat::lifecycle::tasks::Tasks;
use everbeat::store::drill_views::DrillView;
use everbeat::tools::drill::evidence::{Attempt, Call, Outcome};
use everbeat::tools::drill::load::{Load, LoadError, LoadSettings, Place, Population, final_database};
use everbeat::tools::drill::target::Target;
use proxy::{Cut, Proxy};
use uuid::Uuid;

const PATIENCE: Duration = Duration::from_mins(1);

fn settings() -> LoadSettings {
    LoadSettings {
        devices: 8,
        requests_per_device_per_second: 5.0,
        batch_max: 5,
        repeated_share: 0.2,
        reconnect_share: 0.1,
        request_timeout: Duration::from_secs(10),
        suspended_devices: 1,
        revoked_devices_max: 2,
        revoke_after: Duration::from_secs(1),
        try_for: Duration::from_secs(4),
        ..LoadSettings::usual()
    }
}

/// Two replicas, and the way to the second through a proxy as well.
struct Rig {
    app: TestApp,
    _second: Replica,
    proxy: Proxy,
    population: Arc<Population>,
    tasks: Tasks,
    _dir: tempfile::TempDir,
    history: std::path::PathBuf,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.tasks.shutdown().abort();
    }
}

impl Rig {
    async fn new(settings: LoadSettings) -> Self {
        let app = TestApp::new().await;
        let second = app.another().await;
        let proxy = Proxy::to(second.running.device_addr).await;
        let https = |addr: &dyn std::fmt::Display| format!("https://{addr}");
        let (first, running) = (&app.replica.running, &second.running);
        let target = Target {
            device_urls: vec![https(&first.device_addr), https(&running.device_addr), https(&proxy.addr)],
            admin_urls: vec![https(&first.admin_addr), https(&running.admin_addr)],
            ca_pem: app.pki.ca_bundle.pem().to_string(),
            admin_token: app.admin.clone().into(),
            store: Arc::new(app.database.clone()),
        };
        let dir = tempfile::tempdir().unwrap();
        let place = Place {
            dir: dir.path().join("devices"),
            tag: "t".to_owned(),
            clock: Clock::System,
            random: Random::seeded(7),
        };
        let population = Population::enroll(target, settings, place).await.unwrap();
        let history = dir.path().join("attempts.jsonl");
        let tasks = Tasks::new(Shutdown::new());
        Self { app, _second: second, proxy, population, tasks, _dir: dir, history }
    }

    async fn start(&self) -> Load {
        Load::start(self.population.clone(), &self.history, &self.tasks).await.unwrap()
    }

    /// Batches of new readings of which no device knows what became of them.
    fn lost_answers(&self) -> usize {
        let lines = std::fs::read_to_string(&self.history).unwrap();
        let lost = |line: &&str| line.contains("\"retry_of\":null") && line.contains("\"outcome\":\"unknown\"");
        lines.lines().filter(lost).count()
    }
}

fn now_us() -> u64 {
    Clock::System.boottime().as_us()
}

fn with_readings(attempts: &[Attempt]) -> impl Iterator<Item = (&Attempt, Uuid, Vec<u64>, Option<u64>)> {
    attempts.iter().filter_map(|attempt| match &attempt.call {
        Call::Readings { items, retry_of } => {
            Some((attempt, attempt.device?, items.iter().map(|item| item.n).collect(), *retry_of))
        }
        _ => None,
    })
}

/// `(device, n)` of what was acknowledged.
fn acknowledged(attempts: &[Attempt]) -> HashSet<(Uuid, u64)> {
    let of = with_readings(attempts).filter(|(attempt, ..)| attempt.outcome.is_acknowledged());
    of.flat_map(|(_, device, numbers, _)| numbers.into_iter().map(move |n| (device, n))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_reading_is_accounted_for_and_stored_once() {
    let rig = Box::pin(Rig::new(settings())).await;
    let mut since = Clock::System.unix_us();
    // The devices of a run serve scenario after scenario, and go on counting.
    for scenario in 1..=2 {
        let load = rig.start().await;
        load.wait_acknowledged_since(now_us()).await;
        // Answers get lost: whoever calls through the proxy does not learn what became of the request.
        let lost = rig.lost_answers();
        eventually(PATIENCE, async || {
            let swallowed = rig.proxy.swallowed();
            rig.proxy.arm(Cut::BeforeLaterAnswer);
            eventually(PATIENCE, async || rig.proxy.swallowed() > swallowed).await;
            rig.proxy.arm(Cut::Never);
            load.wait_acknowledged_since(now_us()).await;
            rig.lost_answers() > lost
        })
        .await;
        let cut_at = now_us();
        assert!(!load.acknowledged_since(u64::MAX));
        eventually(PATIENCE, async || load.acknowledged_since(cut_at) && load.live().readings > 200).await;
        let (attempts, silenced) = load.finish(PATIENCE).await.unwrap();

        assert_eq!(silenced, []);
        let devices = rig.population.device_ids();
        let database = final_database(&rig.app.database, &devices, since, PATIENCE).await.unwrap();
        let mut rows: HashMap<(Uuid, u64), u64> = HashMap::new();
        database.readings.iter().for_each(|row| *rows.entry((row.device, row.n)).or_default() += 1);
        assert!(rows.values().all(|count| *count == 1), "scenario {scenario}: nothing is stored twice");
        let sent: HashSet<(Uuid, u64)> = with_readings(&attempts)
            .flat_map(|(_, device, numbers, _)| numbers.into_iter().map(move |n| (device, n)))
            .collect();
        let acknowledged = acknowledged(&attempts);
        assert_eq!(acknowledged, rows.into_keys().collect(), "scenario {scenario}");
        assert_eq!(sent, acknowledged, "with patience, everything is acknowledged in the end");
        accounted(&attempts);
        assert!(database.timeline >= 1);
        assert!(database.presence.iter().any(|event| event.kind == "device.online"), "{:?}", database.presence);
        since = Clock::System.unix_us();
    }
}

/// What any history must show.
fn accounted(attempts: &[Attempt]) {
    // Each client's numbers are 1, 2, 3, …, however many connections it has.
    let mut numbers: BTreeMap<&str, BTreeSet<u64>> = BTreeMap::new();
    for attempt in attempts {
        assert!(attempt.sent_us <= attempt.done_us);
        assert!(numbers.entry(&attempt.client).or_default().insert(attempt.number), "{attempt:?}");
    }
    for (client, numbers) in &numbers {
        assert!(numbers.iter().copied().eq(1..=numbers.len() as u64), "{client} left some out");
    }
    let by_number: HashMap<(Uuid, u64), Vec<u64>> =
        with_readings(attempts).map(|(attempt, device, items, _)| ((device, attempt.number), items)).collect();
    let (mut retried, mut duplicates, mut elsewhere) = (0, 0, 0);
    let endpoint: HashMap<(&str, u64), &str> =
        attempts.iter().map(|a| ((a.client.as_str(), a.number), a.endpoint.as_str())).collect();
    for (attempt, device, items, retry_of) in with_readings(attempts) {
        let Some(first) = retry_of else { continue };
        assert_eq!(by_number.get(&(device, first)), Some(&items), "a retry sends the same readings");
        retried += 1;
        elsewhere += u64::from(endpoint[&(attempt.client.as_str(), first)] != attempt.endpoint);
        if let Outcome::Acknowledged { duplicates: found, stored, .. } = attempt.outcome {
            duplicates += u64::from(found > 0 && stored == 0);
        }
    }
    assert!(retried > 0 && duplicates > 0 && elsewhere > 0, "{retried} retries, {duplicates} duplicates, {elsewhere}");
    let has = |wanted: fn(&Call) -> bool| attempts.iter().any(|a| wanted(&a.call) && a.outcome.is_acknowledged());
    assert!(has(|call| matches!(call, Call::Heartbeat)));
    assert!(has(|call| matches!(call, Call::Goodbye)));
    assert!(attempts.iter().any(|a| a.reused_connection) && attempts.iter().any(|a| !a.reused_connection));
    let unknown = |number: u64, device| {
        let of = |(a, owner, ..): &(&Attempt, Uuid, Vec<u64>, Option<u64>)| a.number == number && *owner == device;
        with_readings(attempts).find(of).is_some_and(|(a, ..)| matches!(a.outcome, Outcome::Unknown { .. }))
    };
    let again = with_readings(attempts).filter(|(_, device, _, first)| first.is_some_and(|n| unknown(n, *device)));
    assert!(again.count() > 0, "readings whose answer was lost are sent again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_silent_are_silent_and_the_revoked_are_refused() {
    let rig = Box::pin(Rig::new(settings())).await;
    let load = rig.start().await;
    load.wait_acknowledged_since(now_us()).await;
    let silenced = load.silence(2);
    assert_eq!((silenced.len(), load.live().silenced), (2, 2));
    // One is suspended, another one's certificate is revoked.
    let revocations = || {
        let lines = std::fs::read_to_string(&rig.history).unwrap();
        let done = |line: &&str| line.contains("\"kind\":\"revoke\"") && line.contains("\"outcome\":\"acknowledged\"");
        let by = |who: &str| lines.lines().filter(done).any(|line| line.contains(who));
        by("suspender-1") && by("revoker")
    };
    eventually(PATIENCE, async || revocations() && load.live().denied > 20).await;
    let (attempts, told) = load.finish(PATIENCE).await.unwrap();
    assert_eq!(told, silenced);
    for silent in &silenced {
        let own: Vec<&Attempt> = attempts.iter().filter(|a| a.device == Some(silent.device)).collect();
        assert!(!own.is_empty() && own.iter().all(|a| a.sent_us <= silent.at_us), "it sends nothing any more");
        assert!(!own.iter().any(|a| matches!(a.call, Call::Goodbye)), "and has said nothing");
        assert!(rig.population.device_ids().contains(&silent.device));
    }
    revoked_are_refused(&attempts);
    versions_grow(&attempts);

    let view = DrillView::open(&rig.app.database, PATIENCE).await.unwrap();
    let held = view.settled(PATIENCE).await.unwrap();
    assert!(held.backends > 0 && held.abandoned == 0, "{held:?}");
    let (owner, _connection) = support::TestCluster::shared().owner(&rig.app.database.database).await;
    let name = format!("everbeat/fleet-of-{}", std::process::id());
    owner.batch_execute(&format!("set application_name = '{name}'; begin; select pg_current_xact_id()")).await.unwrap();
    eventually(PATIENCE, async || view.backends().await.unwrap().abandoned > 0).await;
    assert_eq!(view.settled(Duration::ZERO).await.unwrap().abandoned, 1, "it is there as long as it is there");
    owner.batch_execute("rollback").await.unwrap();
    assert_eq!(view.settled(PATIENCE).await.unwrap().abandoned, 0);
}

/// After each revocation its device calls on, and is refused once the replicas know.
fn revoked_are_refused(attempts: &[Attempt]) {
    let mut revocations = 0;
    for revoke in attempts.iter().filter(|a| a.outcome.is_acknowledged()) {
        let Call::Revoke { device } = revoke.call else { continue };
        let restored = attempts.iter().filter(|a| a.call == Call::Restore { device } && a.sent_us > revoke.sent_us);
        let until = restored.map(|a| a.sent_us).min().unwrap_or(u64::MAX);
        let own = attempts.iter().filter(|a| a.device == Some(device));
        let late: Vec<_> = own.filter(|a| a.sent_us > revoke.done_us + 2_000_000 && a.done_us < until).collect();
        assert!(late.iter().all(|a| !a.outcome.is_acknowledged()), "{late:?}");
        let refused =
            |status| late.iter().any(|a| matches!(a.outcome, Outcome::Refused { status: s, .. } if s == status));
        assert!(refused(401) || refused(403), "{late:?}");
        let endpoints: BTreeSet<&str> = late.iter().map(|a| a.endpoint.as_str()).collect();
        assert!(endpoints.len() >= 2, "through several endpoints: {endpoints:?}");
        revocations += 1;
    }
    assert!(revocations >= 2, "one is suspended, another one's certificate is revoked");
    assert!(attempts.iter().any(|a| matches!(a.call, Call::Enroll) && a.outcome.is_acknowledged()));
}

/// Changes and reads carry versions; what was sent after an answer never has an older one: there is one database.
fn versions_grow(attempts: &[Attempt]) {
    let mut seen: Vec<(u64, u64, i64, bool)> = Vec::new();
    for attempt in attempts.iter().filter(|a| a.outcome.is_acknowledged()) {
        if let Call::Change { version, .. } | Call::Read { version, .. } = &attempt.call {
            let change = matches!(attempt.call, Call::Change { .. });
            seen.push((attempt.sent_us, attempt.done_us, version.unwrap(), change));
        }
    }
    assert!(seen.iter().any(|s| s.3) && seen.iter().any(|s| !s.3));
    let versions: BTreeSet<i64> = seen.iter().map(|s| s.2).collect();
    assert!(versions.len() > 3, "{versions:?}");
    for (sent, _, version, _) in &seen {
        let known = seen.iter().filter(|(_, done, ..)| done < sent).map(|s| s.2).max();
        assert!(known.is_none_or(|known| known <= *version), "{version} after {known:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_rush_every_device_sends_without_a_pause() {
    // Left alone, a device would send once in a quarter of an hour.
    let slow = LoadSettings {
        requests_per_device_per_second: 0.001,
        repeated_share: 0.0,
        suspended_devices: 0,
        revoked_devices_max: 0,
        ..settings()
    };
    let rig = Box::pin(Rig::new(slow)).await;
    let load = rig.start().await;
    load.rush(Duration::from_secs(2));
    load.wait_acknowledged_since(0).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let sent = load.live().readings;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(load.live().readings, sent, "it has an end");
    let (attempts, _) = load.finish(PATIENCE).await.unwrap();
    let mut batches: HashMap<Uuid, u32> = HashMap::new();
    with_readings(&attempts).for_each(|(_, device, ..)| *batches.entry(device).or_default() += 1);
    assert!(batches.len() >= 8 && batches.values().all(|count| *count > 1), "{batches:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_without_a_history_ends() {
    let rig =
        Box::pin(Rig::new(LoadSettings { devices: 2, suspended_devices: 0, revoked_devices_max: 0, ..settings() }))
            .await;
    let full = std::path::Path::new("/dev/full");
    let load = Load::start(rig.population.clone(), full, &rig.tasks).await.unwrap();
    let outcome = tokio::time::timeout(PATIENCE, load.finish(PATIENCE)).await.unwrap();
    assert!(matches!(outcome, Err(LoadError::History(_))));
    // And one whose run is stopped ends, with the records that there are.
    let load = rig.start().await;
    load.wait_acknowledged_since(0).await;
    rig.tasks.shutdown().drain();
    let (attempts, _) = tokio::time::timeout(PATIENCE, load.finish(PATIENCE)).await.unwrap().unwrap();
    assert!(attempts.iter().any(|attempt| attempt.outcome.is_acknowledged()));
    assert!(!attempts.iter().any(|attempt| matches!(attempt.call, Call::Goodbye) && attempt.outcome.is_acknowledged()));
}
