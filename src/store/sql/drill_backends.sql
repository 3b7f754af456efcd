-- drill_backends: the service's backends here, their locks, those in one transaction for too long, and the notification queue
with backend as (
  select pid, xact_start from pg_stat_activity
  where datname = current_database() and application_name like 'everbeat/%' and pid <> pg_backend_pid())
select count(*) as backends,
       (select count(*) from pg_locks where pid in (select pid from backend)) as locks,
       count(*) filter (where xact_start < clock_timestamp() - $1::bigint * interval '1 millisecond') as abandoned,
       pg_notification_queue_usage() as notification_queue
from backend
