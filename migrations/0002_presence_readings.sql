-- Heartbeats: narrow, no secondary index, room on each page, so that updates stay HOT.
create table presence (
  device_id uuid primary key,
  state smallint not null default 0 check (state between 0 and 3),      -- 0 never_seen, 1 online, 2 suspect, 3 offline
  cause smallint not null default 0,                                    -- see domain::presence::Cause
  state_since timestamptz not null default clock_timestamp(),
  last_seen timestamptz,                                                -- on the database's clock
  promise_ms bigint not null,                                           -- the longest silence that we agreed to call normal
  promised_until timestamptz,                                           -- a planned sleep: silence before this is agreed upon
  hb_seq bigint not null default 0,                                     -- counted by the database: for compare-and-set only
  status_seq bigint not null default 0,                                 -- grows with each change of state
  replica uuid,                                                         -- who heard the device last
  device_seq bigint,                                                    -- the device's own counter: evidence, it resets at reboot
  device_status text check (length(device_status) <= 256)               -- what the device said of itself last
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);

-- One row per reading. `digest` is the reading's identity within (device, microsecond).
create table readings (
  device_id uuid not null,
  ts timestamptz not null,
  digest bigint not null,
  content bigint not null,                                              -- digest of the values: tells a duplicate from a conflict
  received_at timestamptz not null default clock_timestamp(),
  "values" jsonb not null,
  primary key (device_id, ts, digest)
) partition by range (ts);

grant usage on schema public to everbeat_control, everbeat_fleet, everbeat_lease;
grant select, insert, update, delete on all tables in schema public to everbeat_control;
grant usage on all sequences in schema public to everbeat_control;
revoke update, delete on readings from everbeat_control;

grant select on fleets, devices, credentials, replicas, tick, outages, presence, readings, events, leader_epoch to everbeat_fleet;
grant insert, update on presence, replicas, tick, outages to everbeat_fleet;
grant insert on readings, events, leader_effects to everbeat_fleet;
grant usage on all sequences in schema public to everbeat_fleet;

grant select, insert, update on leader_lease, leader_epoch to everbeat_lease;
grant select on changes, token_keys, tick, replicas, outages, presence, devices, fleets, events to everbeat_lease;
grant insert, update on tick, replicas, presence to everbeat_lease;
grant insert on events, outages, leader_effects to everbeat_lease;
grant select on leader_effects, idempotency_keys to everbeat_lease;
grant select, update on event_floor to everbeat_lease;
grant delete on changes, events, leader_effects, outages, replicas, idempotency_keys to everbeat_lease;
grant usage on all sequences in schema public to everbeat_lease;

-- Whoever acknowledges a commit looks at pg_stat_replication afterwards: which standby has it.
grant pg_read_all_stats to everbeat_control, everbeat_fleet, everbeat_lease;

-- ---------------------------------------------------------------- partitions of readings, by day (UTC)
-- `readings` belongs to a role of its own: the duty that makes and drops partitions is a member of it,
-- and ingest may only call the function below.
do $$
begin
  if not exists (select from pg_roles where rolname = 'everbeat_partitions') then
    begin
      create role everbeat_partitions nologin;
    exception when duplicate_object or unique_violation then null;
    end;
  end if;
  execute format('grant everbeat_partitions to %I', current_user);
  grant everbeat_partitions to everbeat_lease;
end $$;
grant usage, create on schema public to everbeat_partitions;
grant select, update on leader_epoch to everbeat_partitions;
grant insert on leader_effects to everbeat_partitions;
grant usage on sequence leader_effect_seq to everbeat_partitions;
alter table readings owner to everbeat_partitions;
grant select on readings to everbeat_control;
grant select, insert on readings to everbeat_fleet;

-- Makes the partition of one day; true when it was made now. CREATE … PARTITION OF would wait behind open inserts
-- and block all others; a table of its own that is attached blocks nobody. Callers are outside ingest transactions.
create function ensure_readings_partition(day date) returns boolean
language plpgsql security definer set search_path = pg_catalog, public set timezone = 'UTC' as $$
declare
  part text := 'readings_' || to_char(day, 'YYYYMMDD');
begin
  perform pg_advisory_xact_lock(4712, hashtext(part));
  if exists (select from pg_inherits i join pg_class c on c.oid = i.inhrelid
             where i.inhparent = 'public.readings'::regclass and c.relname = part) then
    return false;
  end if;
  execute format('create table if not exists public.%I (like public.readings including all)', part);
  execute format('alter table public.%I add constraint bounds check (ts >= %L and ts < %L)', part, day::timestamptz, (day + 1)::timestamptz);
  execute format('alter table public.readings attach partition public.%I for values from (%L) to (%L)', part, day::timestamptz, (day + 1)::timestamptz);
  execute format('alter table public.%I drop constraint bounds', part);
  return true;
end $$;
alter function ensure_readings_partition(date) owner to everbeat_partitions;
revoke execute on function ensure_readings_partition(date) from public;
grant execute on function ensure_readings_partition(date) to everbeat_fleet, everbeat_lease;

-- The leader's form: the fence is taken first, in the same call. NULL: deposed. Otherwise how many were made.
create function ensure_readings_partitions(fence_role text, fence_epoch bigint, fence_timeline int, first date, days int) returns int
language plpgsql security definer set search_path = pg_catalog, public set timezone = 'UTC' as $$
declare made int := 0;
begin
  perform 1 from public.leader_epoch where role = fence_role and epoch = fence_epoch and timeline = fence_timeline for share;
  if not found then
    return null;
  end if;
  for i in 0 .. days - 1 loop
    if public.ensure_readings_partition(first + i) then
      made := made + 1;
    end if;
  end loop;
  if made > 0 then
    insert into public.leader_effects (seq, role, epoch, timeline, kind, rows)
    values (nextval('public.leader_effect_seq'), fence_role, fence_epoch, fence_timeline, 'partitions.made', made);
  end if;
  return made;
end $$;
alter function ensure_readings_partitions(text, bigint, int, date, int) owner to everbeat_partitions;
revoke execute on function ensure_readings_partitions(text, bigint, int, date, int) from public;
grant execute on function ensure_readings_partitions(text, bigint, int, date, int) to everbeat_lease;

-- The check of the schema at start. (The table is sqlx's; it is missing where the files are applied by hand.)
do $$
begin
  if to_regclass('public._sqlx_migrations') is not null then
    grant select on _sqlx_migrations to everbeat_control;
  end if;
end $$;
