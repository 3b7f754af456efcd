-- commit_position: how far this primary has flushed, and what as many standbys as commits wait for have at least
-- For right after a COMMIT: its record lies before what is flushed then, so a standby that has that much has the commit.
-- Of the standbys named in "2 (a, b)" (FIRST 2) or "ANY 2 (a, b, c)" the second farthest counts: with fewer, one that
-- lacks the commit could be promoted. A plain list waits for one.
select (own.flushed - '0/0')::bigint as flushed,
       (select r.flush_lsn - '0/0' from pg_stat_replication r
        where r.sync_state in ('sync', 'quorum') and r.flush_lsn is not null
        order by r.flush_lsn desc limit 1
        offset coalesce(substring(own.names from '(?i)^\s*(?:(?:first|any)\s+)?(\d+)\s*\(')::int, 1) - 1)::bigint as standby,
       own.names <> '' as named
from (select pg_current_wal_flush_lsn() as flushed, current_setting('synchronous_standby_names') as names) own
