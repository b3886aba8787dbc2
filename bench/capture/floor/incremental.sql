-- Next load of the floor, after the batches were filled with the rows that the cursor finds: mirrors, versions, facts.
set work_mem = '96MB';

begin;
analyze batch.customer, batch.product, batch.sales_order, batch.order_item;

insert into raw.company select * from batch.company
on conflict (id) do update set (cuit, name, country, updated_at)
= (excluded.cuit, excluded.name, excluded.country, excluded.updated_at);
insert into raw.customer select * from batch.customer
on conflict (id) do update set
(document_number, name, username, email, birth_date, country, state, latitude, longitude, loyalty_tier, updated_at)
= (
    excluded.document_number, excluded.name, excluded.username, excluded.email, excluded.birth_date, excluded.country,
    excluded.state, excluded.latitude, excluded.longitude, excluded.loyalty_tier, excluded.updated_at
);
insert into raw.category select * from batch.category
on conflict (id) do update set (name, updated_at) = (excluded.name, excluded.updated_at);
insert into raw.brand select * from batch.brand
on conflict (id) do update set (name, updated_at) = (excluded.name, excluded.updated_at);
insert into raw.product select * from batch.product
on conflict (id) do update set
(
    company_id, category_id, brand_id, name, price_default, price, currency, rating_average, review_count, sold_count,
    updated_at
)
= (
    excluded.company_id, excluded.category_id, excluded.brand_id, excluded.name, excluded.price_default,
    excluded.price, excluded.currency, excluded.rating_average, excluded.review_count, excluded.sold_count,
    excluded.updated_at
);
insert into raw.inventory select * from batch.inventory
on conflict (product_id, distribution_center_id) do update set (quantity, updated_at)
= (excluded.quantity, excluded.updated_at);
insert into raw.sales_order select * from batch.sales_order
on conflict (id) do update set (customer_id, payment_method_id, status, ordered_at, updated_at)
= (excluded.customer_id, excluded.payment_method_id, excluded.status, excluded.ordered_at, excluded.updated_at);
insert into raw.order_item select * from batch.order_item
on conflict (sales_order_id, line_number) do update set
(product_id, promotion_id, distribution_center_id, quantity, unit_price_default, unit_price, discount_amount, status,
returned_at, updated_at)
= (
    excluded.product_id, excluded.promotion_id, excluded.distribution_center_id, excluded.quantity,
    excluded.unit_price_default, excluded.unit_price, excluded.discount_amount, excluded.status, excluded.returned_at,
    excluded.updated_at
);

with closed as (
    update star.dim_customer as version set valid_to = changed.updated_at, is_current = false
    from batch.customer as changed
    where version.customer_id = changed.id and version.is_current
        and row(version.document_number, version.name, version.country, version.state, version.loyalty_tier)
        is distinct from row(changed.document_number, changed.name, changed.country, changed.state, changed.loyalty_tier)
    returning version.customer_id
)

insert into star.dim_customer (
    customer_id, document_number, name, username, email, birth_date, country, state, latitude, longitude,
    loyalty_tier, acquisition_source, valid_from, valid_to, is_current
)
select
    id, document_number, name, username, email, birth_date, country, state, latitude, longitude, loyalty_tier,
    acquisition_source, case when closed.customer_id is null then '1900-01-01' else updated_at end, '2100-01-01', true
from batch.customer
left join closed on batch.customer.id = closed.customer_id
where closed.customer_id is not null
    or not exists (select from star.dim_customer as known where known.customer_id = batch.customer.id);

with closed as (
    update star.dim_product as version set valid_to = changed.updated_at, is_current = false
    from batch.product as changed
    where version.product_id = changed.id and version.is_current
        and row(version.name, version.price_default, version.price, version.currency)
        is distinct from row(changed.name, changed.price_default, changed.price, changed.currency)
    returning version.product_id
)

insert into star.dim_product (
    product_id, company_id, name, category, brand, price_default, price, currency, rating_average, review_count,
    sold_count, valid_from, valid_to, is_current
)
select
    changed.id, changed.company_id, changed.name, category.name, brand.name, changed.price_default, changed.price,
    changed.currency, changed.rating_average, changed.review_count, changed.sold_count,
    case when closed.product_id is null then '1900-01-01' else changed.updated_at end,
    '2100-01-01', true
from batch.product as changed
left join closed on changed.id = closed.product_id
left join raw.category on changed.category_id = category.id
left join raw.brand on changed.brand_id = brand.id
where closed.product_id is not null
    or not exists (select from star.dim_product as known where known.product_id = changed.id);

\set lines batch.order_item
\set select `cat lines.sql`
insert into star.fact_order_item :select
on conflict (order_id, line_number) do update set
(ordered_at, ordered_date_key, customer_key, product_key, company_key, promotion_id, payment_method_id,
distribution_center_id, quantity, base_unit_price, list_unit_price, net_unit_price, gross_amount, discount_amount,
net_amount, profit_amount, currency, status, returned_at)
= (
    excluded.ordered_at, excluded.ordered_date_key, excluded.customer_key, excluded.product_key, excluded.company_key,
    excluded.promotion_id, excluded.payment_method_id, excluded.distribution_center_id, excluded.quantity,
    excluded.base_unit_price, excluded.list_unit_price, excluded.net_unit_price, excluded.gross_amount,
    excluded.discount_amount, excluded.net_amount, excluded.profit_amount, excluded.currency, excluded.status,
    excluded.returned_at
);

insert into star.fact_inventory_day
select current_date, changed.product_id, changed.distribution_center_id, product.product_key, changed.quantity
from batch.inventory as changed
inner join star.dim_product as product on changed.product_id = product.product_id and product.is_current
on conflict (snapshot_date, product_id, distribution_center_id) do update set quantity = excluded.quantity;
commit;
