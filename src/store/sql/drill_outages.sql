-- drill_outages: a page of the outages that ended since a time
select id, started_at, ended_at, replica from outages where ended_at >= $1 and id > $2 order by id limit $3
