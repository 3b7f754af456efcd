-- trim_idempotency_keys: drops keys of requests that nobody repeats any more, under the fence
-- $1 role, $2 epoch, $3 timeline, $4 age in ms, $5 rows at most, $6 the time to count from: see store/retention.rs
with fence as (
  select role, epoch, timeline from leader_epoch
  where role = $1::text and epoch = $2::bigint and timeline = $3::int for share),
due as materialized (
  select caller, route, key from idempotency_keys
  where created_at < $6::timestamptz - $4::bigint * interval '1 millisecond' order by created_at limit $5::bigint),
gone as (
  delete from idempotency_keys t using due, fence where (t.caller, t.route, t.key) = (due.caller, due.route, due.key) returning 1),
noted as (
  insert into leader_effects (seq, role, epoch, timeline, kind, rows)
  select nextval('leader_effect_seq'), fence.role, fence.epoch, fence.timeline, 'idempotency_keys.trimmed',
         (select count(*) from gone)::int
  from fence where (select count(*) from gone) > 0
  returning 1)
select (select count(*) from fence) as held, (select count(*) from gone) as gone, (select count(*) from noted) as noted
