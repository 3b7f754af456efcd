-- drill_leases: the leases that are held now, and by whom
select role, holder, addr, epoch from leader_lease
where holder is not null and expires_at > clock_timestamp() order by role
