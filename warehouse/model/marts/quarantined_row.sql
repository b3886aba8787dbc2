-- mart.quarantined_row: rows of sources that wait in quarantine: the star shows an older state of them, or none.
-- inputs: audit.quarantine
select
    entry.source as source_system,
    entry.entity,
    array_to_string(entry.row_key, ' ') as natural_key,
    entry.rules,
    entry.quarantined_at,
    entry.run_id,
    entry.quarantine_id
from audit.quarantine as entry
where entry.resolved_at is null and entry.row_key is not null
