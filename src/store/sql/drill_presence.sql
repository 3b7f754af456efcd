-- drill_presence: a page of devices' changes of presence since a time
select id, device_id, at, kind, cause
from events
where device_id = any($1::uuid[]) and at >= $2 and id > $3
  and kind in ('device.online', 'device.suspect', 'device.offline')
order by id limit $4
