-- readings_partition: makes the partition of one day (UTC); true: it was not there
select ensure_readings_partition($1::date) as made
