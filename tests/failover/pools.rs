//! What the pools' connections are, whatever surrounds them.

use std::sync::Arc;
use std::time::Duration;

use everbeat::domain::ids::DeviceId;
use everbeat::domain::random::Random;
use everbeat::lifecycle::shutdown::Shutdown;
use everbeat::lifecycle::tasks::Tasks;
use everbeat::store::presence::promises;
use everbeat::store::settings::TlsMode;
use everbeat::store::{Abort, FleetStore, Plane, Session, StoreError, StoreSettings};
use uuid::Uuid;

use crate::app::eventually;
use crate::pair::LONG;
use crate::support::{TestCluster, TestStore, scratch_dir};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_is_flushed_whatever_the_database_is_set_to() {
    let settings = TestCluster::shared().database().await;
    let weaken = format!("alter database {} set synchronous_commit = off", settings.database);
    TestCluster::shared().owner_batch("postgres", &weaken).await;
    let store = TestStore::on(settings).await;
    let ask = "select current_setting('synchronous_commit')";
    let fleet: String = store
        .fleet
        .transact("setting", LONG, move |transaction| {
            Box::pin(async move { Ok(transaction.query_one(ask, &[]).await?.get(0)) })
        })
        .await
        .unwrap();
    let control: String = store
        .control
        .write("setting", move |connection| {
            Box::pin(async move {
                let value = sqlx::query_scalar::<_, String>(ask).fetch_one(connection).await?;
                Ok::<_, Abort<StoreError>>(value)
            })
        })
        .await
        .unwrap();
    assert_eq!([fleet.as_str(), control.as_str()], ["on", "on"]);
    let session = Session::open(&store.settings, &store.settings.hosts[0], Plane::Lease, "").await.unwrap();
    let weak = format!("do $$ begin assert ({ask}) = 'on'; end $$");
    session.batch("setting", &weak, LONG).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_file_that_is_missing_for_a_moment_costs_no_pool() {
    let sound = TestStore::new().await;
    let directory = scratch_dir("ca");
    std::fs::create_dir_all(&directory).unwrap();
    let file = directory.join("ca.pem");
    let settings = StoreSettings {
        tls: TlsMode::VerifyFull,
        ca_file: Some(file.clone()),
        statement_deadline: Duration::from_millis(200),
        ..(*sound.settings).clone()
    };
    let tasks = Tasks::new(Shutdown::new());
    let fleet = FleetStore::start(Arc::new(settings), sound.primary.clone(), &tasks, Random::seeded(1));
    let refusal = async || promises(&fleet, &[DeviceId(Uuid::nil())]).await.unwrap_err().detail;
    assert_eq!(refusal().await, "no primary answers");
    let authority = rcgen::generate_simple_self_signed(vec!["db".to_owned()]).unwrap();
    std::fs::write(&file, authority.cert.pem()).unwrap();
    // The server has no TLS; but there is a pool that tries.
    eventually(LONG, async || refusal().await != "no primary answers").await;
    tasks.shutdown().abort();
    std::fs::remove_dir_all(&directory).unwrap();
}
