-- readings_page_asc: a device's readings in [$2, $3) after the cursor ($4, $5), oldest first; $6: only those with this metric
select device_id, ts, digest, received_at, "values"
from readings
where device_id = $1 and ts >= $2 and ts < $3
  and (ts, digest) > ($4::timestamptz, $5::bigint)
  and ($6::text is null or "values" ? $6)
order by ts asc, digest asc
limit $7
