-- mart.quarantine_by_rule: rows in quarantine per source, entity and rule; one that broke two counts in both.
-- inputs: audit.quarantine
select
    entry.source,
    entry.entity,
    broken.rule,
    count(*) as waiting_count,
    min(entry.quarantined_at) as oldest_at,
    max(entry.quarantined_at) as newest_at,
    max(entry.quarantine_id) as newest_quarantine_id
from audit.quarantine as entry
cross join unnest(entry.rules) as broken (rule)
where entry.resolved_at is null
group by entry.source, entry.entity, broken.rule
