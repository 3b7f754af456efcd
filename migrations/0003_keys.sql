-- The life of keys: next, active, retiring, retired. One that is `retiring` signs no more and is still accepted.
alter table token_keys drop constraint token_keys_state_check;
alter table token_keys add constraint token_keys_state_check check (state in ('next', 'active', 'retiring', 'retired'));
alter table token_keys add column state_since timestamptz not null default clock_timestamp();
create unique index token_keys_next on token_keys (audience) where state = 'next';
create unique index token_keys_active on token_keys (audience) where state = 'active';

alter table ca_certificates drop constraint ca_certificates_state_check;
alter table ca_certificates add constraint ca_certificates_state_check check (state in ('next', 'active', 'retiring', 'retired'));
alter table ca_certificates add column state_since timestamptz not null default clock_timestamp();
create unique index ca_certificates_next on ca_certificates (kind) where state = 'next';
create unique index ca_certificates_active on ca_certificates (kind) where state = 'active';

-- Which CA signed it: the fingerprint of its certificate. Null: the first issuing CA of this database, which was the
-- only one while rows were written without it.
alter table credentials add column issuer bytea;

-- Which key signed it. Null: one that was made before this was written down.
alter table operator_tokens add column kid text;

-- Both kinds of keys that replicas sign with, in one form.
create view signing_keys as
  select audience as role, kid as key, state, state_since, created_at from token_keys
  union all
  select 'issuing', encode(fingerprint, 'hex'), state, state_since, created_at from ca_certificates where kind = 'issuing';

-- Which replica can sign with which key, trusts it and tells clients of it. Written by the replica itself; a row counts
-- while `replicas.seen_at` says that the replica lives. No foreign key: the row of a new replica may come later.
create table replica_keys (
  replica uuid not null,
  key text not null,                                                    -- signing_keys.key
  confirmed_at timestamptz not null default clock_timestamp(),
  primary key (replica, key));

grant select on signing_keys to everbeat_control;
grant select, insert, update, delete on replica_keys to everbeat_control;
grant select on ca_certificates to everbeat_lease;
