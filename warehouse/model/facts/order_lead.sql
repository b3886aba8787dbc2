-- fact_order_lead: the lead that one order of the batch names.
-- inputs: line, a row of staging.conformed_order_lead
select line.lead_id
