-- number of rows and lines in quarantine.
-- inputs: audit.quarantine
select count(*) as quarantined_count
from audit.quarantine as entry
where entry.resolved_at is null
