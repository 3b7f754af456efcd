//! The reading of the change log, on a real PostgreSQL.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::time::Duration;

use everbeat::store::follow::{Batch, Cursor, ROWS_MAX, read};
use everbeat::store::{Plane, Session, StoreSettings};
use support::TestCluster;

const LIMIT: Duration = Duration::from_secs(10);

struct Log {
    settings: StoreSettings,
    reader: Session,
    writer: tokio_postgres::Client,
    _driver: tokio_util::task::AbortOnDropHandle<()>,
}

impl Log {
    async fn new() -> Self {
        let settings = TestCluster::shared().database().await;
        let reader = Session::open(&settings, &settings.hosts[0], Plane::Lease, "").await.unwrap();
        let (writer, driver) = TestCluster::shared().owner(&settings.database).await;
        Self { settings, reader, writer, _driver: driver }
    }

    async fn read(&self, cursor: &mut Cursor) -> Option<Vec<String>> {
        let (batch, moved) = read(&self.reader, cursor, LIMIT).await.unwrap();
        *cursor = moved;
        match batch {
            Batch::Everything => None,
            Batch::Changes(changes) => Some(changes.into_iter().map(|change| change.key).collect()),
        }
    }

    async fn append(&self, key: &str) {
        append(&self.writer, key).await;
    }
}

async fn append(writer: &tokio_postgres::Client, key: &str) {
    writer.execute("insert into changes (kind, key) values ('device', $1)", &[&key]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn each_change_is_read_once_however_long_an_old_transaction_lasts() {
    let log = Log::new().await;
    log.append("before").await;
    let mut cursor = Cursor::default();
    assert_eq!(log.read(&mut cursor).await.unwrap(), Vec::<String>::new(), "a new cursor is from now on");
    let (old, _driver) = TestCluster::shared().owner(&log.settings.database).await;
    old.batch_execute("begin").await.unwrap();
    append(&old, "old").await;
    log.append("young").await;
    assert_eq!(log.read(&mut cursor).await.unwrap(), ["young"]);

    // The old transaction holds xmin back all the while: too much once is not too much for ever.
    let many =
        format!("insert into changes (kind, key) select 'device', n::text from generate_series(0, {ROWS_MAX}) n");
    log.writer.execute(&many, &[]).await.unwrap();
    assert_eq!(log.read(&mut cursor).await, None, "more than a read names");
    assert_eq!(log.read(&mut cursor).await.unwrap(), Vec::<String>::new(), "and it was said once");
    log.append("next").await;
    assert_eq!(log.read(&mut cursor).await.unwrap(), ["next"]);

    old.batch_execute("commit").await.unwrap();
    assert_eq!(log.read(&mut cursor).await.unwrap(), ["old"], "the smallest id of all, and the last to appear");
    assert_eq!(log.read(&mut cursor).await.unwrap(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_rolled_back_or_was_never_kept_is_never_read() {
    let log = Log::new().await;
    let mut cursor = Cursor::default();
    log.read(&mut cursor).await.unwrap();
    let (other, _driver) = TestCluster::shared().owner(&log.settings.database).await;
    other.batch_execute("begin; savepoint s").await.unwrap();
    append(&other, "undone").await;
    other.batch_execute("rollback to s").await.unwrap();
    append(&other, "kept").await;
    assert_eq!(log.read(&mut cursor).await.unwrap(), Vec::<String>::new(), "not committed yet");
    other.batch_execute("savepoint t").await.unwrap();
    append(&other, "in a savepoint").await;
    other.batch_execute("commit").await.unwrap();
    let mut found = log.read(&mut cursor).await.unwrap();
    found.sort();
    assert_eq!(found, ["in a savepoint", "kept"]);
}
