-- drill_terminate_lease: ends the backend of the session that holds a duty's advisory lock; $1 role
select count(*) filter (where pg_terminate_backend(lock_pid)) as ended
from leader_lease where role = $1::text and lock_pid is not null
