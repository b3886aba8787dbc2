-- mart.leads: one row per lead, with the customer that it is matched to and the order that it converted by.
-- inputs: dwh.fact_lead, dwh.dim_lead
select
    fact.source_system,
    fact.lead_id,
    lead.name,
    lead.email,
    lead.company_name,
    lead.country,
    lead.interest,
    lead.lead_source,
    fact.created_at,
    mart.local_date(fact.created_at) as created_date,
    fact.match_method,
    fact.match_confidence,
    fact.conversion_count = 1 as has_converted,
    fact.conversion_method,
    fact.order_source_system,
    fact.order_id,
    fact.converted_at,
    fact.days_to_conversion,
    fact.lead_key,
    fact.customer_key
from dwh.fact_lead as fact
inner join dwh.dim_lead as lead on fact.lead_key = lead.lead_key
