-- drill_effects: a page of what leaders did since a time, in the order of its numbers
select seq, role, timeline, epoch from leader_effects where at >= $1 and seq > $2 order by seq limit $3
