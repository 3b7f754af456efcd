-- partitions_expired: day tables of readings that lie wholly before the retention ($1 days), oldest first
-- $2 rows at most; $3 the time to count from: see store/retention.rs
-- A pending detach comes before all others: while there is one, PostgreSQL refuses every other concurrent detach.
select day.name, day.state
from (
  select c.relname::text as name,
         case when i.inhrelid is null then 'detached' when i.inhdetachpending then 'pending' else 'attached' end as state
  from pg_class c
  left join pg_inherits i on i.inhrelid = c.oid and i.inhparent = 'public.readings'::regclass
  where c.relkind = 'r' and c.relnamespace = 'public'::regnamespace and c.relname ~ '^readings_[0-9]{8}$'
    and right(c.relname::text, 8)
        < to_char(($3::timestamptz at time zone 'UTC')::date - $1::int, 'YYYYMMDD')
  order by i.inhdetachpending desc nulls last, c.relname
  limit $2::bigint) day
