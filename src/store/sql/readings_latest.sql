-- readings_latest: the newest reading of each device, of those that have one
select r.device_id, r.ts, r.digest, r.received_at, r."values"
from unnest($1::uuid[]) as wanted (device_id)
cross join lateral (
  select device_id, ts, digest, received_at, "values"
  from readings
  where readings.device_id = wanted.device_id
  order by ts desc, digest desc
  limit 1
) r
