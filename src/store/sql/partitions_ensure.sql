-- partitions_ensure: makes the day partitions from yesterday (UTC, the database's clock) on; null: deposed
select ensure_readings_partitions($1::text, $2::bigint, $3::int,
                                  (clock_timestamp() at time zone 'UTC')::date - 1, $4::int) as made
