-- presence_goodbye: a device leaves on purpose; said twice, it changes nothing more, but is written all the same
-- $1 device, $2 fingerprint, $3 reason, $4 back_at, $5 replica
with locked as materialized (
  select device_id, state, cause from presence where device_id = $1::uuid for update),
live as materialized (
  select l.device_id, d.fleet_id, l.state as previous, not (l.state = 3 and l.cause = 3) as leaves, clock_timestamp() as now
  from locked l
  join devices d on d.id = l.device_id and d.state = 'active'
  join credentials k on k.fingerprint = $2::bytea and k.device_id = l.device_id
    and k.revoked_at is null and k.not_after > clock_timestamp()),
changed as (
  update presence p set
    state = 3, cause = 3, state_since = v.now, last_seen = v.now, promised_until = $4::timestamptz,
    hb_seq = p.hb_seq + 1, status_seq = p.status_seq + v.leaves::int, replica = $5::uuid
  from live v where p.device_id = v.device_id
  returning p.device_id, p.status_seq, v.fleet_id, v.previous, v.leaves),
announced as (
  insert into events (kind, fleet_id, device_id, status_seq, cause, detail)
  select 'device.offline', fleet_id, device_id, status_seq, 'goodbye',
         jsonb_build_object('previous', (array['never_seen', 'online', 'suspect', 'offline'])[previous + 1],
                            'reason', $3::text,
                            'back_at', to_char($4::timestamptz at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'))
  from changed where leaves)
select leaves from changed
