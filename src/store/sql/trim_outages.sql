-- trim_outages: drops outages that are told no more and can be taken out of no silence any more, under the fence
-- $1 role, $2 epoch, $3 timeline, $4 age in ms, $5 rows at most, $6 the time to count from: see store/retention.rs
-- Kept beyond their age: those within the longest deadline of any fleet, and a day.
with fence as (
  select role, epoch, timeline from leader_epoch
  where role = $1::text and epoch = $2::bigint and timeline = $3::int for share),
kept as materialized (
  select $6::timestamptz - greatest($4::bigint, coalesce(max(heartbeat_interval_max_ms), 0) * 33 / 10 + 86400000)
                             * interval '1 millisecond' as since
  from fleets),
due as materialized (
  select o.id from outages o, kept where o.ended_at < kept.since order by o.ended_at limit $5::bigint),
gone as (  -- the age once more: an outage may have gone on meanwhile
  delete from outages t using due, fence, kept where t.id = due.id and t.ended_at < kept.since returning 1),
noted as (
  insert into leader_effects (seq, role, epoch, timeline, kind, rows)
  select nextval('leader_effect_seq'), fence.role, fence.epoch, fence.timeline, 'outages.trimmed',
         (select count(*) from gone)::int
  from fence where (select count(*) from gone) > 0
  returning 1)
select (select count(*) from fence) as held, (select count(*) from gone) as gone, (select count(*) from noted) as noted
