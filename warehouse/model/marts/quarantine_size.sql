-- mart.quarantine_size: number of rows and lines in quarantine per source; one that breaks several rules counts once.
-- inputs: audit.quarantine
select
    entry.source,
    count(*) as waiting_count
from audit.quarantine as entry
where entry.resolved_at is null
group by entry.source
