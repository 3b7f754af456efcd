-- retention_clock: the database's clock
select clock_timestamp() as now
