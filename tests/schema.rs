//! The schema: migrations apply from zero, and the statements of both planes fit it.

mod support;

use everbeat::store::migrate::{self, Schema};
use support::{TestCluster, TestStore};

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
