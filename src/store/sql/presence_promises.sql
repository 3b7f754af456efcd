-- presence_promises: the stored promises of some devices
select device_id, promise_ms from presence where device_id = any($1::uuid[])
