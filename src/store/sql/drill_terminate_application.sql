-- drill_terminate_application: ends all backends that call themselves so; $1 application_name
select count(*) filter (where pg_terminate_backend(pid)) as ended
from pg_stat_activity where application_name = $1::text and pid <> pg_backend_pid()
