-- customer: one row per customer that changed.
-- inputs: staging.shop_customer_changed_keys (keys), raw.shop_customer
select
    customer.id::text as customer_id,
    regexp_replace(upper(customer.document_number), '[[:space:][:punct:]]', '', 'g') as document_number,
    customer.name,
    customer.username,
    customer.email,
    customer.birth_date,
    customer.country,
    customer.state,
    customer.latitude,
    customer.longitude,
    customer.loyalty_tier,
    customer.acquisition_source,
    customer.updated_at as changed_at
from staging.shop_customer_changed_keys as changed
inner join raw.shop_customer as customer on changed.id = customer.id
where not customer._is_deleted
