-- presence_watermark: this replica is here, and what it acknowledged before $4 (if not null) is in `presence`
-- Runs in every flush, so that each of them writes WAL and its commit waits for the standby.
insert into replicas as r (id, addr, version, started_at, seen_at, flushed_through)
values ($1::uuid, $2::text, $3::text, clock_timestamp(), clock_timestamp(), coalesce($4::timestamptz, clock_timestamp() - interval '1 hour'))
on conflict (id) do update set
  addr = excluded.addr, seen_at = clock_timestamp(),
  flushed_through = greatest(least(r.flushed_through, clock_timestamp()), $4::timestamptz)
