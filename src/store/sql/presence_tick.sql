-- presence_tick: the write path works at this moment; if it did not since the last tick, that interval is an outage
-- $1 replica, $2 gap_max_ms, $3 window_ms and $4 restarts_max of the cap. The clock is read under the row's lock.
with seen as materialized (
  select at, timeline, postmaster_start from tick where one for update),
me as materialized (
  select clock_timestamp() as now, current_timeline() as timeline, pg_postmaster_start_time() as postmaster_start
  from (select count(*) from seen) as after_the_lock),
verdict as materialized (
  select me.now, me.timeline, me.postmaster_start, seen.at as previous,
         case when seen.at is null or seen.timeline = 0 then 'start'
              when seen.timeline <> me.timeline then 'timeline'
              when seen.postmaster_start <> me.postmaster_start then 'restart'
              when me.now - seen.at > $2::bigint * interval '1 millisecond' then 'gap' end as cause
  from me left join seen on true),
extended as (  -- an outage that goes on is one row
  update outages o set ended_at = v.now from verdict v
  where v.cause is not null and v.now >= o.started_at
    and o.id = (select max(id) from outages where replica is null and ended_at = v.previous)
  returning o.id),
opened as (
  insert into outages (started_at, ended_at, cause)
  select least(coalesce(previous, now), now), now, cause from verdict
  where cause is not null and not exists (select from extended)
  returning 1),
clamped as (  -- the clock that wrote these was ahead of this one: they would excuse silence that is still to come
  update outages o set started_at = least(o.started_at, v.now), ended_at = v.now from verdict v
  where o.ended_at > v.now and o.id not in (select id from extended)),
moved as (  -- never backwards on one postmaster: the sweep stops until the clock has caught up
  insert into tick as t (one, at, timeline, postmaster_start, replica)
  select true, now, timeline, postmaster_start, $1::uuid from verdict
  on conflict (one) do update set
    at = case when (t.timeline, t.postmaster_start) = (excluded.timeline, excluded.postmaster_start)
              then greatest(t.at, excluded.at) else excluded.at end,
    timeline = excluded.timeline, postmaster_start = excluded.postmaster_start, replica = excluded.replica)
select cause, (select count(*) from opened) > 0 as opened,
       (extract(epoch from coalesce(now - previous, interval '0')) * 1000000)::bigint as since_us,
       (select count(*) from outages o
        where o.replica is null and o.ended_at >= now - $3::bigint * interval '1 millisecond')
         + (select count(*) from opened) <= $4::bigint as restarts
from verdict
