-- lease_resign: gives the lease back; row and epoch stay
update leader_lease set holder = null, lock_pid = null, effect_pid = null
where role = $1::text and holder = $2::uuid and epoch = $3::bigint and timeline = $4::int
returning epoch
