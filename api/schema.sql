-- Create what the order API needs in the shop besides the shop's own tables: idempotency keys, an index for the newest
-- orders, and the role that it acts as. Run by the owner of the shop's tables; can be run again at any time.
create table if not exists public.order_request (
    idempotency_key text not null,
    request_hash bytea not null,
    answer bytea,
    created_at timestamptz not null default now(),
    constraint pk_order_request primary key (idempotency_key)
);

create index if not exists ix_order_request_created_at on public.order_request (created_at);

comment on table public.order_request is
'Orders that were placed with an Idempotency-Key: one row per key, kept for 24 hours.';
comment on column public.order_request.idempotency_key is 'Key by which the client knows its request.';
comment on column public.order_request.request_hash is 'SHA-256 of what was ordered.';
comment on column public.order_request.answer is 'The first answer, JSON in UTF-8.';
comment on column public.order_request.created_at is 'When the order was placed.';

-- for lists of the newest orders; an order without ordered_at is listed by created_at
create index if not exists ix_sales_order_placed_at
on public.sales_order (coalesce(ordered_at, created_at), id);

do $$
begin
    if not exists (select from pg_roles where rolname = 'order_api') then
        create role order_api nologin;
    end if;
exception
    -- Another database of the same server may create it at the same moment; an owner who may not create roles does
    -- without it.
    when duplicate_object or unique_violation or insufficient_privilege then null;
end
$$;

do $$
begin
    if exists (select from pg_roles where rolname = 'order_api') then
        grant usage on schema public to order_api;
        grant select (id) on public.customer to order_api;
        grant select (id) on public.payment_method to order_api;
        grant select (id, price_default, price, currency) on public.product to order_api;
        grant select (id, discount_share, starts_at, ends_at) on public.promotion to order_api;
        grant select (product_id, distribution_center_id, quantity) on public.inventory to order_api;
        grant select, insert, update (status) on public.sales_order to order_api;
        grant select, insert, update (status, returned_at) on public.order_item to order_api;
        grant usage on sequence public.sales_order_id_seq to order_api;
        grant select, insert, update, delete on public.order_request to order_api;
    end if;
end
$$;
