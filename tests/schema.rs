//! The schema: migrations apply from zero, the statements of both planes fit it, and those over many rows do no more work
//! than there are rows.

#![expect(clippy::expect_used, reason = "a test that cannot be set up has failed")]

mod support;

use std::collections::BTreeSet;
use std::path::Path;

use everbeat::lifecycle::tasks;
use everbeat::store::migrate::{self, Schema};
use everbeat::store::{
    Login, Statement, StoreSettings, drill_nodes, drill_views, durability, expiry, follow, leases, partitions,
    presence, primary, readings, retention, sweep,
};
use secrecy::ExposeSecret;
use support::{TestCluster, TestStore};
use tokio_util::task::AbortOnDropHandle;

#[tokio::test]
async fn migrations_apply_from_zero_and_again() {
    let store = TestStore::new().await;
    assert_eq!(migrate::check(&store.control).await.expect("the check runs"), Schema::Right);
    migrate::migrate(&store.settings, &store.settings.hosts[0]).await.expect("a second run changes nothing");
}

#[tokio::test]
async fn a_schema_that_is_behind_or_ahead_is_told_apart() {
    let store = TestStore::new().await;
    let cluster = TestCluster::shared();
    let database = &store.settings.database;
    cluster.owner_batch(database, "update _sqlx_migrations set version = 9999 where version = 2").await;
    assert_eq!(migrate::check(&store.control).await.expect("the check runs"), Schema::Ahead);
    cluster.owner_batch(database, "delete from _sqlx_migrations where version = 9999").await;
    assert_eq!(migrate::check(&store.control).await.expect("the check runs"), Schema::Behind);
    cluster.owner_batch(database, "update _sqlx_migrations set checksum = '\\x00' where version = 1").await;
    assert_eq!(migrate::check(&store.control).await.expect("the check runs"), Schema::Altered);
}

/// The statements of `store/sql`, with the user that runs them.
fn statements(settings: &StoreSettings) -> Vec<(&Login, &'static Statement)> {
    let (fleet, lease) = (&settings.fleet, &settings.lease);
    let owner = settings.owner.as_ref().expect("the tests' settings have one");
    let lists = [
        (fleet, readings::STATEMENTS),
        (fleet, durability::STATEMENTS),
        (fleet, presence::STATEMENTS),
        (lease, leases::STATEMENTS),
        (lease, sweep::STATEMENTS),
        (lease, partitions::STATEMENTS),
        (lease, retention::STATEMENTS),
        (lease, expiry::STATEMENTS),
        (lease, follow::STATEMENTS),
        (lease, primary::STATEMENTS),
        (owner, drill_nodes::STATEMENTS),
        (owner, drill_views::STATEMENTS),
    ];
    lists.into_iter().flat_map(|(login, list)| list.iter().map(move |statement| (login, *statement))).collect()
}

async fn connect(settings: &StoreSettings, login: &Login) -> (tokio_postgres::Client, AbortOnDropHandle<()>) {
    let (host, port) = &settings.hosts[0];
    let mut config = tokio_postgres::Config::new();
    config.host(host).port(*port).dbname(&settings.database);
    config.user(&login.user).password(login.password.expose_secret());
    let (client, connection) = config.connect(tokio_postgres::NoTls).await.expect("the user connects");
    let driver = tasks::spawn(async move {
        let _ = connection.await;
    });
    (client, AbortOnDropHandle::new(driver))
}

async fn fits(client: &tokio_postgres::Client, name: &str, sql: &str) -> Result<(), tokio_postgres::Error> {
    // Names and types: what the driver does at the first use.
    let parameters = client.prepare(sql).await?.params().len();
    // Rights: they are checked when a plan begins to run, which EXPLAIN makes it do without running it.
    let nulls = vec!["null"; parameters].join(", ");
    let arguments = if nulls.is_empty() { nulls } else { format!("({nulls})") };
    client.batch_execute("set plan_cache_mode = force_generic_plan").await?;
    client.batch_execute(&format!("prepare {name} as {sql}")).await?;
    client.batch_execute(&format!("explain execute {name}{arguments}")).await
}

#[tokio::test]
async fn every_statement_fits_the_schema_and_its_users_rights() {
    let store = TestStore::new().await;
    let owner = store.settings.owner.as_ref().expect("the tests' settings have one");
    let sessions = [
        (&store.settings.fleet, connect(&store.settings, &store.settings.fleet).await),
        (&store.settings.lease, connect(&store.settings, &store.settings.lease).await),
        (owner, connect(&store.settings, owner).await),
    ];
    let mut faults = Vec::new();
    for (login, statement) in statements(&store.settings) {
        let (_, (client, _)) = sessions.iter().find(|(known, _)| known.user == login.user).expect("one of the three");
        if let Err(error) = fits(client, statement.name, statement.sql).await {
            faults.push(format!("{} as {}: {error:?}", statement.name, login.user));
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[tokio::test]
async fn rights_are_really_looked_at() {
    let store = TestStore::new().await;
    let (client, _connection) = connect(&store.settings, &store.settings.fleet).await;
    let refused = fits(&client, "forbidden", "delete from readings where device_id = $1").await;
    let code = refused.expect_err("the fleet's user deletes nothing").code().cloned();
    assert_eq!(code, Some(tokio_postgres::error::SqlState::INSUFFICIENT_PRIVILEGE));
}

#[test]
fn every_file_is_a_declared_statement_and_names_itself() {
    let settings = TestCluster::shared().settings("none");
    let declared: Vec<&Statement> = statements(&settings).into_iter().map(|(_, statement)| statement).collect();
    let names: BTreeSet<String> = declared.iter().map(|statement| statement.name.to_owned()).collect();
    assert_eq!(names.len(), declared.len(), "a file is declared twice");
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store/sql");
    let files = std::fs::read_dir(dir).expect("the directory of statements").map(|entry| entry.expect("a file").path());
    let files: BTreeSet<String> =
        files.map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned()).collect();
    assert_eq!(files, names, "src/store/sql and the STATEMENTS lists are the same");
    for statement in declared {
        let first = statement.sql.lines().next().unwrap_or_default();
        let sentence = first.strip_prefix(&format!("-- {}: ", statement.name));
        assert!(sentence.is_some_and(|sentence| sentence.len() > 5), "{}: {first}", statement.name);
        let checked = include_str!("statements.rs").contains(&format!("sql/{}.sql\"", statement.name));
        assert_eq!(checked, statement.name != "wal_write", "tests/statements.rs and {}", statement.name);
    }
}

/// Devices that are online and were heard a minute ago, with the arguments of a statement over all of them.
const CROWD: u16 = 3_000;

async fn crowd(client: &tokio_postgres::Client) {
    let make = format!(
        "insert into fleets (id, name) values ('00000000-0000-7000-8000-000000000001', 'f');
         insert into devices (id, fleet_id, name) select gen_random_uuid(), '00000000-0000-7000-8000-000000000001', 'd' || n
           from generate_series(1, {CROWD}) n;
         insert into credentials (fingerprint, device_id, spki_sha256, serial, certificate_pem, not_before, not_after)
           select sha256(id::text::bytea), id, sha256(id::text::bytea), '\\x01', '', now(), now() + interval '1 day' from devices;
         insert into replicas (id, addr, version) values ('00000000-0000-7000-8000-00000000000a', 'here:1', '0');
         insert into presence (device_id, state, promise_ms, last_seen, replica)
           select id, 1, 86400000, now() - interval '1 minute', '00000000-0000-7000-8000-00000000000a' from devices;
         insert into leader_epoch values ('sweeper', 3, current_timeline());
         update tick set at = now(), timeline = current_timeline(), postmaster_start = pg_postmaster_start_time();
         analyze"
    );
    client.batch_execute(&make).await.expect("the crowd is made");
}

/// What a statement did.
#[derive(Debug, Default)]
struct Work {
    /// The most that any step of its plan made or threw away.
    rows: f64,
    /// How often `devices` was looked at.
    looked_up: f64,
    /// All of `presence` was read.
    reads_all: bool,
}

/// Runs a statement with its arguments as SQL.
async fn work(client: &tokio_postgres::Client, statement: &Statement, arguments: &str) -> Work {
    let Statement { name, sql, .. } = statement;
    client.batch_execute(&format!("deallocate all; prepare {name} as {sql}; begin")).await.expect("it is prepared");
    let run = format!("explain (analyze, format json) execute {name}({arguments})");
    let messages = client.simple_query(&run).await.expect("it runs");
    client.batch_execute("rollback").await.expect("it is undone");
    let text = messages.iter().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    let plan: serde_json::Value = serde_json::from_str(text.expect("a plan")).expect("JSON");
    let mut work = Work::default();
    let mut steps = vec![&plan[0]["Plan"]];
    while let Some(step) = steps.pop() {
        let number = |key: &str| step[key].as_f64().unwrap_or(0.0);
        let thrown_away = number("Rows Removed by Filter") + number("Rows Removed by Join Filter");
        work.rows = work.rows.max((number("Actual Rows") + thrown_away) * number("Actual Loops"));
        if step["Relation Name"] == "devices" {
            work.looked_up += number("Actual Loops");
        }
        work.reads_all |= step["Relation Name"] == "presence" && step["Node Type"] == "Seq Scan";
        steps.extend(step["Plans"].as_array().into_iter().flatten());
    }
    work
}

#[tokio::test]
async fn work_grows_with_the_rows_and_no_faster() {
    let store = TestStore::new().await;
    let (client, _driver) = TestCluster::shared().owner(&store.settings.database).await;
    crowd(&client).await;
    let lists = "with all_of (list) as (select array_agg(device_id order by device_id) from presence)
        select quote_literal(list::text) || '::uuid[]', array_length(list, 1)::bigint,
               (select quote_literal(array_agg(sha256(id::text::bytea) order by id)::text) from devices) from all_of";
    let row = client.query_one(lists, &[]).await.expect("the arguments");
    let (ids, prints): (String, String) = (row.get(0), row.get(2));
    let ones = format!("'{{{}}}'::bigint[]", vec!["1"; usize::from(CROWD)].join(","));
    let texts = ones.replace("bigint", "text");
    let me = "'00000000-0000-7000-8000-00000000000a'";
    let flush = format!("{ids}, {ones}, {prints}, {ones}, {ones}, {ones}, clock_timestamp(), {me}, {ones}, {texts}");
    let calls = [("presence_flush", flush), ("presence_extend", format!("{ids}, {ones}, {me}"))];
    for mode in ["force_generic_plan", "force_custom_plan"] {
        client.batch_execute(&format!("set plan_cache_mode = {mode}")).await.expect("set");
        for (name, arguments) in &calls {
            let statement = presence::STATEMENTS.iter().find(|statement| statement.name == *name).expect("declared");
            let work = work(&client, statement, arguments).await;
            assert!(work.looked_up > 0.0, "{name} with {mode} did nothing");
            assert!(work.rows <= 2.0 * f64::from(CROWD), "{name} with {mode}: {work:?}");
        }
    }
    let named = |name| sweep::STATEMENTS.iter().find(|statement| statement.name == name).expect("declared");
    let (look, sweep) = (named("presence_look"), named("presence_sweep"));
    // Who was heard in time costs a look no look-up, also after an outage that gave a replica's devices a new deadline;
    // and pages that were not asked for cost nothing.
    let ahead = format!("0, 1000000, 10000, 20000, array[{me}, null]::uuid[], array[now(), null]::timestamptz[], null");
    let behind = ahead.replace("now()", "null");
    let done = work(&client, look, &behind).await;
    assert!(done.rows >= f64::from(CROWD) && done.looked_up < 1.0, "{done:?}");
    let done = work(&client, look, &behind.replace("1000000", "3")).await;
    assert!(done.rows < f64::from(CROWD) / 2.0 && !done.reads_all, "three pages: {done:?}");
    client.batch_execute("update presence set last_seen = now() - interval '9 days'; analyze").await.expect("silence");
    assert!(work(&client, look, &behind).await.looked_up >= f64::from(CROWD));
    assert!(work(&client, look, &ahead).await.looked_up < 1.0);
    let everybody = ahead.replace("now(), null]", "null, now()]");
    assert!(work(&client, look, &everybody).await.looked_up < 1.0);
    // A sweep looks at those that it is asked about, and no others: by the key, also where they are all.
    let asked = |devices: &str| format!("'sweeper', 3, current_timeline(), 500, 60000, 10000, 3, 300000, {devices}");
    for none in ["'{}'", "array[gen_random_uuid()]"] {
        assert!(work(&client, sweep, &asked(none)).await.rows < f64::from(CROWD));
    }
    let done = work(&client, sweep, &asked(&ids)).await;
    assert!(done.looked_up >= 500.0 && done.rows <= 2.0 * f64::from(CROWD) && !done.reads_all, "{done:?}");
}
