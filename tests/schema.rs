//! The schema: migrations apply from zero, and the statements of both planes fit it.

#![expect(clippy::expect_used, reason = "a test that cannot be set up has failed")]

mod support;

use std::collections::BTreeSet;
use std::path::Path;

use everbeat::lifecycle::tasks;
use everbeat::store::migrate::{self, Schema};
use everbeat::store::{
    Login, Statement, StoreSettings, drill_nodes, drill_views, durability, follow, leases, partitions, presence,
    primary, readings, retention,
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
        (lease, partitions::STATEMENTS),
        (lease, retention::STATEMENTS),
        (lease, follow::STATEMENTS),
        (lease, primary::STATEMENTS),
        (owner, drill_nodes::STATEMENTS),
        (owner, drill_views::STATEMENTS),
    ];
    let all = lists.into_iter().flat_map(|(login, list)| list.iter().map(move |statement| (login, *statement)));
    // One of presence's runs in the sessions of the jobs.
    let by_jobs = |statement: &Statement| statement.name == "presence_sweep";
    all.map(|(login, statement)| (if by_jobs(statement) { lease } else { login }, statement)).collect()
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
