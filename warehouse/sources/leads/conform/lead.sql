-- lead: one row per listed lead that changed.
-- inputs: staging.leads_lead_changed_keys (keys), raw.leads_lead
select
    lead.lead_id,
    lead.name,
    lead.company_name,
    lower(btrim(lead.email)) as email,
    upper(btrim(lead.country)) as country,
    lead.interest,
    lower(btrim(lead.lead_source)) as lead_source,
    lead.record_timestamp as changed_at
from staging.leads_lead_changed_keys as changed
inner join raw.leads_lead as lead on changed.lead_id = lead.lead_id
where not lead._is_deleted
