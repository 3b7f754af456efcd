-- drill_terminate_sync_waits: ends the service's backends whose COMMIT waits for a standby; it is done here all the same
select count(*) filter (where pg_terminate_backend(pid)) as ended
from pg_stat_activity
where wait_event_type = 'IPC' and wait_event = 'SyncRep' and application_name like 'everbeat/%' and pid <> pg_backend_pid()
