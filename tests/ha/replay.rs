//! A real sensor's file, sent by a process that is killed in the middle: every row is stored exactly once.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::database::{Owner, until};
use super::devices::enroll;
use super::process::Process;
use super::world::World;

const LIMIT: Duration = Duration::from_mins(3);

/// Rows as (time, value), with how often each occurs.
type Rows = BTreeMap<(String, String), usize>;

/// 3,000 rows at five minutes. Every tenth stands there twice, and every fifteenth time has another value as well.
fn synthetic(path: &Path) -> u64 {
    let mut text = "timestamp,value\n".to_owned();
    let (mut rows, mut step) = (0, 0);
    let start = time::macros::datetime!(2014-02-07 21:15:00);
    while rows < 3_000 {
        let at = start + time::Duration::minutes(5 * step);
        let (date, hour, minute) = (at.date(), at.hour(), at.minute());
        let mut row = |value: f64| {
            writeln!(text, "{date} {hour:02}:{minute:02}:00,{value}").unwrap();
            rows += 1;
        };
        let value = f64::from(i32::try_from(step).unwrap()) / 7.0;
        row(value);
        if step % 10 == 0 {
            row(value);
        }
        if step % 15 == 0 {
            row(value + 0.5);
        }
        step += 1;
    }
    std::fs::write(path, text).unwrap();
    rows
}

fn rows_of_file(path: &Path) -> Rows {
    let mut rows = Rows::new();
    for line in std::fs::read_to_string(path).unwrap().lines().skip(1) {
        let (ts, value) = line.split_once(',').unwrap();
        let value: f64 = value.trim().parse().unwrap();
        *rows.entry((ts[..19].to_owned(), value.to_string())).or_default() += 1;
    }
    rows
}

async fn rows_of_database(owner: &Owner, device: uuid::Uuid) -> Rows {
    let sql = "select to_char(ts at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS'), (values->>'value')::float8
               from readings where device_id = $1";
    let mut rows = Rows::new();
    for row in owner.client.query(sql, &[&device]).await.unwrap() {
        let (ts, value): (String, f64) = (row.get(0), row.get(1));
        *rows.entry((ts, value.to_string())).or_default() += 1;
    }
    rows
}

/// Replays, kills it once some rows are stored, replays again, and once more from the first row.
async fn survives_a_kill(world: &World, token: &str, name: &str, file: &Path, batch: &str) {
    let client = enroll(world, token, name).await;
    let device = client.device().id.0;
    let owner = world.database.owner().await;
    let expected = rows_of_file(file);
    let count: usize = expected.values().sum();
    let (state, log) = (world.path(name), world.path(&format!("{name}.log")));
    let args = ["device", "replay", file.to_str().unwrap(), "--state", state.to_str().unwrap(), "--batch", batch];
    let stored = async || {
        let sql = "select count(*) from readings where device_id = $1";
        usize::try_from(owner.client.query_one(sql, &[&device]).await.unwrap().get::<_, i64>(0)).unwrap()
    };

    let mut process = Process::start(&args, &log);
    until("a part of the file is stored", LIMIT, async || (stored().await > count / 5).then_some(())).await;
    assert!(!process.has_ended(), "it must be killed in the middle: {}", process.log());
    process.kill();
    assert!(stored().await < count, "it must be killed in the middle");

    let mut process = Process::start(&args, &log);
    assert!(process.ended(LIMIT).await.success());
    let (said, done) = (process.log(), format!("{count} rows: "));
    assert!(said.contains("rows were acknowledged before"), "it goes on where it was: {said}");
    assert!(said.lines().any(|line| line.starts_with(&done) && line.ends_with(" 0 rejected")), "{said}");
    assert!(rows_of_database(&owner, device).await == expected, "the rows are those of the file, each as often");

    let again = [args.as_slice(), &["--from-start"]].concat();
    let mut process = Process::start(&again, &log);
    assert!(process.ended(LIMIT).await.success());
    assert!(process.log().contains(&format!("{count} rows: 0 stored, {count} duplicates, 0 rejected")));
    assert_eq!(stored().await, count);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_with_repeated_rows_is_stored_once_through_a_kill() {
    let world = World::start().await;
    let token = world.fleet("plant", 1).await;
    let file = world.path("synthetic.csv");
    assert_eq!(synthetic(&file), rows_of_file(&file).values().sum::<usize>() as u64);
    survives_a_kill(&world, &token, "synthetic", &file, "20").await;
}

/// The whole file where the data set is kept beside the sources, else 2,500 of its rows, with an hour that comes twice.
fn machine_temperature() -> (PathBuf, &'static str) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR"));
    let whole = "shared/data/nab/machine_temperature_system_failure.csv";
    match source.ancestors().skip(1).map(|dir| dir.join(whole)).find(|file| file.exists()) {
        Some(file) => (file, "200"),
        None => (source.join("tests/ha/data/machine_temperature_excerpt.csv"), "20"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machines_temperature_is_stored_once_through_a_kill() {
    let (file, batch) = machine_temperature();
    println!("replaying {}", file.display());
    let world = World::start().await;
    let token = world.fleet("plant", 1).await;
    survives_a_kill(&world, &token, "machine", &file, batch).await;
}
