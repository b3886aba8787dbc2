-- A day of the shop for the benchmark: 2% of customers and products change, and new orders are added, :share of the
-- existing ones, with three items each.
update customer set loyalty_tier = case loyalty_tier when 'gold' then 'silver' else 'gold' end, state = 'Salta ' || :day::text
where id % 50 = :day % 50;

update product set price = price * 1.01 where id % 50 = :day % 50;

with last_order as (
    select max(id) as id, max(ordered_at) as ordered_at, count(*) as orders from sales_order
),

added as (
    insert into sales_order (id, customer_id, payment_method_id, status, ordered_at)
    select
        last_order.id + number, sales_order.customer_id, sales_order.payment_method_id, 'pending',
        last_order.ordered_at + number * interval '10 ms'
    from last_order
    cross join generate_series(1, (last_order.orders * :share)::integer) as number
    inner join sales_order on sales_order.id = 1 + (number * 7919::bigint) % last_order.orders
    returning id
)

insert into order_item (
    sales_order_id, line_number, product_id, distribution_center_id, quantity, unit_price_default, unit_price,
    discount_amount, status
)
select
    added.id, line, product.id, 1 + (added.id + line) % 10, 1 + (added.id + line) % 4, product.price_default,
    product.price, 0, 'pending'
from added
cross join generate_series(1, 3) as line
inner join product on product.id = 1 + ((added.id * 3 + line) * 104729::bigint) % 5000;

analyze sales_order;
