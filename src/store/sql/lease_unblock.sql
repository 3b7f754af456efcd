-- lease_unblock: ends the effect backend of a lease that this candidate may take but whose fence is held
-- Parameters as in lease_campaign: $1 role, $2 holder, $3 holds the lock, $4 $5 $6 seen unchanged for a TTL.
-- The backend's name is checked, since the process id may belong to somebody else by now.
select pg_terminate_backend(a.pid) as ended
from leader_lease l
join pg_stat_activity a on a.pid = l.effect_pid and a.usename = current_user
     and a.application_name = 'everbeat/effect/' || l.role
where l.role = $1::text and l.postmaster_start = pg_postmaster_start_time()
  and (l.holder is null or l.expires_at <= clock_timestamp()
       or ($3::boolean and l.lock_pid is not null and l.timeline = current_timeline())
       or l.holder = $2::uuid
       or (l.holder, l.epoch, l.renewed_at) = ($4::uuid, $5::bigint, $6::timestamptz))
