-- readings_insert: stores a batch in the order of the key; returns the keys that were not there
insert into readings (device_id, ts, digest, content, "values")
select device_id, ts, digest, content, "values"::jsonb
from unnest($1::uuid[], $2::timestamptz[], $3::bigint[], $4::bigint[], $5::text[])
  as batch (device_id, ts, digest, content, "values")
order by device_id, ts, digest
on conflict do nothing
returning device_id, ts, digest
