-- Tables of the floor: mirrors, batches and a star with keys only; primary keys are created after the first load.
create schema raw;
create schema batch;
create schema star;

create table raw.company (id bigint, cuit text, name text, country text, created_at timestamptz, updated_at timestamptz);
create table raw.customer (
    id bigint, document_number text, name text, username text, email text, birth_date date, country text, state text,
    latitude numeric(9, 6), longitude numeric(9, 6), loyalty_tier text, acquisition_source text,
    created_at timestamptz, updated_at timestamptz
);
create table raw.category (id bigint, name text, created_at timestamptz, updated_at timestamptz);
create table raw.brand (id bigint, name text, created_at timestamptz, updated_at timestamptz);
create table raw.product (
    id bigint, company_id bigint, category_id bigint, brand_id bigint, name text, price_default numeric(14, 2),
    price numeric(14, 2), currency text, rating_average numeric(3, 2), review_count integer, sold_count integer,
    created_at timestamptz, updated_at timestamptz
);
create table raw.inventory (
    product_id bigint, distribution_center_id bigint, quantity integer, updated_at timestamptz
);
create table raw.sales_order (
    id bigint, customer_id bigint, payment_method_id bigint, status text, ordered_at timestamptz,
    created_at timestamptz, updated_at timestamptz
);
create table raw.order_item (
    sales_order_id bigint, line_number integer, product_id bigint, promotion_id bigint, distribution_center_id bigint,
    quantity integer, unit_price_default numeric(14, 2), unit_price numeric(14, 2), discount_amount numeric(14, 2),
    status text, returned_at timestamptz, created_at timestamptz, updated_at timestamptz
);

create unlogged table batch.company (like raw.company);
create unlogged table batch.customer (like raw.customer);
create unlogged table batch.category (like raw.category);
create unlogged table batch.brand (like raw.brand);
create unlogged table batch.product (like raw.product);
create unlogged table batch.inventory (like raw.inventory);
create unlogged table batch.sales_order (like raw.sales_order);
create unlogged table batch.order_item (like raw.order_item);

create table star.dim_company (
    company_key bigint generated always as identity, company_id bigint, cuit text, name text, country text,
    valid_from timestamptz, valid_to timestamptz, is_current boolean
);
create table star.dim_customer (
    customer_key bigint generated always as identity, customer_id bigint, document_number text, name text,
    username text, email text, birth_date date, country text, state text, latitude numeric(9, 6),
    longitude numeric(9, 6), loyalty_tier text, acquisition_source text,
    valid_from timestamptz, valid_to timestamptz, is_current boolean
);
create table star.dim_product (
    product_key bigint generated always as identity, product_id bigint, company_id bigint, name text, category text,
    brand text, price_default numeric(14, 2), price numeric(14, 2), currency text, rating_average numeric(3, 2),
    review_count integer, sold_count integer, valid_from timestamptz, valid_to timestamptz, is_current boolean
);
create table star.fact_order_item (
    order_id bigint, line_number integer, ordered_at timestamptz, ordered_date_key integer, customer_key bigint,
    product_key bigint, company_key bigint, promotion_id bigint, payment_method_id bigint,
    distribution_center_id bigint, quantity integer, base_unit_price numeric(18, 4), list_unit_price numeric(18, 4),
    net_unit_price numeric(18, 4), gross_amount numeric(18, 4), discount_amount numeric(18, 4),
    net_amount numeric(18, 4), profit_amount numeric(18, 4), currency text, status text, returned_at timestamptz
);
create table star.fact_inventory_day (
    snapshot_date date, product_id bigint, distribution_center_id bigint, product_key bigint, quantity integer
);
