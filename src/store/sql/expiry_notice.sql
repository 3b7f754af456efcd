-- expiry_notice: judges certificates near their end, under the fence, and announces those without a successor
-- $1 role, $2 epoch, $3 timeline; $4 percent of a life that is near its end; $5 rows at most
-- One that has a successor is marked as well, so that each is looked at once; store/credentials.rs takes that mark back.
with fence as materialized (
  select role, epoch, timeline from leader_epoch
  where role = $1::text and epoch = $2::bigint and timeline = $3::int for share),
near as materialized (  -- one bound for all, for the index: no life is longer, but for those from before a shorter policy
  select now() + max(certificate_ttl_s) * $4::int / 100.0 * interval '1 second' as till from fleets),
due as materialized (
  select c.fingerprint, c.device_id, c.not_after, d.fleet_id, d.name
  from fence join credentials c on c.revoked_at is null and c.expiry_notice is null
                               and c.not_after > now() and c.not_after <= (select till from near)
  join devices d on d.id = c.device_id and d.state = 'active'
  where c.not_after - now() <= (c.not_after - c.not_before) * ($4::int / 100.0)
  order by c.not_after limit $5::bigint for update of c skip locked),
judged as materialized (
  select due.*, exists (select from credentials newer where newer.device_id = due.device_id and newer.revoked_at is null
                          and (newer.not_after, newer.fingerprint) > (due.not_after, due.fingerprint)) as succeeded
  from due),
marked as (
  update credentials c set expiry_notice = case when j.succeeded then 'succeeded' else 'announced' end
  from judged j where c.fingerprint = j.fingerprint returning 1),
announced as (
  insert into events (kind, fleet_id, device_id, detail)
  select 'certificate.expiring', fleet_id, device_id,
         jsonb_build_object('name', name, 'fingerprint', encode(fingerprint, 'hex'),
                            'not_after', to_char(not_after at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'))
  from judged where not succeeded order by not_after, device_id returning 1),
noted as (
  insert into leader_effects (seq, role, epoch, timeline, kind, rows)
  select nextval('leader_effect_seq'), fence.role, fence.epoch, fence.timeline, 'certificates.judged',
         (select count(*) from marked)::int
  from fence where (select count(*) from marked) > 0
  returning 1)
select (select count(*) from fence) as held, (select count(*) from marked) as judged,
       (select count(*) from announced) as announced, (select count(*) from noted) as noted
