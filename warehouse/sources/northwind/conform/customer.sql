-- customer: one row per customer that changed; Northwind's customers are companies.
-- inputs: staging.northwind_customer_changed_keys (keys), raw.northwind_customers
select
    customer.customer_id::text as customer_id,
    customer.company_name as name,
    customer.country,
    coalesce(customer.region, customer.city) as state
from staging.northwind_customer_changed_keys as changed
inner join raw.northwind_customers as customer on changed.customer_id = customer.customer_id
where not customer._is_deleted
