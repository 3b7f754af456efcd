-- drill_readings: a page of devices' readings since a time, after a key, with the number that stands in their values
select device_id, ts, digest, ("values" ->> 'n')::bigint as n
from readings
where device_id = any($1::uuid[]) and ts >= $2 and (device_id, ts, digest) > ($3::uuid, $4::timestamptz, $5::bigint)
order by device_id, ts, digest limit $6
