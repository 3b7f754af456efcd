-- Names that an enrollment token is for, as a glob; and which certificates operators were told of before their end.

-- `*` and `?` only: a regular expression of the caller's can keep the server busy. The release before this one reads
-- name_pattern, so the same is written there as a regular expression while both run.
alter table enrollment_tokens add column name_glob text check (name_glob ~ '^[a-z0-9._*?-]{1,64}$');

alter table credentials
  -- Near its end: 'announced' (there is an event), or 'succeeded' (a newer one takes its place). Null: not judged yet.
  add column expiry_notice text check (expiry_notice in ('announced', 'succeeded'));
create index credentials_expiring on credentials (not_after) where revoked_at is null and expiry_notice is null;
create index credentials_revoked on credentials (not_after) where revoked_at is not null;

grant select on credentials to everbeat_lease;
grant update (expiry_notice) on credentials to everbeat_lease;
