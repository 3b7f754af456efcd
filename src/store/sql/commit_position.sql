-- commit_position: how far this primary has flushed, and the synchronous standby that has come farthest
-- For right after a COMMIT: its record lies before what is flushed then, so a standby that has that much has the commit.
select (own.flushed - '0/0')::bigint as flushed,
       (select max(r.flush_lsn) - '0/0' from pg_stat_replication r
        where r.sync_state in ('sync', 'quorum'))::bigint as standby,
       current_setting('synchronous_standby_names') <> '' as named
from (select pg_current_wal_flush_lsn() as flushed) own
