-- fence_check: does this fence still hold?
select 1 as held from leader_epoch where role = $1::text and epoch = $2::bigint and timeline = $3::int
