-- changes_since: what was committed since a snapshot ($1; null: from now on), and the snapshot of this read
-- Not visible then: what began after it, and what was running in it. Both are found by the index on xid, so that an
-- old transaction that goes on for hours makes no read longer.
with s as materialized (select pg_current_snapshot() as now, $1::text::pg_snapshot as before)
select s.now::text as snapshot, c.id, c.kind, c.key
from s left join lateral (
  select id, kind, key from (
    select id, kind, key from changes where xid >= pg_snapshot_xmax(s.before)
    union all
    select id, kind, key from changes where xid = any(array(select pg_snapshot_xip(s.before)))) new
  limit 10001) c on true
