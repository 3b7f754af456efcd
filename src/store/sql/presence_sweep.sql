-- presence_sweep: turns those of some devices that are silent suspect and offline, under the fence, as of the last tick
-- $1 role, $2 epoch, $3 timeline; $4 rows_max; $5 tick_fresh_ms; $6 blind_max_ms; $7 restarts_max; $8 window_ms
-- $9 the devices
-- The rule is presence::detector's; tests/presence.rs compares the two.
with fence as materialized (
  select 1 from leader_epoch where role = $1::text and epoch = $2::bigint and timeline = $3::int for share),
pace as materialized (  -- silence is judged as of the tick: later than that, nothing is known
  select t.at as tick
  from fence cross join tick t cross join (select clock_timestamp() as now) c
  where t.timeline = current_timeline() and t.postmaster_start = pg_postmaster_start_time()
    and t.at <= c.now and t.at > c.now - $5::bigint * interval '1 millisecond'),
marked as materialized (  -- those that any deadline reaches back to, a day for long outages, and the cap's window
  select o.replica, o.started_at, o.ended_at,
         count(*) over (partition by o.replica order by o.ended_at
                        range between ($8::bigint * interval '1 millisecond') preceding and current row)
           <= $7::bigint as restarts
  from outages o cross join pace
  where o.ended_at > pace.tick - ($8::bigint + 86400000
          + coalesce((select max(heartbeat_interval_max_ms) from fleets), 0) * 33 / 10) * interval '1 millisecond'),
restarts as materialized (
  select replica, max(ended_at) as at from marked where restarts group by replica),
lost as materialized (select replica, started_at, ended_at from marked where not restarts),
everybody as materialized (
  select tick, (select at from restarts where replica is null) as restarted from pace),
holder as materialized (
  select coalesce(r.id, o.replica) as replica,
         case when heard then least(e.tick, r.flushed_through) else e.tick end as until,
         greatest(case when not heard then r.flushed_through + $6::bigint * interval '1 millisecond' end, o.at) as base
  from everybody e cross join (replicas r full join restarts o on o.replica = r.id)  -- some of them long gone
  cross join lateral (select r.flushed_through >= e.tick - $6::bigint * interval '1 millisecond' as heard) h),
due as materialized (  -- ends at the limit; what costs a look-up comes last
  select p.device_id
  from everybody e cross join unnest($9::uuid[]) as asked (device_id)
  -- By the key, always: of many thousands, the planner would rather read the whole table, and hold the fence meanwhile.
  cross join lateral (select q.* from presence q where q.device_id = asked.device_id offset 0) p
  left join holder h on h.replica = p.replica
  cross join lateral (
    select greatest(coalesce(p.last_seen, p.state_since), p.promised_until, e.restarted, h.base) as base,
           coalesce(h.until, e.tick) as until,
           case p.state when 1 then p.promise_ms * 15 / 10 else p.promise_ms * 33 / 10 + 10000 end
             * interval '1 millisecond' as deadline) s
  where p.state in (1, 2)
    and s.until - s.base >= s.deadline
    and s.until - s.base - coalesce((
          select sum(greatest(least(l.ended_at, s.until) - greatest(l.started_at, s.base), interval '0'))
          from lost l where l.replica is null or l.replica = p.replica), interval '0') >= s.deadline
    and (select d.state from devices d where d.id = p.device_id and s.until is not null) = 'active'  -- not at the scan
  limit $4::bigint),
locked as materialized (  -- the newest version of each row, without waiting for anybody
  select p.device_id, p.state, p.state_since, p.last_seen, p.promise_ms, p.promised_until, p.replica
  from presence p where p.device_id = any(array(select device_id from due))
  order by p.device_id for update skip locked),
judged as materialized (  -- once more, on those versions
  select p.device_id, p.state as previous, p.last_seen, p.promise_ms, s.until, q.silence, d.fleet_id,
         case when q.silence >= (p.promise_ms * 33 / 10 + 10000) * interval '1 millisecond' then 3
              when p.state = 1 and q.silence >= (p.promise_ms * 15 / 10) * interval '1 millisecond' then 2 end as next
  from everybody e cross join locked p
  join devices d on d.id = p.device_id and d.state = 'active'
  left join holder h on h.replica = p.replica
  cross join lateral (
    select greatest(coalesce(p.last_seen, p.state_since), p.promised_until, e.restarted, h.base) as base,
           coalesce(h.until, e.tick) as until) s
  cross join lateral (
    select s.until - s.base - coalesce(sum(greatest(
             least(l.ended_at, s.until) - greatest(l.started_at, s.base), interval '0')), interval '0') as silence
    from lost l where l.replica is null or l.replica = p.replica) q
  where p.state in (1, 2)),
changed as (
  update presence p set
    state = j.next, cause = 2, state_since = greatest(p.state_since, j.until), status_seq = p.status_seq + 1
  from judged j where p.device_id = j.device_id and j.next is not null
  returning p.device_id, p.status_seq, p.state, j.previous, j.last_seen, j.promise_ms, j.silence, j.fleet_id),
announced as (
  insert into events (kind, fleet_id, device_id, status_seq, cause, detail)
  select case state when 2 then 'device.suspect' else 'device.offline' end, fleet_id, device_id, status_seq, 'silence',
         jsonb_build_object('previous', (array['never_seen', 'online', 'suspect', 'offline'])[previous + 1],
                            'last_seen', to_char(last_seen at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
                            'promise_ms', promise_ms,
                            'silent_ms', (extract(epoch from silence) * 1000)::bigint)
  from changed order by device_id),
numbered as materialized (
  select nextval('leader_effect_seq') as seq, n from (select count(*)::int as n from changed) c where n > 0),
effect as (
  insert into leader_effects (seq, role, epoch, timeline, kind, rows)
  select seq, $1::text, $2::bigint, $3::int, 'presence.swept', n from numbered)
select exists (select from fence) as fence_held, exists (select from pace) as tick_fresh,
       (select count(*) from changed where state = 2) as suspect,
       (select count(*) from changed where state = 3) as offline,
       (select count(*) from due) as due, (select seq from numbered) as seq,
       (select array_agg(replica order by replica) from restarts) as restarted,
       (select array_agg(at order by replica) from restarts) as restarted_at
