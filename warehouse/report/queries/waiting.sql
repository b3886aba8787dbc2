-- how many rows and lines wait in quarantine.
-- inputs: audit.quarantine
select count(*) as waiting_count
from audit.quarantine as entry
where entry.resolved_at is null
