-- mart.lead_source_conversion: one row per source of leads.
-- inputs: mart.leads
select
    coalesce(leads.lead_source, 'unknown') as lead_source,
    count(*) as lead_count,
    count(*) filter (where leads.match_confidence is not null) as matched_lead_count,
    count(*) filter (where leads.has_converted) as converted_lead_count,
    count(*) filter (where leads.has_converted) / count(*)::numeric as lead_conversion_rate,
    avg(leads.days_to_conversion) filter (where leads.conversion_method = 'matched') as average_days_to_conversion
from mart.leads as leads
group by coalesce(leads.lead_source, 'unknown')
