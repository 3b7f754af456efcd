-- trim_replicas: drops the rows of replicas that are gone, under the fence
-- $1 role, $2 epoch, $3 timeline, $4 age in ms, $5 rows at most, $6 the time to count from: see store/retention.rs
with fence as (
  select role, epoch, timeline from leader_epoch
  where role = $1::text and epoch = $2::bigint and timeline = $3::int for share),
due as materialized (
  select id from replicas
  where seen_at < $6::timestamptz - $4::bigint * interval '1 millisecond' order by seen_at limit $5::bigint),
gone as (  -- the age once more: the replica may be back
  delete from replicas t using due, fence
  where t.id = due.id and t.seen_at < $6::timestamptz - $4::bigint * interval '1 millisecond' returning 1),
noted as (
  insert into leader_effects (seq, role, epoch, timeline, kind, rows)
  select nextval('leader_effect_seq'), fence.role, fence.epoch, fence.timeline, 'replicas.trimmed',
         (select count(*) from gone)::int
  from fence where (select count(*) from gone) > 0
  returning 1)
select (select count(*) from fence) as held, (select count(*) from gone) as gone, (select count(*) from noted) as noted
