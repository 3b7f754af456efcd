-- lease_campaign: takes the lease of one duty if a rule allows it, and tells the row as it was before
-- $1 role, $2 holder, $3 TTL in ms, $4 does my session hold the advisory lock, $5 address,
-- $6 $7 $8 the (holder, epoch, renewed_at) that I have seen unchanged for a full TTL on my own clock, or nulls.
-- A row that no rule frees is only read: a lost campaign locks nothing, writes no WAL and waits for no standby.
with me as materialized (
  select clock_timestamp() as now, current_timeline() as timeline, pg_postmaster_start_time() as pms),
seen as materialized (
  select l.holder, l.epoch, l.renewed_at, l.expires_at, l.effect_pid,
         (l.holder is null or l.expires_at <= me.now
          or ($4::boolean and l.lock_pid is not null and l.postmaster_start = me.pms and l.timeline = me.timeline)
          or l.holder = $2::uuid
          or coalesce((l.holder, l.epoch, l.renewed_at) = ($6::uuid, $7::bigint, $8::timestamptz), false)) as free
  from leader_lease l, me where l.role = $1::text),
won as (
  insert into leader_lease as l
    (role, holder, epoch, timeline, postmaster_start, lock_pid, acquired_at, renewed_at, expires_at, addr)
  select $1::text, $2::uuid, 1 + coalesce((select e.epoch from leader_epoch e where e.role = $1::text), 0),
         me.timeline, me.pms, case when $4::boolean then pg_backend_pid() end,
         me.now, me.now, me.now + $3::bigint * interval '1 millisecond', $5::text
  from me where not exists (select from seen where not seen.free)
  on conflict (role) do update set
    holder = excluded.holder, epoch = l.epoch + 1, timeline = excluded.timeline,
    postmaster_start = excluded.postmaster_start, lock_pid = excluded.lock_pid, effect_pid = null,
    acquired_at = clock_timestamp(), renewed_at = clock_timestamp(),
    expires_at = clock_timestamp() + $3::bigint * interval '1 millisecond', addr = excluded.addr
  where l.holder is null                                              -- 1 resigned
     or l.expires_at <= clock_timestamp()                             -- 2 expired
     or (excluded.lock_pid is not null and l.lock_pid is not null     -- 3 its session ended
         and l.postmaster_start = excluded.postmaster_start and l.timeline = excluded.timeline)
     or l.holder = excluded.holder                                    -- 4 it is mine
     or (l.holder, l.epoch, l.renewed_at) = ($6::uuid, $7::bigint, $8::timestamptz)  -- 5 stale on my clock
  returning l.role, l.epoch, l.timeline),
fence as (
  insert into leader_epoch as e (role, epoch, timeline) select won.role, won.epoch, won.timeline from won
  on conflict (role) do update set epoch = excluded.epoch, timeline = excluded.timeline
  returning e.epoch, e.timeline)
select fence.epoch as won_epoch, fence.timeline as won_timeline,
       seen.holder, seen.epoch, seen.renewed_at, seen.expires_at, seen.effect_pid
from me left join fence on true left join seen on true
