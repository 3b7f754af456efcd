-- drill_node: one database node as the drill sees it; works on a standby too
select case when pg_is_in_recovery() then null
            else ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int end as timeline,
       current_setting('transaction_read_only')::boolean as read_only,
       current_setting('synchronous_standby_names') <> '' as demands_sync,
       coalesce((select array_agg(r.application_name order by r.application_name) from pg_stat_replication r
                 where r.state = 'streaming'), '{}') as standbys,
       coalesce((select array_agg(r.application_name order by r.application_name) from pg_stat_replication r
                 where r.state = 'streaming' and r.sync_state in ('sync', 'quorum')), '{}') as sync_standbys
