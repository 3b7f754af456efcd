-- readings_existing: the contents of the rows that stood in the way of an insert; $4 and $5 bound their times
select r.device_id, r.ts, r.digest, r.content
from unnest($1::uuid[], $2::timestamptz[], $3::bigint[]) as batch (device_id, ts, digest)
join readings r on r.device_id = batch.device_id and r.ts = batch.ts and r.digest = batch.digest
where r.ts between $4 and $5
