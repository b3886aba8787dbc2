-- fact_lead: measures and attributes of one lead of the batch.
-- inputs: line, a row of staging.conformed_lead_conversion
select
    (line.order_id is not null)::integer as conversion_count,
    extract(epoch from line.converted_at - line.created_at) / 86400 as days_to_conversion,
    line.match_method,
    line.match_confidence,
    line.conversion_method,
    line.order_source_system,
    line.order_id,
    line.converted_at
