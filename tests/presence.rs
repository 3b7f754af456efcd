//! Presence on a real PostgreSQL: the sweep against its pure twin, and the orders of events that must not matter.
#![expect(clippy::unwrap_used, reason = "the helpers of tests fail by panicking")]

mod support;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use everbeat::domain::database_clock::DatabaseClock;
use everbeat::domain::ids::{DeviceId, Fingerprint, ReplicaId};
use everbeat::domain::lease::Fence;
use everbeat::domain::presence::{Said, State};
use everbeat::domain::random::Random;
use everbeat::domain::time::{Boottime, Clock};
use everbeat::lifecycle::readiness::{Check, Readiness};
use everbeat::lifecycle::shutdown::Shutdown;
use everbeat::lifecycle::tasks::Tasks;
use everbeat::presence::detector::{Evidence, Limits, Outage, judge, restarting};
use everbeat::presence::{Contact, Presence, PresenceError, PresenceSettings};
use everbeat::store::changes::ChangeLog;
use everbeat::store::devices::{DeviceState, Switch, switch};
use everbeat::store::partitions::{Trim, Trimmed, expired, trim};
use everbeat::store::presence::{
    Contacts, Flush, Flushed, Goodbye, Me, RestartCap, extend, flush, goodbye, promises, tick,
};
use everbeat::store::retention::{self, RetentionClock};
use everbeat::store::sweep::{Horizon, Looked, Restarts, SweepSettings, Swept, look, sweep};
use everbeat::store::{Plane, Session};
use support::{TestCluster, TestStore};
use time::OffsetDateTime;
use uuid::Uuid;

const CAP: RestartCap = RestartCap { restarts_max: 2, window: Duration::from_mins(5) };
const BLIND_MAX: Duration = Duration::from_secs(10);
const SWEEP: SweepSettings =
    SweepSettings { rows_max: 500, tick_fresh: Duration::from_secs(3), blind_max: BLIND_MAX, cap: CAP };
const GAP_MAX: Duration = Duration::from_secs(3);
const LIMIT: Duration = Duration::from_secs(10);

struct Db {
    store: TestStore,
    owner: tokio_postgres::Client,
    _driver: tokio_util::task::AbortOnDropHandle<()>,
}

impl Db {
    async fn new() -> Self {
        let store = TestStore::new().await;
        let (owner, driver) = TestCluster::shared().owner(&store.settings.database).await;
        let epoch = "insert into leader_epoch values ('sweeper', 3, current_timeline())";
        let fleet = "insert into fleets (id, name) values ('00000000-0000-7000-8000-000000000001', 'f')";
        owner.batch_execute(&format!("{epoch}; {fleet}")).await.unwrap();
        Self { store, owner, _driver: driver }
    }

    /// An active device with a live credential, enrolled a minute ago, and what the row says beyond that.
    async fn device(&self, n: u128) -> DeviceId {
        let id = Uuid::from_u128(n);
        let insert = "with d as (insert into devices (id, fleet_id, name)
              values ($1::uuid, '00000000-0000-7000-8000-000000000001', 'd' || ($1::uuid)::text) returning id),
            c as (insert into credentials (fingerprint, device_id, spki_sha256, serial, certificate_pem, not_before, not_after)
              select $2::bytea, id, $2::bytea, '\\x01', '', now() - interval '1 day', now() + interval '1 day' from d)
            insert into presence (device_id, promise_ms, state_since) select id, 30000, clock_timestamp() - interval '1 minute' from d";
        self.owner.execute(insert, &[&id, &print(n).0.as_slice()]).await.unwrap();
        DeviceId(id)
    }

    async fn state(&self, device: DeviceId) -> State {
        let row = self.owner.query_one("select state from presence where device_id = $1", &[&device.0]).await.unwrap();
        State::from_code(row.get(0)).unwrap()
    }

    async fn number(&self, sql: &str) -> i64 {
        self.owner.query_one(sql, &[]).await.unwrap().get(0)
    }

    async fn flush(&self, contacts: Vec<Contacts>) -> Flushed {
        self.flush_with(contacts, None).await
    }

    async fn flush_with(&self, contacts: Vec<Contacts>, refused_since: Option<Boottime>) -> Flushed {
        let (clock, through) = (DatabaseClock::new(Clock::System), Some(Clock::System.boottime()));
        let work = Flush { me: me(1), contacts: Arc::new(contacts), through, refused_since };
        flush(&self.store.fleet, &clock, work).await.unwrap()
    }

    async fn tick(&self) {
        tick(&self.store.fleet, ReplicaId(Uuid::from_u128(1)), GAP_MAX, CAP).await.unwrap();
    }

    async fn session(&self) -> Session {
        Session::open(&self.store.settings, &self.store.settings.hosts[0], Plane::Lease, "").await.unwrap()
    }

    /// As a pass of the sweeper: over nobody first, and then over those whom a look finds.
    async fn sweep(&self, fence: &Fence) -> Swept {
        let session = self.session().await;
        let proof = sweep(&session, fence, &SWEEP, &[], LIMIT).await.unwrap();
        if !proof.tick_fresh {
            return proof;
        }
        let found = look(&session, 0..1_000, Horizon::default(), &proof.restarts, LIMIT).await.unwrap();
        sweep(&session, fence, &SWEEP, &found.devices, LIMIT).await.unwrap()
    }

    async fn fence(&self) -> Fence {
        let timeline = self.owner.query_one("select current_timeline()", &[]).await.unwrap().get(0);
        Fence { role: "sweeper", epoch: 3, timeline }
    }
}

fn me(n: u128) -> Me {
    Me { id: ReplicaId(Uuid::from_u128(n)), addr: "here:1".to_owned(), version: "0" }
}

fn print(n: u128) -> Fingerprint {
    let mut bytes = [0; 32];
    bytes[..16].copy_from_slice(&n.to_be_bytes());
    Fingerprint(bytes)
}

fn contact_at(n: u128, newest: Boottime) -> Contacts {
    Contacts {
        device: DeviceId(Uuid::from_u128(n)),
        fingerprint: print(n),
        newest,
        count: 1,
        promise: None,
        said: Said::default(),
    }
}

fn contact(n: u128) -> Contacts {
    contact_at(n, Clock::System.boottime())
}

fn bye(n: u128) -> Goodbye {
    Goodbye { device: DeviceId(Uuid::from_u128(n)), fingerprint: print(n), reason: None, back_at: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_flush_does_not_undo_a_goodbye() {
    let db = Db::new().await;
    let device = db.device(1).await;
    assert_eq!(db.flush(vec![contact(1)]).await, Flushed { applied: 1, revived: 1, ..Flushed::default() });
    assert_eq!(db.state(device).await, State::Online);

    let before = contact(1);
    assert!(goodbye(&db.store.fleet, me(2).id, bye(1)).await.unwrap());
    // The flush of the contact from before waits for a lock: time that must not make the contact younger.
    let (holder, _driver) = TestCluster::shared().owner(&db.store.settings.database).await;
    holder.batch_execute("begin; select from presence for update").await.unwrap();
    let release = async {
        tokio::time::sleep(Duration::from_millis(400)).await;
        holder.batch_execute("commit").await.unwrap();
    };
    let (flushed, ()) = tokio::join!(db.flush(vec![before]), release);
    assert_eq!(flushed, Flushed { applied: 1, ..Flushed::default() });
    assert_eq!(db.state(device).await, State::Offline);

    assert_eq!(db.flush(vec![contact(1)]).await.revived, 1, "it is back");
    assert!(goodbye(&db.store.fleet, me(2).id, bye(1)).await.unwrap());
    assert!(goodbye(&db.store.fleet, me(2).id, bye(1)).await.unwrap(), "said twice");
    let kinds = db.owner.query("select kind, status_seq from events order by id", &[]).await.unwrap();
    let kinds: Vec<(String, i64)> = kinds.iter().map(|row| (row.get(0), row.get(1))).collect();
    let expected = ["device.online", "device.offline", "device.online", "device.offline"];
    assert_eq!(kinds, (1..).zip(expected).map(|(seq, kind)| (kind.to_owned(), seq)).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_live_devices_are_flushed() {
    let db = Db::new().await;
    for n in 1..=4 {
        db.device(n).await;
    }
    let spoil = "update devices set state = 'suspended' where id = '00000000-0000-0000-0000-000000000001';
        update credentials set revoked_at = now() where device_id = '00000000-0000-0000-0000-000000000002';
        update credentials set not_after = now() - interval '1 hour' where device_id = '00000000-0000-0000-0000-000000000003'";
    db.owner.batch_execute(spoil).await.unwrap();
    let flushed = db.flush((1..=5).map(contact).collect()).await;
    assert_eq!(flushed, Flushed { applied: 1, revived: 1, ..Flushed::default() }, "4 alone; 5 is nobody");
    assert_eq!(db.state(DeviceId(Uuid::from_u128(4))).await, State::Online);
    assert!(!goodbye(&db.store.fleet, me(1).id, bye(2)).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn flushes_in_opposite_orders_do_not_deadlock() {
    let db = Db::new().await;
    for n in 1..=300 {
        db.device(n).await;
    }
    let run = |reversed: bool| {
        let store = db.store.fleet.clone();
        async move {
            for _ in 0..25 {
                let mut contacts: Vec<Contacts> = (1..=300).map(contact).collect();
                if reversed {
                    contacts.reverse();
                }
                let id = if reversed { 1 } else { 2 };
                let work = Flush { me: me(id), contacts: Arc::new(contacts), through: None, refused_since: None };
                flush(&store, &DatabaseClock::new(Clock::System), work).await.unwrap();
            }
        }
    };
    tokio::join!(run(false), run(true), run(false), run(true));
    assert_eq!(db.number("select sum(hb_seq)::bigint from presence").await, 4 * 25 * 300);
    assert_eq!(db.number("select count(*) from events").await, 300, "each device came online once");
    // The statistics may lag by a second; a deadlock takes as long to be noticed.
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    let deadlocks = "select deadlocks from pg_stat_database where datname = current_database()";
    assert_eq!(db.number(deadlocks).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_words_of_a_device_are_kept() {
    let db = Db::new().await;
    db.device(1).await;
    let said = |seq, status: Option<&str>| Contacts { said: Said { seq, status: status.map(Arc::from) }, ..contact(1) };
    let stored = async || {
        let row = db.owner.query_one("select device_seq, device_status from presence", &[]).await.unwrap();
        (row.get::<_, Option<i64>>(0), row.get::<_, Option<String>>(1))
    };
    let late = said(Some(5), Some("old"));
    db.flush(vec![said(Some(41), Some("cold"))]).await;
    assert_eq!(stored().await, (Some(41), Some("cold".to_owned())));
    db.flush(vec![late]).await;
    assert_eq!(stored().await, (Some(41), Some("cold".to_owned())), "an older contact says nothing new");
    db.flush(vec![said(Some(0), None)]).await;
    assert_eq!(stored().await, (Some(0), Some("cold".to_owned())), "a reboot; the status stands");
    db.flush(vec![said(None, Some(""))]).await;
    assert_eq!(stored().await, (Some(0), None), "taken back");
}

/// The share of updates that touched no index and needed no new page, over rounds of heartbeats of a whole fleet.
#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_stay_hot_also_with_long_words() {
    const DEVICES: u128 = 200;
    const ROUNDS: i64 = 15;
    let db = Db::new().await;
    for n in 1..=DEVICES {
        db.device(n).await;
    }
    // Each page grows to its size in the first rounds; what follows is the life of the table.
    let text = |round| Some(Arc::from(format!("{round:>256}")));
    let beat = |n, round| Contacts { said: Said { seq: Some(round), status: text(round) }, ..contact(n) };
    let updates = "select n_tup_upd, n_tup_hot_upd from pg_stat_user_tables where relname = 'presence'";
    let settled = async |updates_min: i64| loop {
        let row = db.owner.query_one(updates, &[]).await.unwrap();
        if row.get::<_, i64>(0) >= updates_min {
            return (row.get::<_, i64>(0), row.get::<_, i64>(1));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let devices = i64::try_from(DEVICES).unwrap();
    for round in 0..5 {
        db.flush((1..=DEVICES).map(|n| beat(n, round)).collect()).await;
    }
    let before = settled(5 * devices).await;
    for round in 0..ROUNDS {
        db.flush((1..=DEVICES).map(|n| beat(n, round)).collect()).await;
    }
    let after = settled(before.0 + ROUNDS * devices).await;
    let (all, hot) = (after.0 - before.0, after.1 - before.1);
    assert!(hot * 100 >= all * 90, "{hot} of {all} updates were HOT");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_gap_is_one_outage_whoever_ticks() {
    let db = Db::new().await;
    let race = || async {
        let all = (1..=8).map(|n| tick(&db.store.fleet, ReplicaId(Uuid::from_u128(n)), GAP_MAX, CAP));
        for ticked in futures_util::future::join_all(all).await {
            ticked.unwrap();
        }
    };
    race().await;
    assert_eq!(db.number("select count(*) from outages where cause = 'start'").await, 1);
    race().await;
    assert_eq!(db.number("select count(*) from outages").await, 1, "no gap, no outage");
    for (spoil, cause) in [
        ("update tick set at = at - interval '10 seconds'", "gap"),
        ("update tick set timeline = timeline - 1 + 99", "timeline"),
        ("update tick set postmaster_start = postmaster_start - interval '1 hour'", "restart"),
    ] {
        db.owner.batch_execute(spoil).await.unwrap();
        race().await;
        assert_eq!(db.number(&format!("select count(*) from outages where cause = '{cause}'")).await, 1, "{cause}");
    }
    let lengths = "select count(*) from outages where cause = 'gap' and ended_at - started_at >= interval '10 seconds'";
    assert_eq!(db.number(lengths).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_that_goes_on_is_one_row() {
    let db = Db::new().await;
    db.tick().await;
    for _ in 0..3 {
        // Each commit is stalled: what it left behind is old when it can be seen.
        let stall = "update outages set started_at = started_at - interval '9 s', ended_at = ended_at - interval '9 s';
                     update tick set at = at - interval '9 s'";
        db.owner.batch_execute(stall).await.unwrap();
        db.tick().await;
    }
    assert_eq!(db.number("select count(*) from outages").await, 1);
    let length_s = db.number("select extract(epoch from ended_at - started_at)::bigint from outages").await;
    assert!(length_s >= 3 * 9, "{length_s}");

    let since = Clock::System.boottime();
    for _ in 0..3 {
        db.flush_with(Vec::new(), Some(since)).await;
    }
    assert_eq!(db.number("select count(*) from outages where cause = 'replica'").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_ahead_of_a_clock_that_was_set_back_excuses_no_silence_to_come() {
    let db = Db::new().await;
    let (device, fence) = (db.device(1).await, db.fence().await);
    db.tick().await;
    let ahead = "update presence set state = 1, last_seen = now() - interval '1 hour';
        insert into outages (started_at, ended_at, cause, replica)
          select now() + s * interval '1 minute', now() + interval '1 hour', 'replica', r
          from (values (50, null), (-5, '00000000-0000-0000-0000-000000000001'::uuid)) o (s, r);
        insert into replicas (id, addr, version) values ('00000000-0000-0000-0000-000000000001', 'a', 'v');
        update presence set replica = '00000000-0000-0000-0000-000000000001'";
    db.owner.batch_execute(ahead).await.unwrap();
    db.tick().await;
    assert_eq!(db.number("select count(*) from outages where ended_at > clock_timestamp()").await, 0);
    assert_eq!(db.sweep(&fence).await.offline, 0, "a full deadline from now");
    let later = "update outages set started_at = started_at - interval '5 min', ended_at = ended_at - interval '5 min';
        update replicas set flushed_through = clock_timestamp()";
    db.owner.batch_execute(later).await.unwrap();
    db.tick().await;
    db.owner.batch_execute("delete from outages where cause = 'gap'").await.unwrap();
    assert_eq!(db.sweep(&fence).await.offline, 1, "and no more");
    assert_eq!(db.state(device).await, State::Offline);
}

#[tokio::test(flavor = "multi_thread")]
async fn shedding_without_end_hides_no_loss() {
    let db = Db::new().await;
    let (device, fence) = (db.device(1).await, db.fence().await);
    db.tick().await;
    let shed = |from: u32, minutes: u32| {
        format!(
            "insert into outages (started_at, ended_at, cause, replica)
             select now() - m * interval '1 minute', now() - (m - 1) * interval '1 minute', 'replica', '{}'
             from generate_series({from}, {from} - {minutes} + 1, -1) m",
            me(1).id.0
        )
    };
    let silent = format!(
        "delete from outages; update presence set state = 1, last_seen = now() - interval '19 min', replica = '{}'",
        me(1).id.0
    );
    let own = Clock::manual(1_000_000);
    let since = own.boottime();
    own.advance(Duration::from_mins(3));
    let flush = async || {
        let clock = DatabaseClock::new(own.clone());
        let (contacts, through) = (Arc::default(), Some(own.boottime()));
        flush(&db.store.fleet, &clock, Flush { me: me(1), contacts, through, refused_since: Some(since) })
            .await
            .unwrap()
    };
    let shed_s = "select extract(epoch from sum(ended_at - started_at))::bigint from outages where replica is not null";

    // Fourteen minutes are used: of the three that follow, one is excused.
    db.owner.batch_execute(&format!("{silent}; {}", shed(18, 14))).await.unwrap();
    assert!(!flush().await.shed_beyond_cap);
    assert_eq!(db.number(shed_s).await, 15 * 60);
    assert!(flush().await.shed_beyond_cap, "the allowance of the hour is used up");
    assert_eq!(db.number(shed_s).await, 15 * 60);

    // All of it is used, and three minutes have gone by since: the device is gone, whatever is refused.
    db.owner.batch_execute(&format!("{silent}; {}", shed(18, 15))).await.unwrap();
    assert!(flush().await.shed_beyond_cap);
    db.tick().await;
    db.owner.batch_execute("delete from outages where replica is null").await.unwrap();
    assert_eq!(db.sweep(&fence).await.offline, 1);
    assert_eq!(db.state(device).await, State::Offline);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sweep_needs_its_fence_and_a_fresh_tick() {
    let db = Db::new().await;
    let device = db.device(1).await;
    db.owner.batch_execute("update presence set state = 1, last_seen = now() - interval '1 hour'").await.unwrap();
    let fence = db.fence().await;
    let refused = db.sweep(&fence).await;
    assert!(refused.fence_held && !refused.tick_fresh, "nobody has ticked: {refused:?}");
    db.tick().await;
    // The tick has recorded the start as an outage, which gives the device a deadline.
    let quiet = db.sweep(&fence).await;
    assert!(quiet.fence_held && quiet.tick_fresh && quiet.due == 0 && quiet.seq.is_none(), "{quiet:?}");
    db.owner.batch_execute("delete from outages").await.unwrap();
    for deposed in [
        Fence { epoch: 2, ..fence },
        Fence { timeline: fence.timeline + 1, ..fence },
        Fence { role: "partitions", ..fence },
    ] {
        assert_eq!(db.sweep(&deposed).await, Swept::default());
    }
    for stale in [
        "update tick set at = clock_timestamp() - interval '4 s'",
        "update tick set at = clock_timestamp() + interval '1 minute'",
        "update tick set at = clock_timestamp(), timeline = timeline + 1",
        "update tick set timeline = timeline - 1, postmaster_start = postmaster_start - interval '1 s'",
    ] {
        db.owner.batch_execute(stale).await.unwrap();
        let swept = db.sweep(&fence).await;
        assert!(swept.fence_held && !swept.tick_fresh && swept.due == 0, "{stale}: {swept:?}");
        assert_eq!(db.state(device).await, State::Online, "{stale}");
    }
    db.owner
        .batch_execute("update tick set at = clock_timestamp(), postmaster_start = pg_postmaster_start_time()")
        .await
        .unwrap();
    db.owner.batch_execute("update devices set state = 'suspended'").await.unwrap();
    assert_eq!(db.sweep(&fence).await.due, 0, "suspended devices are not swept");
    db.owner.batch_execute("update devices set state = 'active'").await.unwrap();
    let swept = db.sweep(&fence).await;
    assert_eq!((swept.due, swept.offline, swept.seq.is_some()), (1, 1, true));
    assert_eq!(db.state(device).await, State::Offline);
    assert_eq!(db.number("select count(*) from events where kind = 'device.offline' and cause = 'silence'").await, 1);
    assert_eq!(db.number("select sum(rows)::bigint from leader_effects where epoch = 3").await, 1);
    assert_eq!(db.sweep(&fence).await.seq, None, "nothing due leaves no effect");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promise_that_gets_longer_survives_an_older_shorter_one() {
    let db = Db::new().await;
    let device = db.device(1).await;
    let stored = || async { promises(&db.store.fleet, &[device]).await.unwrap() };
    let now = || Clock::System.boottime();
    let short = |given| Contacts { promise: Some((5_000, given)), ..contact_at(1, given) };

    let older = now();
    assert_eq!(extend(&db.store.fleet, me(2).id, &[(device, 3_600_000)]).await.unwrap().0, [(device, 3_600_000)]);
    let heard_by_2 = "select count(*) from presence where replica::text like '%0002'";
    assert_eq!(db.number(heard_by_2).await, 1, "a longer promise is a contact");
    db.flush(vec![short(older)]).await;
    assert_eq!(stored().await, [(device, 3_600_000)]);
    // A touch after the extension carries an old promise along: still void.
    db.flush(vec![Contacts { newest: now(), ..short(older) }]).await;
    assert_eq!(stored().await, [(device, 3_600_000)]);
    // A younger one counts. Ages err into the past, by as much as the anchor's answer takes, so the contact before
    // is moved out of reach.
    db.owner.batch_execute("update presence set last_seen = last_seen - interval '1 hour'").await.unwrap();
    db.flush(vec![short(now())]).await;
    assert_eq!(stored().await, [(device, 5_000)]);
    let nobody = DeviceId(Uuid::from_u128(77));
    assert_eq!(extend(&db.store.fleet, me(2).id, &[(nobody, 1), (device, 4_000)]).await.unwrap().0, [(device, 5_000)]);
}

fn settings() -> PresenceSettings {
    PresenceSettings {
        me: me(9),
        flush_interval: Duration::from_millis(50),
        flush_rows_max: 2,
        devices_max: 100,
        blind_max: BLIND_MAX,
        promise_trust: Duration::from_mins(5),
        tick_interval: Duration::from_millis(200),
        tick_gap_max: GAP_MAX,
        cap: CAP,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn from_heartbeat_to_online_and_through_the_drain() {
    let db = Db::new().await;
    let (readiness, clock) = (Readiness::default(), DatabaseClock::new(Clock::System));
    let fleet = db.store.fleet.clone();
    let tasks = everbeat::lifecycle::tasks::Tasks::new(everbeat::lifecycle::shutdown::Shutdown::new());
    let presence = Presence::start(settings(), fleet, readiness.clone(), clock, Random::seeded(1), &tasks);
    for n in 1..=5 {
        db.device(n).await;
    }
    let at = tokio::time::Instant::now();
    while !readiness.get(Check::Flush) {
        assert!(at.elapsed() < Duration::from_secs(5), "the first flush makes it ready");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let heartbeat = |n: u128, requested_ms| {
        let (device, fingerprint) = (DeviceId(Uuid::from_u128(n)), print(n));
        let (interval_ms, interval_max_ms) = (30_000, 600_000);
        let contact = Contact { device, fingerprint, interval_ms, interval_max_ms, requested_ms, heartbeat: true };
        presence.heartbeat(contact, Said::default())
    };
    for n in 1..=5 {
        let next_in = heartbeat(n, None).await.unwrap().next_in.as_secs_f64();
        assert!((27.0..33.0).contains(&next_in), "{next_in}");
    }
    // A flush places contacts on the database's clock to a few milliseconds: heartbeats closer than that, and with a
    // flush between them, may change places. Devices send at most one in a second.
    tokio::time::sleep(Duration::from_millis(250)).await;
    // Longer: stored before it is given. Shorter: with the flush.
    assert!(heartbeat(1, Some(600_000)).await.unwrap().next_in >= Duration::from_mins(9));
    assert_eq!(db.number("select max(promise_ms) from presence").await, 600_000);
    assert!(heartbeat(2, Some(10_000)).await.unwrap().next_in <= Duration::from_secs(11));

    tasks.shutdown().drain();
    assert_eq!(tasks.finish(Duration::from_secs(5)).await, None);
    assert_eq!(db.number("select count(*) from presence where state = 1").await, 5);
    assert_eq!(db.number("select sum(hb_seq)::bigint from presence").await, 7);
    assert_eq!(db.number("select min(promise_ms) from presence").await, 10_000);
    assert_eq!(db.number("select count(*) from replicas where flushed_through > now() - interval '9 s'").await, 1);
    assert!(heartbeat(3, None).await.is_err(), "nothing is acknowledged after the last flush");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resumed_device_gets_a_full_deadline() {
    let db = Db::new().await;
    let (device, fence) = (db.device(1).await, db.fence().await);
    db.tick().await;
    let silent = "update presence set state = 1, last_seen = now() - interval '1 hour'; delete from outages";
    db.owner.batch_execute(silent).await.unwrap();
    let log = ChangeLog::direct(db.store.control.clone());
    for to in [DeviceState::Suspended, DeviceState::Active] {
        switch(&log, Switch { device, to, expected: None, reason: None, by: "olga".to_owned() }).await.unwrap();
    }
    db.tick().await;
    let held = db.sweep(&fence).await;
    assert!(held.fence_held && held.tick_fresh && held.due == 0, "{held:?}");
    let long_ago = "update presence set promised_until = promised_until - interval '1 hour'; delete from outages";
    db.owner.batch_execute(long_ago).await.unwrap();
    assert_eq!(db.sweep(&fence).await.offline, 1, "and no more than that");
}

struct Running<'a> {
    db: &'a Db,
    presence: Presence,
    tasks: Tasks,
}

impl<'a> Running<'a> {
    async fn start(db: &'a Db, settings: PresenceSettings) -> Self {
        let (readiness, tasks) = (Readiness::default(), Tasks::new(Shutdown::new()));
        let fleet = db.store.fleet.clone();
        let clock = DatabaseClock::new(Clock::System);
        let presence = Presence::start(settings, fleet, readiness.clone(), clock, Random::seeded(1), &tasks);
        until("the first flush makes it ready", async || readiness.get(Check::Flush)).await;
        Self { db, presence, tasks }
    }

    async fn heartbeat(&self, n: u128, requested_ms: i64) -> Result<Duration, PresenceError> {
        let (device, fingerprint, requested_ms) = (DeviceId(Uuid::from_u128(n)), print(n), Some(requested_ms));
        let (interval_ms, interval_max_ms) = (30_000, 3_600_000);
        let contact = Contact { device, fingerprint, interval_ms, interval_max_ms, requested_ms, heartbeat: true };
        Ok(self.presence.heartbeat(contact, Said::default()).await?.next_in)
    }

    async fn promise_ms(&self) -> i64 {
        self.db.number("select max(promise_ms) from presence").await
    }

    async fn drain(self) {
        self.tasks.shutdown().drain();
        assert_eq!(self.tasks.finish(Duration::from_secs(5)).await, None);
    }
}

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let at = tokio::time::Instant::now();
    while !is_so().await {
        assert!(at.elapsed() < Duration::from_secs(20), "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_longer_promise_voids_a_shorter_one_that_waits_for_its_flush() {
    let db = Db::new().await;
    db.device(1).await;
    let running = Running::start(&db, settings()).await;
    running.heartbeat(1, 3_600_000).await.unwrap();
    assert_eq!(running.promise_ms().await, 3_600_000);
    until("flushed", async || db.number("select count(*) from presence where state = 1").await == 1).await;
    // No flush gets through until both are given; whichever comes first afterwards, the longer one stands.
    let deny = "revoke update on replicas from everbeat_fleet";
    db.owner.batch_execute(deny).await.unwrap();
    running.heartbeat(1, 5_000).await.unwrap();
    db.owner.batch_execute("update presence set last_seen = last_seen - interval '1 hour'").await.unwrap();
    assert!(running.heartbeat(1, 3_600_000).await.unwrap() > Duration::from_mins(50));
    let extended = "select count(*) from presence where last_seen > clock_timestamp() - interval '30 minutes'";
    assert_eq!(db.number(extended).await, 1, "written before it is given");
    db.owner.batch_execute("grant update on replicas to everbeat_fleet").await.unwrap();
    running.drain().await;
    assert_eq!(db.number("select promise_ms from presence").await, 3_600_000);
    assert_eq!(db.number("select hb_seq from presence").await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_statement_drops_no_contact() {
    let db = Db::new().await;
    let device = db.device(1).await;
    let running = Running::start(&db, PresenceSettings { blind_max: Duration::from_secs(1), ..settings() }).await;
    db.owner.batch_execute("revoke insert on events from everbeat_fleet").await.unwrap();
    running.heartbeat(1, 30_000).await.unwrap();
    until("blind", async || running.presence.is_blind()).await;
    assert_eq!(db.state(device).await, State::NeverSeen);
    db.owner.batch_execute("grant insert on events to everbeat_fleet").await.unwrap();
    until("well again", async || !running.presence.is_blind()).await;
    assert_eq!(db.state(device).await, State::Online);
    running.drain().await;
}

/// The tick's own row can be written all the while. Heartbeats are refused meanwhile, and nobody knows whose.
#[tokio::test(flavor = "multi_thread")]
async fn when_no_flush_gets_through_nobody_ticks_and_it_is_an_outage() {
    let db = Db::new().await;
    db.device(1).await;
    let (tick_gap_max, blind_max) = (Duration::from_millis(600), Duration::from_millis(900));
    let running = Running::start(&db, PresenceSettings { tick_gap_max, blind_max, ..settings() }).await;
    let gaps = "select count(*) from outages where cause = 'gap' and replica is null";
    let late = "select count(*) from tick where at < clock_timestamp() - interval '2 seconds'";
    running.heartbeat(1, 30_000).await.unwrap();
    until("flushed", async || db.number("select count(*) from presence where state = 1").await == 1).await;
    until("a tick", async || db.number("select count(*) from tick where timeline > 0").await == 1).await;
    db.owner.batch_execute("revoke update on replicas from everbeat_fleet").await.unwrap();
    until("nobody ticks", async || db.number(late).await == 1).await;
    assert_eq!(db.number(gaps).await, 0);
    db.owner.batch_execute("grant update on replicas to everbeat_fleet").await.unwrap();
    until("the gap is recorded", async || db.number(gaps).await == 1).await;
    running.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_evidence_is_trimmed_and_days_go_by_both_clocks() {
    let db = Db::new().await;
    let fence = db.fence().await;
    let limit = Duration::from_secs(10);
    let session = Session::open(&db.store.settings, &db.store.settings.hosts[0], Plane::Lease, "").await.unwrap();
    let fill = "insert into outages (started_at, ended_at, cause) select now() - d * interval '1 day',
            now() - d * interval '1 day', 'gap' from unnest(array[1, 6, 8, 90]) d;
        insert into replicas (id, addr, version, seen_at)
            select gen_random_uuid(), 'a', 'v', now() - d * interval '1 day' from unnest(array[1, 6, 8]) d";
    db.owner.batch_execute(fill).await.unwrap();
    let week = Duration::from_hours(7 * 24);
    let wall = Clock::System.wall();
    let clock = RetentionClock::judge(wall, wall).unwrap();
    let trimmed = |table| Trim { table, age: week, rows_max: 500 };
    let gone = async |table| trim(&session, &fence, clock, trimmed(table), limit).await.unwrap();
    db.owner.batch_execute("update fleets set heartbeat_interval_max_ms = 10 * 86400000::bigint").await.unwrap();
    assert_eq!(gone(Trimmed::Outages).await, Some(1), "33 days of silence may hold the one of 8 days ago");
    db.owner.batch_execute("update fleets set heartbeat_interval_max_ms = 86400000").await.unwrap();
    assert_eq!(gone(Trimmed::Outages).await, Some(1));
    assert_eq!(gone(Trimmed::Replicas).await, Some(1));
    assert_eq!(db.number("select (select count(*) from outages) * 10 + (select count(*) from replicas)").await, 22);

    let old = "select ensure_readings_partition((now() at time zone 'UTC')::date - 40)::int::bigint";
    assert_eq!(db.number(old).await, 1);
    assert_eq!(expired(&session, clock, 30, 9, limit).await.unwrap().len(), 1);
    assert_eq!(expired(&session, clock, 60, 9, limit).await.unwrap(), []);

    // Half an hour past their age by the database's clock; not yet by that of a replica which is behind.
    let change = "insert into changes (kind, key, at) values ('ca', 'x', now() - interval '7 days 30 minutes');
        insert into events (kind, at) values ('t', now() - interval '7 days 30 minutes');
        insert into leader_effects (seq, role, epoch, timeline, at, kind, rows)
          values (nextval('leader_effect_seq'), 'r', 1, 1, now() - interval '7 days 30 minutes', 'k', 1);
        insert into idempotency_keys (caller, route, key, request_sha256, status, resource, created_at)
          values ('c', 'r', 'k', '', 201, 'x', now() - interval '7 days 30 minutes')";
    db.owner.batch_execute(change).await.unwrap();
    let minutes = time::Duration::minutes;
    let at = async |ahead| retention::clock(&session, Clock::System.wall() + ahead, limit).await.unwrap();
    let early = at(minutes(-50)).await.unwrap();
    for table in [Trimmed::Changes, Trimmed::Events, Trimmed::LeaderEffects, Trimmed::IdempotencyKeys] {
        assert_eq!(trim(&session, &fence, early, trimmed(table), limit).await.unwrap(), Some(0), "{table:?}");
        assert_eq!(gone(table).await, Some(1), "{table:?}");
    }
    for wrong in [at(minutes(61)).await, at(minutes(-61)).await] {
        assert!(wrong.is_err(), "{wrong:?}");
    }
}

/// Draws a whole world around one tick: outages, replicas, devices.
struct World<'a> {
    random: Random,
    tick: OffsetDateTime,
    owner: &'a tokio_postgres::Client,
}

impl World<'_> {
    /// A whole number of half seconds before the tick, so that deadlines are hit exactly now and then.
    fn ago(&self, low: f64, high: f64) -> OffsetDateTime {
        #[expect(clippy::cast_possible_truncation, reason = "small numbers")]
        let halves = self.random.uniform(low * 2.0, high * 2.0).round() as i64;
        self.tick - time::Duration::milliseconds(halves * 500)
    }

    fn chance(&self, of: f64) -> bool {
        self.random.uniform(0.0, 1.0) < of
    }

    fn draw(&self, below: u32) -> u32 {
        (0..below).rev().find(|n| self.chance(1.0 / f64::from(n + 1))).unwrap_or(0)
    }

    async fn outages(&self) -> Vec<(Option<Uuid>, Outage)> {
        let mut all = Vec::new();
        for _ in 0..self.draw(9) {
            let ended_at = self.ago(-2.0, 700.0);
            let started_at = ended_at - time::Duration::seconds(i64::from(self.draw(90)));
            let replica = self.chance(0.5).then(|| Uuid::from_u128(u128::from(self.draw(3) + 1)));
            let insert = "insert into outages (started_at, ended_at, cause, replica) values ($1, $2, 'gap', $3)";
            self.owner.execute(insert, &[&started_at, &ended_at, &replica]).await.unwrap();
            all.push((replica, Outage { started_at, ended_at }));
        }
        all
    }

    async fn replicas(&self) -> Vec<(Uuid, OffsetDateTime)> {
        let mut all = Vec::new();
        for n in 1..=3 {
            let (id, through) = (Uuid::from_u128(n), self.ago(-1.0, 30.0));
            let insert = "insert into replicas (id, addr, version, flushed_through) values ($1, 'a', 'v', $2)";
            self.owner.execute(insert, &[&id, &through]).await.unwrap();
            all.push((id, through));
        }
        all
    }

    async fn grow_older(&self, age: time::Duration) {
        let by = age.whole_seconds();
        let older = |columns: &str| {
            let columns = columns.split(' ').map(|column| format!("{column} = {column} - {by} * interval '1 s'"));
            columns.collect::<Vec<_>>().join(", ")
        };
        let all = format!(
            "update presence set {}; update outages set {}; update replicas set {}",
            older("state_since last_seen promised_until"),
            older("started_at ended_at"),
            older("flushed_through")
        );
        self.owner.batch_execute(&all).await.unwrap();
    }

    async fn device(&self, id: DeviceId) -> (Evidence, Option<Uuid>) {
        let evidence = Evidence {
            state: State::ALL[self.draw(4) as usize],
            state_since: self.ago(0.0, 600.0),
            last_seen: self.chance(0.9).then(|| self.ago(-1.0, 300.0)),
            promise: Duration::from_millis(u64::from(self.draw(60) + 1) * 1_000),
            promised_until: self.chance(0.2).then(|| self.ago(-50.0, 200.0)),
            flushed_through: None,
        };
        let replica = self.chance(0.7).then(|| Uuid::from_u128(u128::from(self.draw(3) + 1)));
        let promise_ms = i64::try_from(evidence.promise.as_millis()).unwrap();
        let update = "update presence set state = $2, state_since = $3, last_seen = $4, promise_ms = $5,
            promised_until = $6, replica = $7 where device_id = $1";
        let Evidence { state, state_since, last_seen, promised_until, .. } = &evidence;
        self.owner
            .execute(update, &[&id.0, &state.code(), state_since, last_seen, &promise_ms, promised_until, &replica])
            .await
            .unwrap();
        (evidence, replica)
    }
}

fn older(evidence: &Evidence, age: time::Duration) -> Evidence {
    let older = |at: Option<OffsetDateTime>| at.map(|at| at - age);
    Evidence {
        state_since: evidence.state_since - age,
        last_seen: older(evidence.last_seen),
        promised_until: older(evidence.promised_until),
        flushed_through: older(evidence.flushed_through),
        ..*evidence
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_finds_all_who_may_fall_due_and_nobody_else() {
    let db = Db::new().await;
    let session = db.session().await;
    let found = async |pages: Range<i64>, within: u64, soon: u64, restarts: &Restarts| {
        let (within, soon) = (Duration::from_secs(within), Duration::from_secs(soon));
        let horizon = Horizon { within, soon, devices_max: None };
        let Looked { devices, pages } = look(&session, pages, horizon, restarts, LIMIT).await.unwrap();
        assert_eq!(pages, 1);
        let mut devices: Vec<u128> = devices.iter().map(Uuid::as_u128).collect();
        devices.sort_unstable();
        devices
    };
    // Promises of 300 s: suspect after 450 s of silence, offline after 1,000.
    for (n, set) in [
        (1, "state = 1, last_seen = now() - interval '400 s'"),
        (2, "state = 1, last_seen = now() - interval '500 s'"),
        (3, "state = 1, last_seen = now()"),
        (4, "state = 2, last_seen = now() - interval '500 s'"),
        (5, "state = 2, last_seen = now() - interval '950 s'"),
        (6, "state = 3, last_seen = now() - interval '1 day'"),
        (7, "state = 1, last_seen = now() - interval '1 day', promised_until = now() + interval '1 hour'"),
        (8, "state = 3, last_seen = now() - interval '1 day', promise_ms = 9000"),
        (9, "state = 1, last_seen = now() + interval '1 hour', promise_ms = 9000"),
        (10, "state = 1, last_seen = null, state_since = now() - interval '500 s'"),
        (11, "state = 1, last_seen = now() - interval '500 s'"),
        (12, "state = 1, last_seen = now() - interval '500 s', replica = '00000000-0000-0000-0000-000000000007'"),
    ] {
        let DeviceId(id) = db.device(n).await;
        let update = format!("update presence set promise_ms = 300000, {set} where device_id = $1");
        let update = if set.contains("promise_ms") { update.replace("promise_ms = 300000, ", "") } else { update };
        db.owner.execute(&update, &[&id]).await.unwrap();
    }
    let suspend = "update devices set state = 'suspended' where id = $1";
    db.owner.execute(suspend, &[&Uuid::from_u128(11)]).await.unwrap();
    let none = Restarts::default();
    assert_eq!(found(0..1, 0, 0, &none).await, [2, 10, 12]);
    assert_eq!(found(0..1, 100, 0, &none).await, [1, 2, 5, 10, 12]);
    assert_eq!(found(0..1, 0, 18, &none).await, [2, 8, 9, 10, 12], "and whose deadlines are short");
    assert_eq!(found(1..2, 100, 18, &none).await, [0_u128; 0], "not on the pages that were asked for");
    assert_eq!(found(0..0, 100, 18, &none).await, [0_u128; 0]);
    let few = Horizon { within: Duration::from_secs(100), devices_max: Some(2), ..Horizon::default() };
    assert_eq!(look(&session, 0..1, few, &none, LIMIT).await.unwrap().devices.len(), 2);

    // What gave devices a new deadline is as good as a contact: of one replica, then of everybody.
    let outage = |replica: &str| {
        format!(
            "insert into outages (started_at, ended_at, cause, replica)
             values (clock_timestamp() - interval '600 s', clock_timestamp() - interval '1 s', 'gap', {replica})"
        )
    };
    db.tick().await;
    db.owner.batch_execute("delete from outages").await.unwrap();
    let fence = db.fence().await;
    for (replica, expected) in [("'00000000-0000-0000-0000-000000000007'", vec![2, 10]), ("null", vec![])] {
        db.owner.batch_execute(&outage(replica)).await.unwrap();
        db.owner.batch_execute("update tick set at = clock_timestamp()").await.unwrap();
        // There is no row of that replica any more: what it could not hear is not the device's fault all the same.
        let held_back = sweep(&session, &fence, &SWEEP, &[Uuid::from_u128(12)], LIMIT).await.unwrap();
        assert!(held_back.tick_fresh && held_back.due == 0, "{replica}: {held_back:?}");
        assert_eq!(found(0..1, 0, 0, &held_back.restarts).await, expected, "{replica}");
    }
    // And only those are judged that are asked about.
    db.owner.batch_execute("delete from outages; update tick set at = clock_timestamp()").await.unwrap();
    let swept = sweep(&session, &fence, &SWEEP, &[Uuid::from_u128(2)], LIMIT).await.unwrap();
    assert_eq!((swept.due, swept.suspect), (1, 1));
    assert_eq!(db.state(DeviceId(Uuid::from_u128(10))).await, State::Online);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sweep_decides_as_the_detector() {
    let db = Db::new().await;
    let mut devices = Vec::new();
    for n in 1..=150 {
        devices.push(db.device(n).await);
    }
    let fence = db.fence().await;
    let limits = Limits { blind_max: time::Duration::seconds(10), restarts_max: 2, window: time::Duration::minutes(5) };
    let mut changed = [0; 4];
    let session = db.session().await;
    for seed in 0..24 {
        db.owner.batch_execute("delete from outages; delete from replicas").await.unwrap();
        let set = "update tick set at = clock_timestamp(), timeline = current_timeline() returning at";
        let tick = db.owner.query_one(set, &[]).await.unwrap().get(0);
        let world = World { random: Random::seeded(seed), tick, owner: &db.owner };
        let (outages, replicas) = (world.outages().await, world.replicas().await);
        let mut drawn = Vec::new();
        for device in &devices {
            let (mut evidence, replica) = world.device(*device).await;
            evidence.flushed_through = replicas.iter().find(|(id, _)| Some(*id) == replica).map(|(_, at)| *at);
            drawn.push((*device, evidence, replica));
        }
        // In every second world the look was some time before the sweep: then all that was drawn is older by so much.
        let is_early = seed % 2 == 1;
        let within = Duration::from_secs(if is_early { 20 } else { 0 });
        let age = time::Duration::seconds(if is_early { i64::from(world.draw(20)) } else { 0 });
        let proof = sweep(&session, &fence, &SWEEP, &[], LIMIT).await.unwrap();
        let horizon = Horizon { within, ..Horizon::default() };
        let found = look(&session, 0..1_000, horizon, &proof.restarts, LIMIT).await.unwrap().devices;
        world.grow_older(age).await;
        let expected: Vec<_> = drawn
            .into_iter()
            .map(|(device, evidence, replica)| {
                let evidence = older(&evidence, age);
                let of = |kind: Option<Uuid>| {
                    let kind = outages.iter().filter(|(of, _)| *of == kind).map(|(_, outage)| Outage {
                        started_at: outage.started_at - age,
                        ended_at: outage.ended_at - age,
                    });
                    restarting(&kind.collect::<Vec<_>>(), &limits)
                };
                let mut concern = of(None);
                concern.extend(replica.map(|id| of(Some(id))).unwrap_or_default());
                let verdict = judge(&evidence, &concern, tick, &limits);
                (device, verdict.next.unwrap_or(evidence.state), evidence, verdict)
            })
            .collect();
        let swept = sweep(&session, &fence, &SWEEP, &found, LIMIT).await.unwrap();
        assert!(swept.fence_held && swept.tick_fresh, "drawing a world takes less than the tick is fresh: {swept:?}");
        for (device, state, evidence, verdict) in expected {
            assert_eq!(db.state(device).await, state, "seed {seed}: {evidence:?} {verdict:?} {outages:?}");
            changed[usize::try_from(verdict.next.map_or(0, State::code)).unwrap()] += 1;
        }
    }
    assert!(changed[2] > 40 && changed[3] > 100 && changed[0] > 400, "the worlds are varied: {changed:?}");
}
