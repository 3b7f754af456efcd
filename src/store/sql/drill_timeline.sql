-- drill_timeline: the timeline of this primary
select current_timeline() as timeline
