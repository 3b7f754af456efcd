-- lease_renew: puts the end of the lease off; no row: deposed
-- $1 role, $2 holder, $3 epoch, $4 timeline, $5 TTL in ms, $6 does my session hold the advisory lock now
update leader_lease
set renewed_at = clock_timestamp(), expires_at = clock_timestamp() + $5::bigint * interval '1 millisecond',
    lock_pid = case when $6::boolean then pg_backend_pid() end, postmaster_start = pg_postmaster_start_time()
where role = $1::text and holder = $2::uuid and epoch = $3::bigint and timeline = $4::int
  and timeline = current_timeline()
returning expires_at
