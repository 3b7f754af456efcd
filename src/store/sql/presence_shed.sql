-- presence_shed: this replica ($1) refused heartbeats since $2: silence of its devices proves nothing meanwhile
-- An interval that goes on is one row, for at most a minute; then the next row begins, so that the cap can count.
with extended as (
  update outages set ended_at = clock_timestamp()
  where id = (select max(id) from outages where replica = $1::uuid and ended_at > clock_timestamp() - interval '5 seconds')
    and ended_at <= clock_timestamp() and clock_timestamp() - started_at < interval '1 minute'
  returning 1)
insert into outages (started_at, ended_at, cause, replica)
select least($2::timestamptz, now.at), now.at, 'replica', $1::uuid
from (select clock_timestamp() as at) now
where not exists (select from extended)
