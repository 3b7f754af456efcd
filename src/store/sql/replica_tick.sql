-- replica_tick: the replica's own row, written so that the answer proves that this primary still commits
insert into replicas (id, addr, version) values ($1, $2, $3)
on conflict (id) do update set seen_at = clock_timestamp()
returning current_timeline() as timeline
