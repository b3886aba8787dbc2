-- mart.quarantine_by_rule: rows in quarantine per source, entity and rule; a row that breaks two rules counts in both.
-- inputs: audit.quarantine
-- Many rows break the same set of rules: count them by set before unnesting the rules.
with waiting as (
    select
        entry.source,
        entry.entity,
        entry.rules,
        count(*) as waiting_count,
        min(entry.quarantined_at) as oldest_at,
        max(entry.quarantined_at) as newest_at,
        max(entry.quarantine_id) as newest_quarantine_id
    from audit.quarantine as entry
    where entry.resolved_at is null
    group by entry.source, entry.entity, entry.rules
)

select
    waiting.source,
    waiting.entity,
    broken.rule,
    sum(waiting.waiting_count)::bigint as waiting_count,
    min(waiting.oldest_at) as oldest_at,
    max(waiting.newest_at) as newest_at,
    max(waiting.newest_quarantine_id) as newest_quarantine_id
from waiting
cross join unnest(waiting.rules) as broken (rule)
group by waiting.source, waiting.entity, broken.rule
