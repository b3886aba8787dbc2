-- mart.customer_masked: one row per customer as it is now, without what tells who it is.
-- inputs: dwh.dim_customer
select
    customer.source_system,
    customer.customer_id,
    left(customer.name, 1) || '***' as name_masked,
    regexp_replace(customer.email, '^.*@', '***@') as email_masked,
    '***' || right(customer.document_number, 2) as document_number_masked,
    date_trunc('year', customer.birth_date::timestamp)::date as birth_year_date,
    customer.country,
    customer.state,
    customer.loyalty_tier,
    customer.acquisition_source
from dwh.dim_customer as customer
where customer.is_current and customer.customer_key <> 0
