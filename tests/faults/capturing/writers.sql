-- Writers of the capture fault harness, inside the shop: many real transactions per call, so that thousands commit
-- each second. Every row tells in `cause` what kind of write touched it last; fault.gone tells it of keys that are gone.
-- Rows whose id is divisible by ten belong to the slow writers: quick ones never wait behind them.

create schema fault;

create table fault.gone (table_name text not null, row_key text not null, cause text not null);

do $$
declare
    captured regclass;
begin
    for captured in select oid::regclass from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r'
    loop
        execute format('alter table %s add column cause text', captured);
    end loop;
end
$$;

create function fault.quick_id(most bigint) returns bigint language sql volatile as
$$ select n + (n % 10 = 0)::int from (select (random() * greatest(most - 1, 0))::bigint + 1 as n) as drawn $$;

create function fault.last_order() returns bigint language sql volatile as
'select last_value from public.sales_order_id_seq';

-- How a write stamps its row: 'trigger' leaves that to the shop's trigger.
create function fault.stamp(how text, known timestamptz) returns timestamptz language sql volatile as $$
    select case how
        when 'tie' then date_trunc('second', clock_timestamp())
        when 'backdated' then now() - random() * interval '300 days'
        when 'null' then null
        else known
    end
$$;

create function fault.touch_member(why text, members bigint) returns integer language plpgsql as $$
declare
    touched integer;
begin
    case (random() * 3)::int
        when 0 then
            update public.company set name = 'Company ' || random(), cause = why, updated_at = fault.stamp(why, updated_at)
            where id = (select fault.quick_id(members / 50));
        when 1 then
            update public.product set price = 100 + (random() * 900)::int, cause = why,
                updated_at = fault.stamp(why, updated_at)
            where id = (select fault.quick_id(members / 5));
        else
            update public.customer set email = random() || '@example.com', cause = why,
                state = 'State ' || (random() * 30)::int, updated_at = fault.stamp(why, updated_at)
            where id = (select fault.quick_id(members));
    end case;
    get diagnostics touched = row_count;
    return touched;
end
$$;

create function fault.touch_line(why text) returns integer language plpgsql as $$
declare
    touched integer;
begin
    update public.order_item set quantity = 1 + (random() * 9)::int, cause = why,
        updated_at = fault.stamp(why, updated_at)
    where sales_order_id = (select fault.quick_id(fault.last_order()));
    get diagnostics touched = row_count;
    return touched;
end
$$;

create function fault.place_order(why text, members bigint) returns integer language plpgsql as $$
declare
    placed bigint;
begin
    insert into public.sales_order (customer_id, payment_method_id, status, ordered_at, cause)
    -- Some at the very time when what they name vanishes.
    values (
        1 + (random() * (members - 1))::int, 1, 'complete',
        now() - random() * case when random() < 0.1 then interval '10 seconds' else interval '300 days' end, why
    )
    returning id into placed;
    insert into public.order_item (
        sales_order_id, line_number, product_id, promotion_id, distribution_center_id, quantity, unit_price_default,
        unit_price, status, cause
    )
    select placed, line, 1 + (random() * (members / 5 - 1))::int, case when random() < 0.2 then 1 + (random() * 19)::int end,
        1, 1 + (random() * 9)::int, 80, 100, 'complete', why
    from generate_series(1, 1 + (random() * 2)::int) as line;
    return 1;
end
$$;

create function fault.remove(members bigint) returns integer language plpgsql as $$
declare
    removed integer;
begin
    case (random() * 5)::int
        when 0 then
            with gone as (delete from public.customer where id = (select fault.quick_id(members)) returning id)
            insert into fault.gone select 'customer', id, 'delete' from gone;
        when 1 then
            with gone as (delete from public.product where id = (select fault.quick_id(members / 5)) returning id)
            insert into fault.gone select 'product', id, 'delete' from gone;
        when 2 then
            with gone as (delete from public.sales_order where id = (select fault.quick_id(fault.last_order())) returning id)
            insert into fault.gone select 'sales_order', id, 'delete' from gone;
        else
            with gone as (
                delete from public.order_item where sales_order_id = (select fault.quick_id(fault.last_order()))
                returning sales_order_id, line_number
            )
            insert into fault.gone select 'order_item', sales_order_id || ',' || line_number, 'delete' from gone;
    end case;
    get diagnostics removed = row_count;
    return removed;
end
$$;

-- The same key again, with other values and the old stamp: in one transaction, or long after a delete.
create function fault.insert_again(members bigint) returns integer language plpgsql as $$
declare
    number bigint := fault.quick_id(members);
    stamp timestamptz := now() - random() * interval '300 days';
begin
    delete from public.customer where id = number returning updated_at into stamp;
    insert into public.customer (
        id, document_number, name, username, email, birth_date, country, state, cause, created_at, updated_at
    )
    values (
        number, number::text, 'Again ' || number, 'again', 'again@example.com', '1990-01-01', 'AR',
        'State ' || (random() * 30)::int, 'insert again', now(), stamp
    )
    on conflict (id) do nothing;
    return 1;
end
$$;

create function fault.change_key() returns integer language plpgsql as $$
declare
    line public.order_item;
begin
    select * into line from public.order_item
    where sales_order_id = (select fault.quick_id(fault.last_order())) limit 1 for update;
    if not found then
        return 0;
    end if;
    update public.order_item set line_number = line_number + 100, cause = 'key change'
    where sales_order_id = line.sales_order_id and line_number = line.line_number;
    insert into fault.gone values ('order_item', line.sales_order_id || ',' || line.line_number, 'key change');
    return 1;
end
$$;

create function fault.save_points(members bigint) returns integer language plpgsql as $$
declare
    touched integer := 0;
begin
    begin
        touched := fault.touch_member('undone', members);
        raise exception using errcode = 'FAULT';
    exception
        when sqlstate 'FAULT' then touched := 0;
    end;
    begin
        touched := fault.touch_member('savepoint', members);
    exception
        when others then raise;
    end;
    return touched;
end
$$;

create function fault.do(kind text, members bigint) returns integer language plpgsql as $$
begin
    case kind
        when 'order' then return fault.place_order(kind, members);
        when 'delete' then return fault.remove(members);
        when 'insert again' then return fault.insert_again(members);
        when 'key change' then return fault.change_key();
        when 'savepoint' then return fault.save_points(members);
        when 'trigger disabled' then perform set_config('session_replication_role', 'replica', true);
        else null;
    end case;
    if random() < 0.5 then
        return fault.touch_line(kind);
    end if;
    return fault.touch_member(kind, members);
end
$$;

-- Transactions one after another; hands back how many of each kind committed with something in them.
create procedure fault.write(transactions integer, members bigint, inout commits jsonb default '{}')
language plpgsql as $$
declare
    kinds constant text[] := array[
        'order', 'order', 'order', 'order', 'update', 'update', 'update', 'update', 'update', 'tie', 'backdated', 'null',
        'trigger disabled', 'delete', 'delete', 'insert again', 'key change', 'savepoint', 'savepoint', 'rollback'
    ];
    kind text;
    touched integer;
begin
    for n in 1..transactions loop
        kind := kinds[1 + floor(random() * cardinality(kinds))::int];
        touched := fault.do(kind, members);
        if kind = 'rollback' then
            rollback;
            continue;
        end if;
        commit;
        if touched > 0 then
            commits := jsonb_set(commits, array[kind], to_jsonb(coalesce((commits ->> kind)::int, 0) + 1));
        end if;
    end loop;
end
$$;

-- One row of the slow writers' own, that no other of them is holding.
create function fault.touch_slowly(why text) returns void language plpgsql as $$
begin
    if random() < 0.5 then
        update public.customer set loyalty_tier = (array['bronze', 'silver', 'gold'])[1 + floor(random() * 3)::int],
            email = random() || '@example.com', cause = why
        where id = (
            select id from public.customer where id % 10 = 0 and random() < 0.05 limit 1 for update skip locked
        );
    else
        update public.sales_order set status = (array['complete', 'shipped'])[1 + floor(random() * 2)::int], cause = why
        where id = (
            select id from public.sales_order
            where id % 10 = 0 and id >= random() * fault.last_order() order by id limit 1 for update skip locked
        );
    end if;
    insert into public.customer (document_number, name, username, email, birth_date, country, cause)
    values ('1', why, why, why || '@example.com', '1990-01-01', 'AR', why);
end
$$;

create function fault.fill_promotions() returns void language sql as $$
    insert into public.promotion (id, code, name, discount_share, starts_at, ends_at, cause, updated_at)
    select n, 'P' || n, 'Promotion ' || n, 0.1, '2026-01-01', '2026-12-31', 'truncate',
        case n % 3 when 0 then now() when 1 then now() - interval '100 days' end
    from generate_series(1, 20) as n
$$;

create function fault.fill_brands() returns void language sql as $$
    insert into public.brand (id, name, cause, updated_at) values (1, 'Bolt ' || random(), 'truncate', '2026-01-01')
$$;

-- The shop on its first day.
create procedure fault.open(members bigint) language plpgsql as $$
begin
    insert into public.company (id, cuit, name, country)
    select n, n::text, 'Company ' || n, 'AR' from generate_series(1, greatest(members / 50, 1)) as n;
    insert into public.category (id, name) values (1, 'Tools');
    perform fault.fill_brands();
    insert into public.product (id, company_id, category_id, brand_id, name, price_default, price)
    select n, 1 + n % greatest(members / 50, 1), 1, 1, 'Product ' || n, 80, 100
    from generate_series(1, greatest(members / 5, 1)) as n;
    insert into public.payment_method (id, name, kind) values (1, 'Visa', 'card');
    insert into public.distribution_center (id, name) values (1, 'Rosario');
    insert into public.customer (id, document_number, name, username, email, birth_date, country)
    select n, n::text, 'Customer ' || n, 'c' || n, n || '@example.com', '1990-01-01', 'AR'
    from generate_series(1, members) as n;
    perform setval('public.customer_id_seq', members * 10);
    perform fault.fill_promotions();
    perform fault.place_order('first', members) from generate_series(1, members / 2);
end
$$;
