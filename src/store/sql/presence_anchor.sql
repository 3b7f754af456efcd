-- presence_anchor: the database's clock, read in the transaction that then judges ages by it
select clock_timestamp() as at
