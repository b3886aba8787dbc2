-- lead_conversion: one row per lead that changed, or whose customer or orders did.
-- inputs: staging.leads_lead_conversion_changed_keys (keys), raw.leads_lead, dwh.dim_customer,
--     dwh.fact_order_lead, dwh.fact_order_item
-- A lead is matched to the current customer with its e-mail, or else its name and country; to none if several match.
-- It converts by the first order that names it (lines of the source that takes precedence), or else by the first order
-- that the customer has placed since its creation. An order counts if any of its lines was not cancelled.
with lead as (
    select
        listed.lead_id,
        listed.created_at,
        listed.record_timestamp,
        lower(btrim(listed.email)) as email,
        lower(btrim(listed.name)) as name,
        upper(btrim(listed.country)) as country
    from staging.leads_lead_conversion_changed_keys as changed
    inner join raw.leads_lead as listed on changed.lead_id = listed.lead_id
    where not listed._is_deleted
),

present_customer as (
    select
        customer.source_system,
        customer.customer_id,
        lower(btrim(customer.email)) as email,
        lower(btrim(customer.name)) as name,
        upper(customer.country) as country
    from dwh.dim_customer as customer
    where customer.is_current and customer.customer_key <> 0
),

candidate as (
    select
        lead.lead_id,
        customer.source_system,
        customer.customer_id,
        'e-mail' as match_method,
        1.0 as match_confidence
    from lead
    inner join present_customer as customer on lead.email = customer.email
    where lead.email <> ''
    union all
    select
        lead.lead_id,
        customer.source_system,
        customer.customer_id,
        'name and country' as match_method,
        0.7 as match_confidence
    from lead
    inner join present_customer as customer on lead.name = customer.name and lead.country = customer.country
    where lead.name <> ''
),

-- Per lead, the number of customers found by its most reliable method, and one of them.
surest as (
    select distinct on (candidate.lead_id)
        candidate.lead_id,
        candidate.match_method,
        candidate.match_confidence,
        min(candidate.source_system) as source_system,
        min(candidate.customer_id) as customer_id,
        count(*) as customer_count
    from candidate
    group by candidate.lead_id, candidate.match_method, candidate.match_confidence
    order by candidate.lead_id asc, candidate.match_confidence desc
),

matched as (
    select
        surest.lead_id,
        surest.source_system,
        surest.customer_id,
        surest.match_method,
        surest.match_confidence
    from surest
    where surest.customer_count = 1
),

conversion as (
    select
        lead.lead_id,
        'named' as conversion_method,
        item.source_system,
        item.order_id,
        item.ordered_at
    from lead
    inner join dwh.fact_order_lead as named on lead.lead_id = named.lead_id
    inner join dwh.fact_order_item as item on named.order_id = item.order_id
    where item.status <> 'cancelled' and (
            item.source_system = named.source_system or not exists (
                select from dwh.fact_order_item as own
                where own.order_id = named.order_id and own.source_system = named.source_system
            )
        )
    union all
    select
        lead.lead_id,
        'matched' as conversion_method,
        item.source_system,
        item.order_id,
        item.ordered_at
    from lead
    inner join matched on lead.lead_id = matched.lead_id
    inner join dwh.dim_customer as version
        on matched.customer_id = version.customer_id and matched.source_system = version.source_system
    inner join dwh.fact_order_item as item on version.customer_key = item.customer_key
    where item.status <> 'cancelled' and item.ordered_at >= lead.created_at
),

first_conversion as (
    select distinct on (conversion.lead_id)
        conversion.lead_id,
        conversion.conversion_method,
        conversion.source_system,
        conversion.order_id,
        conversion.ordered_at
    from conversion
    order by
        conversion.lead_id asc, conversion.conversion_method desc, conversion.ordered_at asc,
        conversion.source_system asc, conversion.order_id asc
)

select
    lead.lead_id,
    lead.created_at,
    matched.customer_id,
    matched.source_system as customer_source_system,
    case
        when matched.customer_id is not null then matched.match_method
        when surest.lead_id is not null then 'ambiguous'
        else 'none'
    end as match_method,
    matched.match_confidence,
    converted.conversion_method,
    converted.source_system as order_source_system,
    converted.order_id,
    converted.ordered_at as converted_at,
    lead.record_timestamp as changed_at
from lead
left join surest on lead.lead_id = surest.lead_id
left join matched on lead.lead_id = matched.lead_id
left join first_conversion as converted on lead.lead_id = converted.lead_id
