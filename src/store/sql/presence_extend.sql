-- presence_extend: longer promises ($2) of some devices ($1), committed before they are given by a replica ($3)
-- Always writes. Moving last_seen makes every promise void that is older and still waits in a replica's memory.
with locked as materialized (
  select w.device_id, w.promise_ms from unnest($1::uuid[], $2::bigint[]) as w (device_id, promise_ms)
  join presence p using (device_id)
  order by device_id for update of p),
wanted as materialized (
  select l.device_id, l.promise_ms from locked l join devices d on d.id = l.device_id and d.state = 'active')
update presence p set
  promise_ms = greatest(p.promise_ms, w.promise_ms),
  last_seen = clock_timestamp(),
  replica = $3::uuid
from wanted w where p.device_id = w.device_id
returning p.device_id, p.promise_ms
