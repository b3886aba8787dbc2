-- First load of the plain-SQL contender (the floor), after the mirrors were filled: keys, then the star.
set work_mem = '96MB';
set maintenance_work_mem = '256MB';

alter table raw.company add primary key (id);
alter table raw.customer add primary key (id);
alter table raw.category add primary key (id);
alter table raw.brand add primary key (id);
alter table raw.product add primary key (id);
alter table raw.inventory add primary key (product_id, distribution_center_id);
alter table raw.sales_order add primary key (id);
alter table raw.order_item add primary key (sales_order_id, line_number);
analyze raw.company, raw.customer, raw.product, raw.sales_order, raw.order_item;

insert into star.dim_company (company_id, cuit, name, country, valid_from, valid_to, is_current)
select id, cuit, name, country, '1900-01-01', '2100-01-01', true from raw.company;

insert into star.dim_customer (
    customer_id, document_number, name, username, email, birth_date, country, state, latitude, longitude,
    loyalty_tier, acquisition_source, valid_from, valid_to, is_current
)
select
    id, document_number, name, username, email, birth_date, country, state, latitude, longitude, loyalty_tier,
    acquisition_source, '1900-01-01', '2100-01-01', true
from raw.customer;

insert into star.dim_product (
    product_id, company_id, name, category, brand, price_default, price, currency, rating_average, review_count,
    sold_count, valid_from, valid_to, is_current
)
select
    product.id, product.company_id, product.name, category.name, brand.name, product.price_default, product.price,
    product.currency, product.rating_average, product.review_count, product.sold_count,
    '1900-01-01', '2100-01-01', true
from raw.product
left join raw.category on product.category_id = category.id
left join raw.brand on product.brand_id = brand.id;

alter table star.dim_company add primary key (company_key);
alter table star.dim_customer add primary key (customer_key);
alter table star.dim_product add primary key (product_key);
create unique index on star.dim_company (company_id) where is_current;
create unique index on star.dim_customer (customer_id) where is_current;
create unique index on star.dim_product (product_id) where is_current;
create unique index on star.dim_company (company_id, valid_from);
create unique index on star.dim_customer (customer_id, valid_from);
create unique index on star.dim_product (product_id, valid_from);
analyze star.dim_company, star.dim_customer, star.dim_product;

\set lines raw.order_item
\set select `cat lines.sql`
insert into star.fact_order_item :select;

alter table star.fact_order_item add primary key (order_id, line_number);
create index on star.fact_order_item using brin (ordered_at);
analyze star.fact_order_item;

insert into star.fact_inventory_day
select current_date, inventory.product_id, inventory.distribution_center_id, product.product_key, inventory.quantity
from raw.inventory inner join star.dim_product as product on inventory.product_id = product.product_id;

alter table star.fact_inventory_day add primary key (snapshot_date, product_id, distribution_center_id);
analyze star.fact_inventory_day;
