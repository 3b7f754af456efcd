-- presence_flush: the contacts of many devices, given as ages against an anchor ($7) read in this transaction
-- $1 device_id, $2 age_us, $3 fingerprint, $4 contacts, $5 promise_ms or null, $6 promise_age_us or null; $8 replica
-- $9 the device's own counter or null, $10 its status or null
with locked as materialized (  -- in one order everywhere, or two flushes deadlock
  select c.device_id, c.fingerprint, c.beats, c.promise_ms, c.seq, c.status,
         least($7::timestamptz - c.age_us * interval '1 microsecond', clock_timestamp()) as at,
         $7::timestamptz - c.promise_age_us * interval '1 microsecond' as promised_at,
         p.state, p.state_since, p.last_seen
  from unnest($1::uuid[], $2::bigint[], $3::bytea[], $4::bigint[], $5::bigint[], $6::bigint[], $9::bigint[], $10::text[])
    as c (device_id, age_us, fingerprint, beats, promise_ms, promise_age_us, seq, status)
  join presence p using (device_id)
  order by device_id for update of p),
live as materialized (
  select l.device_id, l.at, l.beats, l.promise_ms, l.seq, l.status, d.fleet_id, l.state as previous,
         -- A state_since in the future is a clock that was set back: then it holds nobody offline.
         l.state = 0 or (l.state <> 1 and (l.at > l.state_since or l.state_since > clock_timestamp())) as revives,
         coalesce(l.promised_at > coalesce(l.last_seen, '-infinity'), false) as promises,
         l.at >= coalesce(l.last_seen, '-infinity') as newest
  from locked l
  join devices d on d.id = l.device_id and d.state = 'active'
  join credentials k on k.fingerprint = l.fingerprint and k.device_id = l.device_id
    and k.revoked_at is null and k.not_after > l.at),
changed as (
  update presence p set
    state = case when v.revives then 1 else p.state end,
    cause = case when v.revives then 1 else p.cause end,
    state_since = case when v.revives then greatest(v.at, least(p.state_since, clock_timestamp())) else p.state_since end,
    last_seen = greatest(least(p.last_seen, clock_timestamp()), v.at),
    promise_ms = case when v.promises then v.promise_ms else p.promise_ms end,
    promised_until = case when v.revives then null else p.promised_until end,
    hb_seq = p.hb_seq + v.beats,
    status_seq = p.status_seq + v.revives::int,
    replica = case when v.newest then $8::uuid else p.replica end,
    device_seq = case when v.newest or v.promises then coalesce(v.seq, p.device_seq) else p.device_seq end,
    device_status = case when (v.newest or v.promises) and v.status is not null then nullif(v.status, '') else p.device_status end
  from live v where p.device_id = v.device_id
  returning p.device_id, p.status_seq, v.fleet_id, v.revives, v.previous, v.at),
announced as (
  insert into events (kind, fleet_id, device_id, status_seq, cause, detail)
  select 'device.online', fleet_id, device_id, status_seq, 'contact',
         jsonb_build_object('previous', (array['never_seen', 'online', 'suspect', 'offline'])[previous + 1],
                            'contact_at', to_char(at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'))
  from changed where revives order by device_id)
select count(*) as applied, count(*) filter (where revives) as revived from changed
