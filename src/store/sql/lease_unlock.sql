-- lease_unlock: gives back every advisory lock of this session, however often it was taken
select pg_advisory_unlock_all() is null as unlocked
