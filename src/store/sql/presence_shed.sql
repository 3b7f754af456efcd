-- presence_shed: this replica ($1) refused heartbeats since $2: silence of its devices proves nothing meanwhile
-- Not without end: of any hour, the last $3 milliseconds that are left of its allowance. Beyond that, silence counts.
-- An interval that goes on is one row, for at most a minute; then the next row begins, so that the cap can count.
with now as materialized (select clock_timestamp() as at),
allowance as materialized (
  select now.at, $3::bigint * interval '1 millisecond' - coalesce((
           select sum(o.ended_at - greatest(o.started_at, now.at - interval '1 hour')) from outages o
           where o.replica = $1::uuid and o.ended_at > now.at - interval '1 hour' and o.ended_at <= now.at), interval '0') as rest
  from now),
extended as (
  update outages set ended_at = a.at from allowance a
  where a.rest > interval '0'
    and id = (select max(id) from outages where replica = $1::uuid and ended_at > a.at - interval '5 seconds')
    and ended_at <= a.at and a.at - started_at < interval '1 minute'
  returning 1),
opened as (
  insert into outages (started_at, ended_at, cause, replica)
  select greatest(least($2::timestamptz, a.at), a.at - a.rest), a.at, 'replica', $1::uuid from allowance a
  where a.rest > interval '0' and not exists (select from extended)
  returning 1)
select (select count(*) from extended) + (select count(*) from opened) > 0 as recorded
