-- changes_since: what was committed since the snapshot whose xmin is given, and the xmin of this one
select pg_snapshot_xmin(s.now)::text as xmin, c.id, c.kind, c.key
from (select pg_current_snapshot() as now) s
left join lateral (
  select id, kind, key from changes where xid >= $1::text::xid8 order by xid limit 10001
) c on true
