-- wal_write: makes a transaction that changed nothing write WAL, so that its commit waits for the standby
select pg_logical_emit_message(true, 'everbeat', '')
