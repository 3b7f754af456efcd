-- lease_effect: writes this backend into the holder's row, before its first effect, and ends the one that stood there
with before as materialized (
  select l.effect_pid from leader_lease l where l.role = $1::text),
mine as (
  update leader_lease set effect_pid = pg_backend_pid()
  where role = $1::text and holder = $2::uuid and epoch = $3::bigint and timeline = $4::int
    and timeline = current_timeline()
  returning role)
select (select count(*) from mine) as held,
       (select count(pg_terminate_backend(a.pid))
        from before join mine on true
        join pg_stat_activity a on a.pid = before.effect_pid and a.usename = current_user
             and a.application_name = 'everbeat/effect/' || mine.role
        where a.pid <> pg_backend_pid()) as ended
