-- Everbeat's schema: who exists, who may call, what was said, who leads.
-- Every large table's key begins with device_id, and readings have no foreign keys, so that they can be sharded.

-- Roles of the planes. They are cluster-wide, so a second database in the same cluster finds them there.
do $$
declare r text;
begin
  foreach r in array array['everbeat_control', 'everbeat_fleet', 'everbeat_lease'] loop
    if not exists (select from pg_roles where rolname = r) then
      begin
        execute format('create role %I nologin', r);
      exception when duplicate_object or unique_violation then null;  -- another migration was faster
      end;
    end if;
  end loop;
end $$;

-- The timeline of this primary. Fails on a standby, so whoever asks there fails closed.
create function current_timeline() returns int language sql volatile
  as $$ select ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int $$;

-- ---------------------------------------------------------------- fleets and devices
create table fleets (
  id uuid primary key,
  name text not null unique check (name ~ '^[a-z0-9][a-z0-9._-]{0,62}$'),
  heartbeat_interval_ms bigint not null default 30000 check (heartbeat_interval_ms between 1000 and 86400000),
  heartbeat_interval_max_ms bigint not null default 86400000 check (heartbeat_interval_max_ms between 1000 and 2592000000),
  certificate_ttl_s bigint not null default 7776000 check (certificate_ttl_s between 60 and 315360000),
  renew_expired_within_s bigint not null default 2592000 check (renew_expired_within_s >= 0),
  row_version bigint not null default 1,
  created_at timestamptz not null default clock_timestamp());

create table devices (
  id uuid primary key,
  fleet_id uuid not null references fleets,
  name text not null check (name ~ '^[a-z0-9][a-z0-9._-]{0,62}$'),
  state text not null default 'active' check (state in ('active', 'suspended', 'decommissioned')),
  tags text[] not null default '{}',
  attributes jsonb not null default '{}',
  row_version bigint not null default 1,
  created_at timestamptz not null default clock_timestamp(),
  updated_at timestamptz not null default clock_timestamp(),
  constraint devices_fleet_id_name_key unique (fleet_id, name));

-- ---------------------------------------------------------------- credentials
create table credentials (
  fingerprint bytea primary key check (length(fingerprint) = 32),       -- SHA-256 of the certificate's DER
  device_id uuid not null references devices,
  spki_sha256 bytea not null check (length(spki_sha256) = 32),          -- SHA-256 of the public key's DER
  parent bytea references credentials,                                  -- the credential that asked for this one
  enrollment_token_id text,                                             -- or the token that did
  serial bytea not null,
  certificate_pem text not null,
  not_before timestamptz not null,
  not_after timestamptz not null,
  revoked_at timestamptz,
  revoke_reason text,
  created_at timestamptz not null default clock_timestamp());
create index credentials_device on credentials (device_id, created_at);
create index credentials_not_after on credentials (not_after) where revoked_at is null;
create index credentials_spki on credentials (spki_sha256);
create index credentials_parent on credentials (parent) where parent is not null;

create table ca_certificates (
  fingerprint bytea primary key,
  kind text not null check (kind in ('root', 'issuing')),
  state text not null check (state in ('next', 'active', 'retired')),
  certificate_pem text not null,
  created_at timestamptz not null default clock_timestamp());

create table token_keys (
  kid text primary key,
  audience text not null check (audience in ('device', 'admin')),
  algorithm text not null check (algorithm in ('ES256')),
  public_key_pem text not null,
  state text not null check (state in ('next', 'active', 'retired')),
  created_at timestamptz not null default clock_timestamp());

create table enrollment_tokens (
  id text primary key check (id ~ '^[a-z0-9]{8,32}$'),
  secret_sha256 bytea not null check (length(secret_sha256) = 32),
  fleet_id uuid not null references fleets,
  name_pattern text,                                                    -- a regular expression, or any name
  uses_max int not null default 1 check (uses_max between 1 and 1000000),
  uses int not null default 0 check (uses between 0 and uses_max),
  expires_at timestamptz not null,
  revoked_at timestamptz,
  created_by text not null,
  created_at timestamptz not null default clock_timestamp());

-- ---------------------------------------------------------------- operators
create table operators (
  id uuid primary key,
  subject text not null unique check (length(subject) between 1 and 200),
  session_version int not null default 1,
  disabled_at timestamptz,
  created_at timestamptz not null default clock_timestamp());

create table operator_roles (
  operator_id uuid not null references operators,
  fleet_id uuid references fleets,                                      -- null: every fleet
  role text not null check (role in ('viewer', 'operator', 'admin')),
  constraint operator_roles_key unique nulls not distinct (operator_id, fleet_id));

create table operator_tokens (
  jti uuid primary key,
  operator_id uuid not null references operators,
  session_version int not null,
  expires_at timestamptz not null,
  revoked_at timestamptz,
  created_at timestamptz not null default clock_timestamp());

-- ---------------------------------------------------------------- the change log (cache coherence)
-- Rows are drawn before their commit, so `id` order is not commit order: readers go by xid (design: caches).
create table changes (
  id bigint generated always as identity primary key,
  xid xid8 not null default pg_current_xact_id(),
  kind text not null check (kind in ('device', 'credential', 'fleet', 'operator', 'operator_token', 'enrollment_token', 'token_key', 'ca')),
  key text not null,                                                    -- the row's key as text; bytea as hex
  at timestamptz not null default clock_timestamp());
create index changes_xid on changes (xid);

-- ---------------------------------------------------------------- events
create table events (
  id bigint generated always as identity primary key,
  xid xid8 not null default pg_current_xact_id(),
  at timestamptz not null default clock_timestamp(),
  kind text not null,                                                   -- device.online, device.suspect, device.offline, device.enrolled, …
  fleet_id uuid,
  device_id uuid,
  status_seq bigint,                                                    -- per device, for presence changes
  cause text,
  detail jsonb not null default '{}');
create index events_xid on events (xid, id);
create index events_device on events (device_id, id) where device_id is not null;

-- One row: the last event, in (xid, id) order, that retention has dropped. A cursor before it has missed something.
create table event_floor (
  one boolean primary key default true check (one),
  xid xid8 not null default '0',
  id bigint not null default 0);
insert into event_floor default values;

create table idempotency_keys (
  caller text not null,
  route text not null,
  key text not null check (length(key) between 1 and 255),
  request_sha256 bytea not null,
  status int not null,
  resource text not null,                                               -- id of what was created
  created_at timestamptz not null default clock_timestamp(),
  primary key (caller, route, key));
create index idempotency_keys_created_at on idempotency_keys (created_at);

-- ---------------------------------------------------------------- replicas, ticks, outages
create table replicas (
  id uuid primary key,
  addr text not null,
  version text not null,
  started_at timestamptz not null default clock_timestamp(),
  seen_at timestamptz not null default clock_timestamp(),
  flushed_through timestamptz not null default clock_timestamp());      -- every contact acknowledged before this is in `presence`

-- One row: the last moment at which the write path was seen to work. Written by every replica, each second.
create table tick (
  one boolean primary key default true check (one),
  at timestamptz not null,
  timeline int not null,
  postmaster_start timestamptz not null,
  replica uuid);
-- A row to lock from the beginning; timeline 0 says that nobody has ticked yet.
insert into tick (at, timeline, postmaster_start) values (clock_timestamp(), 0, pg_postmaster_start_time());

-- Intervals in which silence proves nothing, because the service could not have heard.
create table outages (
  id bigint generated always as identity primary key,
  started_at timestamptz not null,
  ended_at timestamptz not null check (ended_at >= started_at),
  cause text not null check (cause in ('gap', 'timeline', 'restart', 'start', 'replica')),
  replica uuid,                                                         -- null: everybody
  recorded_at timestamptz not null default clock_timestamp());
create index outages_ended on outages (ended_at);

-- ---------------------------------------------------------------- leases
create table leader_lease (
  role text primary key, holder uuid, epoch bigint not null, timeline int not null,
  postmaster_start timestamptz not null, lock_pid int, effect_pid int,
  acquired_at timestamptz not null, renewed_at timestamptz not null, expires_at timestamptz not null, addr text not null);
create table leader_epoch (role text primary key, epoch bigint not null, timeline int not null);

-- What leaders did, with the fence they did it under; `seq` is drawn under the fence, so order can be proved.
create sequence leader_effect_seq;
create table leader_effects (
  seq bigint primary key,
  role text not null,
  epoch bigint not null,
  timeline int not null,
  at timestamptz not null default clock_timestamp(),
  kind text not null,
  rows int not null);
create index leader_effects_at on leader_effects (at);
