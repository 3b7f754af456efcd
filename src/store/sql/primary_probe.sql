-- primary_probe: is this node writable, on which timeline, and how many synchronous standbys follow it?
select pg_postmaster_start_time() as postmaster_start,
       case when pg_is_in_recovery() or current_setting('transaction_read_only')::boolean then null
            else ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int end as timeline,
       (select count(*) from pg_stat_replication r where r.sync_state in ('sync', 'quorum')) as sync_standbys
