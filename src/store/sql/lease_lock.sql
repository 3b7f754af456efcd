-- lease_lock: the session's advisory lock for one duty, if it is free
select pg_try_advisory_lock(4711, hashtext($1::text)) as locked
