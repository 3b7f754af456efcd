//! Readings on a real database: what is stored, what is answered, and what failures cost.
#![expect(clippy::expect_used, reason = "a test fails by panicking, in its helpers too")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use everbeat::domain::database_clock::DatabaseClock;
use everbeat::domain::ids::{DeviceId, ReplicaId};
use everbeat::domain::reading::{Reading, Value, Values};
use everbeat::domain::time::{Clock, from_unix_us, unix_us};
use everbeat::ingest::{Commits, Format, Ingest, IngestError, IngestSettings, Limits, ReadingBatch};
use everbeat::lifecycle::tasks;
use everbeat::store::Fault;
use everbeat::store::presence::{Flush, Me, flush};
use everbeat::store::readings::{self, Order, PageQuery};
use everbeat::wire::device::ReadingsAnswer;
use support::{TestCluster, TestStore};
use uuid::Uuid;

const DEADLINE: Duration = Duration::from_secs(10);
const DAY_US: i64 = 86_400_000_000;

fn settings() -> IngestSettings {
    IngestSettings {
        limits: Limits {
            body_max_bytes: 1 << 20,
            items_max: 1000,
            retention: Duration::from_hours(24 * 30),
            future_max: Duration::from_hours(24),
        },
        commit_rows_max: 1000,
        commits_in_flight_max: 2,
        queue_rows_max: 20_000,
        queue_requests_max: 100,
    }
}

struct Rig {
    store: TestStore,
    ingest: Ingest,
}

impl Rig {
    async fn new() -> Self {
        Self::on(TestStore::new().await, settings())
    }

    fn on(store: TestStore, settings: IngestSettings) -> Self {
        let clock = DatabaseClock::new(Clock::System);
        let ingest = Ingest::start(settings, store.fleet.clone(), clock, store.random.clone(), &store.tasks);
        Self { store, ingest }
    }

    async fn send(&self, device: DeviceId, body: &str) -> ReadingsAnswer {
        let batch = self.ingest.decode(Format::Json, body.as_bytes(), device).expect("a good body");
        self.ingest.submit(batch, DEADLINE).await.expect("an answer")
    }

    async fn count(&self) -> i64 {
        let (owner, _connection) = TestCluster::shared().owner(&self.store.settings.database).await;
        owner.query_one("select count(*) from readings", &[]).await.expect("a count").get(0)
    }
}

fn device(number: u128) -> DeviceId {
    DeviceId(Uuid::from_u128(number))
}

fn now_us() -> i64 {
    Clock::System.unix_us()
}

fn reading(device: DeviceId, ts_us: i64, number: i64) -> Reading {
    let values = Values::new(vec![("n".into(), Value::from(number))]).expect("one name");
    Reading::new(device, ts_us, None, &values)
}

fn totals(answer: &ReadingsAnswer) -> (u64, u64, u64) {
    (answer.stored, answer.duplicates, answer.rejected_total)
}

#[tokio::test]
async fn a_wrong_wall_clock_costs_no_reading_once_the_database_has_said_its_time() {
    let store = TestStore::new().await;
    // Two days behind, and the window ends a day ahead: what is new looks impossible.
    let clock = DatabaseClock::new(Clock::manual(now_us() - 2 * DAY_US));
    let ingest = Ingest::start(settings(), store.fleet.clone(), clock.clone(), store.random.clone(), &store.tasks);
    let rig = Rig { store, ingest };
    let now = format!(r#"[{{"ts":{},"values":{{"n":1}}}},{{"values":{{"n":2}}}}]"#, now_us() / 1_000);
    let decode = || rig.ingest.decode(Format::Json, now.as_bytes(), device(1)).expect("a good body");
    assert_eq!(decode().len(), 1, "by its own clock");

    let me = Me { id: ReplicaId(Uuid::from_u128(1)), addr: "here:1".to_owned(), version: "0" };
    let work = Flush { me, contacts: Arc::default(), through: None, refused_since: None };
    flush(&rig.store.fleet, &clock, work).await.expect("a flush");
    assert!((clock.offset() - time::Duration::days(2)).abs() < time::Duration::minutes(1), "{}", clock.offset());
    assert_eq!(totals(&rig.send(device(1), &now).await), (2, 0, 0), "by the database's");
    let (owner, _connection) = TestCluster::shared().owner(&rig.store.settings.database).await;
    let near = "select count(*) from readings where abs(extract(epoch from clock_timestamp() - ts)) < 60";
    assert_eq!(owner.query_one(near, &[]).await.expect("a count").get::<_, i64>(0), 2, "the time of receipt too");
}

#[tokio::test]
async fn a_duplicate_is_acknowledged_and_a_conflict_is_not() {
    let rig = Rig::new().await;
    let ts = now_us() / 1000;
    let item = |id: &str, n: i64| format!(r#"{{"ts":{ts},"id":"{id}","values":{{"n":{n}}}}}"#);
    let first = rig.send(device(1), &format!("[{},{}]", item("a", 1), item("b", 2))).await;
    assert_eq!(totals(&first), (2, 0, 0));
    let again = rig.send(device(1), &format!("[{},{}]", item("b", 2), item("a", 1))).await;
    assert_eq!(totals(&again), (0, 2, 0));
    let mixed = rig.send(device(1), &format!("[{},{},{},3]", item("a", 9), item("b", 2), item("c", 3))).await;
    assert_eq!(totals(&mixed), (1, 1, 2));
    let kinds: Vec<_> = mixed.rejected.iter().map(|item| (item.index, item.kind.as_str())).collect();
    assert_eq!(kinds, [(0, "conflict"), (3, "invalid")]);
    assert_eq!(totals(&rig.send(device(2), &item("a", 9)).await), (1, 0, 0), "another device");
    assert_eq!(rig.count().await, 4);
}

#[tokio::test]
async fn batches_in_opposite_orders_do_not_deadlock() {
    let database = TestCluster::shared().database().await;
    // Found before the sessions' lock_timeout ends the wait.
    let eager = format!("alter database {} set deadlock_timeout = '20ms'", database.database);
    TestCluster::shared().owner_batch(&database.database, &eager).await;
    let rig = Rig::on(TestStore::on(database).await, settings());
    // A second replica, with connections of its own.
    let other = Rig::on(TestStore::on((*rig.store.settings).clone()).await, settings());
    let now = now_us();
    readings::ensure_partition(&rig.store.fleet, from_unix_us(now).expect("a time").date()).await.expect("made");
    let all: Vec<_> = (0..100).map(|n| reading(device(3), now + n, n)).collect();

    // Both come to a stop at the row in the middle, so that in opposite orders each would hold what the other needs.
    let (owner, _connection) = TestCluster::shared().owner(&rig.store.settings.database).await;
    let middle = &all[50];
    let insert = format!(
        "begin; insert into readings (device_id, ts, digest, content, \"values\")
         values ('{}', '{}', {}, 0, '{{}}')",
        middle.device,
        everbeat::domain::time::rfc3339(from_unix_us(middle.ts_us).expect("a time")),
        middle.digest
    );
    owner.batch_execute(&insert).await.expect("the row in the middle");
    let submit = |ingest: &Ingest, rows: Vec<Reading>| {
        let ingest = ingest.clone();
        tasks::spawn(async move { ingest.submit(ReadingBatch::unchecked(device(3), rows), DEADLINE).await })
    };
    let both = [submit(&rig.ingest, all.clone()), submit(&other.ingest, all.into_iter().rev().collect())];
    tokio::time::sleep(Duration::from_millis(500)).await;
    owner.batch_execute("rollback").await.expect("out of the way");
    let mut stored = 0;
    for task in both {
        let (new, duplicates, rejected) = totals(&task.await.expect("no panic").expect("stored"));
        assert_eq!((new + duplicates, rejected), (100, 0));
        stored += new;
    }
    assert_eq!((stored, rig.count().await), (100, 100), "each reading is stored by one of the two");

    // A deadlock would have been retried. Sessions report what they counted when they end.
    let end = "select pg_terminate_backend(pid, 5000) from pg_stat_activity
               where datname = current_database() and usename = 'everbeat_fleet'";
    owner.batch_execute(end).await.expect("the sessions end");
    let deadlocks = "select deadlocks from pg_stat_database where datname = current_database()";
    assert_eq!(owner.query_one(deadlocks, &[]).await.expect("a count").get::<_, i64>(0), 0);
}

#[tokio::test]
async fn one_bad_row_costs_its_neighbours_nothing() {
    let rig = Rig::new().await;
    let now = now_us();
    let mut all: Vec<_> = (0..1000).map(|n| reading(device(4), now - n, n)).collect();
    all[617].values = r#"{"a":"\u0000"}"#.into();
    let answer = rig.ingest.submit(ReadingBatch::unchecked(device(4), all), DEADLINE).await.expect("an answer");
    assert_eq!(totals(&answer), (999, 0, 1));
    assert_eq!((answer.rejected[0].index, answer.rejected[0].kind.as_str()), (617, "refused"));
    assert_eq!(rig.count().await, 999);
}

#[tokio::test]
async fn a_broken_schema_rejects_nobodys_readings() {
    let rig = Rig::new().await;
    let database = &rig.store.settings.database;
    TestCluster::shared().owner_batch(database, "revoke insert on readings from everbeat_fleet").await;
    let batch = ReadingBatch::unchecked(device(4), vec![reading(device(4), now_us(), 1)]);
    match rig.ingest.submit(batch, DEADLINE).await {
        Err(IngestError::Store(error)) => assert!(error.retryable() && !error.blames_data(), "{error}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn missing_partitions_are_made_under_concurrent_inserts() {
    let rig = Rig::new().await;
    let now = now_us();
    // A transaction with an open insert, in a day of its own, for as long as the test lasts.
    readings::ensure_partition(&rig.store.fleet, from_unix_us(now).expect("a time").date()).await.expect("made");
    let (owner, _connection) = TestCluster::shared().owner(&rig.store.settings.database).await;
    owner
        .batch_execute(
            "begin; insert into readings (device_id, ts, digest, content, \"values\")
             values (gen_random_uuid(), now(), 1, 1, '{}')",
        )
        .await
        .expect("an open insert");
    let mut tasks = Vec::new();
    for n in 0..12 {
        // Replicas that know nothing of each other.
        let other = Rig::on(TestStore::on((*rig.store.settings).clone()).await, settings());
        tasks.push(tasks::spawn(async move {
            let all = (1..9).map(|day| reading(device(n), now - day * DAY_US, day)).collect();
            let answer = other.ingest.submit(ReadingBatch::unchecked(device(n), all), DEADLINE).await;
            drop(other.store);
            totals(&answer.expect("stored"))
        }));
    }
    for task in tasks {
        assert_eq!(task.await.expect("no panic"), (8, 0, 0));
    }
    owner.batch_execute("rollback").await.expect("rolled back");
    assert_eq!(rig.count().await, 96);
}

/// What was in the way cannot be looked at: the second step of an insert fails, after the first has stored something.
#[tokio::test]
async fn partly_stored_is_never_said_to_be_not_stored() {
    let rig = Rig::new().await;
    let (old, new) = (reading(device(6), now_us(), 1), reading(device(6), now_us() - 1, 2));
    let batch = |readings: &[&Reading]| {
        ReadingBatch::unchecked(device(6), readings.iter().map(|reading| (*reading).clone()).collect())
    };
    let send = async |readings: &[&Reading]| rig.ingest.submit(batch(readings), DEADLINE).await;
    assert_eq!(totals(&send(&[&old]).await.expect("stored")), (1, 0, 0));
    let may_write_wal = async |change: &str| {
        let sql = format!(
            "do $$ declare f regprocedure; begin
               for f in select oid from pg_proc where proname = 'pg_logical_emit_message' loop
                 execute format('{change}', f);
               end loop; end $$"
        );
        TestCluster::shared().owner_batch(&rig.store.settings.database, &sql).await;
    };
    may_write_wal("revoke execute on function %s from public").await;
    for (readings, fault) in [(vec![&old, &new], Fault::Unknown), (vec![&old, &new], Fault::Unavailable)] {
        match send(&readings).await {
            Err(IngestError::Store(error)) => assert_eq!(error.fault, fault, "{error}"),
            other => panic!("{other:?}"),
        }
        assert_eq!(rig.count().await, 2, "the first time, the new one was stored");
    }
    may_write_wal("grant execute on function %s to public").await;
    assert_eq!(totals(&send(&[&old, &new]).await.expect("an answer")), (0, 2, 0));
}

#[tokio::test]
async fn a_retry_waits_for_the_standby_like_the_first_time() {
    let cluster = TestCluster::start(&[]);
    cluster.make_template();
    let store = TestStore::on(cluster.database().await).await;
    let database = store.settings.database.clone();
    let rig = Rig::on(store, settings());
    let all = vec![reading(device(5), now_us(), 1)];
    let batch = || ReadingBatch::unchecked(device(5), all.clone());
    assert_eq!(totals(&rig.ingest.submit(batch(), DEADLINE).await.expect("stored")), (1, 0, 0));

    cluster.owner_batch(&database, "alter system set synchronous_standby_names = 'nobody'").await;
    cluster.owner_batch(&database, "select pg_reload_conf()").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let late = rig.ingest.submit(batch(), Duration::from_millis(500)).await;
    assert!(matches!(late, Err(IngestError::Deadline)), "no standby has it: {late:?}");
    // Past the statement's deadline the commit is unknown, and it is a probe that goes next.
    match rig.ingest.submit(batch(), DEADLINE).await {
        Err(IngestError::Store(error)) => {
            assert!(matches!(error.fault, Fault::Unknown | Fault::Unavailable), "{error}");
        }
        other => panic!("{other:?}"),
    }

    cluster.owner_batch(&database, "alter system reset synchronous_standby_names").await;
    cluster.owner_batch(&database, "select pg_reload_conf()").await;
    let again = async {
        loop {
            if let Ok(answer) = rig.ingest.submit(batch(), DEADLINE).await {
                return answer;
            }
        }
    };
    let answer = tokio::time::timeout(DEADLINE, again).await.expect("the standby is no longer waited for");
    assert_eq!(totals(&answer), (0, 1, 0));
}

#[tokio::test]
async fn the_queue_is_bounded_and_a_hang_up_takes_nothing_along() {
    let tight = IngestSettings { queue_rows_max: 1000, queue_requests_max: 3, ..settings() };
    let rig = Rig::on(TestStore::new().await, tight);
    let now = now_us();
    rig.send(device(6), r#"{"values":{"a":1}}"#).await;
    let (owner, _connection) = TestCluster::shared().owner(&rig.store.settings.database).await;
    owner.batch_execute("begin; lock table readings in share mode").await.expect("inserts wait");

    let submit = |n: i64| {
        let ingest = rig.ingest.clone();
        let rows = (0..400).map(|i| reading(device(6), now - n * 1000 - i, i)).collect();
        let batch = ReadingBatch::unchecked(device(6), rows);
        tasks::spawn(async move { ingest.submit(batch, DEADLINE).await })
    };
    // The first is in flight; the second and the third, less than the row cap, gather; then the queue fills.
    let hung_up = submit(0);
    tokio::time::sleep(Duration::from_millis(50)).await;
    hung_up.abort();
    let waiting = [submit(1), submit(2)];
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(rig.ingest.queued().0, 800);
    assert!(matches!(submit(3).await.expect("no panic"), Err(IngestError::QueueFull)));
    owner.batch_execute("commit").await.expect("inserts go on");
    for task in waiting {
        assert_eq!(totals(&task.await.expect("no panic").expect("stored")), (400, 0, 0));
    }
    assert_eq!(rig.count().await, 1 + 1200, "the rows of the one that hung up too");
    assert_eq!(rig.ingest.queued(), (0, 0));
}

/// The limit on what is under way goes by these waits: if only those were counted that were served in time, nobody would
/// notice that it takes longer than callers have.
#[tokio::test]
async fn who_gives_up_or_leaves_has_waited_too() {
    let rig = Rig::new().await;
    rig.send(device(8), r#"{"values":{"a":1}}"#).await;
    rig.ingest.take_commits();
    let (owner, _connection) = TestCluster::shared().owner(&rig.store.settings.database).await;
    owner.batch_execute("begin; lock table readings in share mode").await.expect("inserts wait");
    let submit = |n: i64, patience: Duration| {
        let (ingest, batch) =
            (rig.ingest.clone(), ReadingBatch::unchecked(device(8), vec![reading(device(8), now_us(), n)]));
        tasks::spawn(async move { ingest.submit(batch, patience).await })
    };
    let patience = Duration::from_millis(100);
    let (gives_up, leaves) = (submit(1, patience), submit(2, DEADLINE));
    assert!(matches!(gives_up.await.expect("no panic"), Err(IngestError::Deadline)));
    leaves.abort();
    assert!(leaves.await.is_err(), "it has left");
    assert_eq!(rig.ingest.take_commits(), Commits::default(), "the commit goes on");
    owner.batch_execute("commit").await.expect("inserts go on");
    let (mut told, mut waited) = (0, Duration::ZERO);
    while told < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let commits = rig.ingest.take_commits();
        (told, waited) = (told + commits.told, waited + commits.waited);
    }
    assert!(told == 2 && waited >= patience, "{told} waited {waited:?}");
    assert_eq!(rig.count().await, 3, "what was under way is stored");
}

#[tokio::test]
async fn a_drain_finishes_the_queue() {
    let rig = Rig::new().await;
    let now = now_us();
    let tasks: Vec<_> = (0..50)
        .map(|n| {
            let ingest = rig.ingest.clone();
            let batch = ReadingBatch::unchecked(device(7), vec![reading(device(7), now - n, n)]);
            tasks::spawn(async move { ingest.submit(batch, DEADLINE).await })
        })
        .collect();
    tokio::task::yield_now().await;
    rig.store.tasks.shutdown().drain();
    let mut stored = 0;
    for task in tasks {
        match task.await.expect("no panic") {
            Ok(answer) => stored += i64::try_from(answer.stored).expect("few"),
            Err(IngestError::Draining) => {}
            Err(other) => panic!("{other}"),
        }
    }
    assert!(stored > 0);
    assert_eq!(rig.count().await, stored);
    let late = rig.ingest.submit(ReadingBatch::unchecked(device(7), vec![reading(device(7), now, 1)]), DEADLINE).await;
    assert!(matches!(late, Err(IngestError::Draining)), "{late:?}");
}

#[tokio::test]
async fn pages_hold_every_reading_once() {
    let rig = Rig::new().await;
    // Around midnight, several readings for some times, every third with another metric.
    let midnight = now_us() / DAY_US * DAY_US;
    let all: Vec<_> = (0..60)
        .map(|n| {
            let name = if n % 3 == 0 { "rare" } else { "n" };
            let values = Values::new(vec![(name.into(), Value::from(n))]).expect("one name");
            Reading::new(device(8), midnight - DAY_US + (n / 2 - 15) * 1_000, None, &values)
        })
        .collect();
    rig.ingest.submit(ReadingBatch::unchecked(device(8), all.clone()), DEADLINE).await.expect("stored");
    rig.send(device(9), r#"{"values":{"f":0.1,"big":18446744073709551615,"on":true}}"#).await;

    let mut keys: Vec<_> = all.iter().map(|reading| (reading.ts_us, reading.digest)).collect();
    keys.sort_unstable();
    for order in [Order::OldestFirst, Order::NewestFirst] {
        for (metric, expected) in [(None, 60), (Some("rare"), 20), (Some("none"), 0)] {
            let (from, to) = (from_unix_us(keys[0].0).expect("a time"), from_unix_us(keys[59].0 + 1).expect("a time"));
            let metric = metric.map(str::to_owned);
            let mut query = PageQuery { device: device(8), from, to, order, metric, after: None, limit: 7 };
            let mut seen = Vec::new();
            loop {
                let (items, next) = readings::page(&rig.store.fleet, query.clone()).await.expect("a page");
                seen.extend(items.iter().map(|item| (unix_us(item.ts), item.digest)));
                query.after = next;
                if next.is_none() {
                    break;
                }
            }
            assert_eq!(seen.len(), expected);
            let sorted = if order == Order::OldestFirst { seen.is_sorted() } else { seen.iter().rev().is_sorted() };
            assert!(sorted, "{order:?}");
            assert!(expected != 60 || seen.iter().all(|key| keys.contains(key)));
        }
    }
    let half_open = PageQuery {
        device: device(8),
        from: from_unix_us(keys[0].0 + 1).expect("a time"),
        to: from_unix_us(keys[59].0).expect("a time"),
        order: Order::OldestFirst,
        metric: None,
        after: None,
        limit: 100,
    };
    assert_eq!(readings::page(&rig.store.fleet, half_open).await.expect("a page").0.len(), 56);

    let newest = readings::latest(&rig.store.fleet, device(8)).await.expect("read").expect("there is one");
    assert_eq!((unix_us(newest.ts), newest.digest), keys[59]);
    let of_all = readings::latest_of(&rig.store.fleet, &[device(8), device(9), device(10)]).await.expect("read");
    assert_eq!(of_all.len(), 2);
    let exact = serde_json::json!({"f": 0.1, "big": u64::MAX, "on": true});
    assert_eq!(of_all[&device(9)].values, exact);
}

#[tokio::test]
async fn every_statement_fits_the_schema() {
    let store = TestStore::new().await;
    let (owner, _connection) = TestCluster::shared().owner(&store.settings.database).await;
    for statement in readings::STATEMENTS {
        assert!(statement.sql.starts_with(&format!("-- {}: ", statement.name)), "{}", statement.name);
        owner.prepare(statement.sql).await.unwrap_or_else(|error| panic!("{}: {error:?}", statement.name));
    }
}
