-- presence_look: devices in some pages of presence that may fall due within a time, for sweeps that then look at no others
-- $1 first page; $2 the page after the last; $3 horizon_ms, from now; $4 soon_ms: a deadline so short may come about
-- unseen meanwhile, whatever the row says now; $5 replica or null for everybody, $6 before when their silence counts not
-- $7 devices at most, or null
-- What presence_sweep knows besides (refusals, replicas that cannot flush) makes silence shorter only.
with restarts as materialized (
  select replica, at from unnest($5::uuid[], $6::timestamptz[]) as restarted (replica, at)),
found as (
  select p.device_id
  from presence p left join restarts r on r.replica = p.replica
  where p.ctid >= ('(' || $1::bigint || ',0)')::tid and p.ctid < ('(' || $2::bigint || ',0)')::tid
    and (p.promise_ms * 15 / 10 < $4::bigint
         or p.state in (1, 2)
            and greatest(coalesce(p.last_seen, p.state_since), p.promised_until, r.at,
                         (select at from restarts where replica is null))
                <= statement_timestamp() + ($3::bigint - case p.state when 1 then p.promise_ms * 15 / 10
                                                         else p.promise_ms * 33 / 10 + 10000 end) * interval '1 millisecond'
            and (select d.state from devices d where d.id = p.device_id and r.at is distinct from 'infinity') = 'active')
  -- That names r, too, since what names p alone the planner asks at the scan, of everybody.
  limit $7::bigint)
select (select coalesce(array_agg(device_id), '{}') from found) as devices,
       pg_relation_size('presence') / current_setting('block_size')::bigint as pages
