//! The fleet plane's statements under sqlx's eyes: one text, checked by one driver and run by the other. Parameters and
//! their types are those that `store` passes; a column that is renamed breaks the build, not the first request.
//!
//! `wal_write` is not here: sqlx has no type for the pg_lsn that it returns. tests/schema.rs prepares it like all others.

use sqlx::query_file;
use time::{Date, OffsetDateTime};
use uuid::Uuid;

const ID: Uuid = Uuid::nil();
const AT: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;
const BIG: i64 = 1;

#[test]
fn of_the_jobs_sessions() {
    let (role, small) = ("sweep", 1_i32);
    drop(query_file!("src/store/sql/lease_lock.sql", role));
    drop(query_file!("src/store/sql/lease_unlock.sql"));
    drop(query_file!("src/store/sql/lease_campaign.sql", role, ID, BIG, true, "here", ID, BIG, AT));
    drop(query_file!("src/store/sql/lease_renew.sql", role, ID, BIG, small, BIG, true));
    drop(query_file!("src/store/sql/lease_resign.sql", role, ID, BIG, small));
    drop(query_file!("src/store/sql/lease_effect.sql", role, ID, BIG, small));
    drop(query_file!("src/store/sql/lease_unblock.sql", role, ID, true, ID, BIG, AT));
    drop(query_file!("src/store/sql/fence_check.sql", role, BIG, small));
    drop(query_file!("src/store/sql/partitions_ensure.sql", role, BIG, small, small));
    drop(query_file!("src/store/sql/partitions_expired.sql", small, BIG, AT));
    drop(query_file!("src/store/sql/retention_clock.sql"));
    drop(query_file!("src/store/sql/trim_changes.sql", role, BIG, small, BIG, BIG, AT));
    drop(query_file!("src/store/sql/trim_events.sql", role, BIG, small, BIG, BIG, AT));
    drop(query_file!("src/store/sql/trim_leader_effects.sql", role, BIG, small, BIG, BIG, AT));
    drop(query_file!("src/store/sql/trim_idempotency_keys.sql", role, BIG, small, BIG, BIG, AT));
    drop(query_file!("src/store/sql/trim_outages.sql", role, BIG, small, BIG, BIG, AT));
    drop(query_file!("src/store/sql/trim_replicas.sql", role, BIG, small, BIG, BIG, AT));
    drop(query_file!("src/store/sql/expiry_notice.sql", role, BIG, small, small, BIG));
    let (ids, times) = ([ID].as_slice(), [AT].as_slice());
    drop(query_file!("src/store/sql/presence_look.sql", BIG, BIG, BIG, BIG, ids, times, BIG));
    drop(query_file!("src/store/sql/presence_sweep.sql", role, BIG, small, BIG, BIG, BIG, BIG, BIG, ids));
}

#[test]
fn of_the_change_logs_session_and_the_probe() {
    drop(query_file!("src/store/sql/replica_tick.sql", ID, "here", "1"));
    drop(query_file!("src/store/sql/changes_since.sql", "7:7:"));
    drop(query_file!("src/store/sql/token_keys_trusted.sql"));
    drop(query_file!("src/store/sql/ca_certificates_known.sql"));
    drop(query_file!("src/store/sql/primary_probe.sql"));
    drop(query_file!("src/store/sql/commit_position.sql"));
}

#[test]
fn of_presence() {
    let (ids, numbers) = ([ID].as_slice(), [BIG].as_slice());
    let (prints, texts) = ([vec![0_u8; 32]], ["fine".to_owned()]);
    drop(query_file!("src/store/sql/presence_anchor.sql"));
    drop(query_file!(
        "src/store/sql/presence_flush.sql",
        ids,
        numbers,
        &prints,
        numbers,
        numbers,
        numbers,
        AT,
        ID,
        numbers,
        &texts
    ));
    drop(query_file!("src/store/sql/presence_watermark.sql", ID, "here", "1", AT));
    drop(query_file!("src/store/sql/presence_shed.sql", ID, AT, BIG));
    drop(query_file!("src/store/sql/presence_promises.sql", ids));
    drop(query_file!("src/store/sql/presence_extend.sql", ids, numbers, ID));
    drop(query_file!("src/store/sql/presence_goodbye.sql", ID, prints[0], "night", AT, ID));
    drop(query_file!("src/store/sql/presence_tick.sql", ID, BIG, BIG, BIG));
}

#[test]
fn of_readings() {
    let (ids, times, numbers) = ([ID].as_slice(), [AT].as_slice(), [BIG].as_slice());
    let values = ["{}".to_owned()];
    drop(query_file!("src/store/sql/readings_insert.sql", ids, times, numbers, numbers, &values));
    drop(query_file!("src/store/sql/readings_existing.sql", ids, times, numbers, AT, AT));
    drop(query_file!("src/store/sql/readings_partition.sql", Date::MIN));
    drop(query_file!("src/store/sql/readings_page_asc.sql", ID, AT, AT, AT, BIG, "metric", BIG));
    drop(query_file!("src/store/sql/readings_page_desc.sql", ID, AT, AT, AT, BIG, "metric", BIG));
    drop(query_file!("src/store/sql/readings_latest.sql", ids));
}

#[test]
fn of_the_drills_last_look() {
    let ids = [ID].as_slice();
    drop(query_file!("src/store/sql/drill_readings.sql", ids, AT, ID, AT, BIG, BIG));
    drop(query_file!("src/store/sql/drill_effects.sql", AT, BIG, BIG));
    drop(query_file!("src/store/sql/drill_presence.sql", ids, AT, BIG, BIG));
    drop(query_file!("src/store/sql/drill_outages.sql", AT, BIG, BIG));
    drop(query_file!("src/store/sql/drill_timeline.sql"));
    drop(query_file!("src/store/sql/drill_backends.sql", BIG));
    drop(query_file!("src/store/sql/drill_leases.sql"));
    drop(query_file!("src/store/sql/drill_terminate_lease.sql", "sweeper"));
    drop(query_file!("src/store/sql/drill_terminate_sync_waits.sql"));
    drop(query_file!("src/store/sql/drill_terminate_application.sql", "somebody"));
    drop(query_file!("src/store/sql/drill_node.sql"));
}
