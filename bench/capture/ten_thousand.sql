-- 10,000 changes of the shop, whatever its size: 1,000 customers and 1,000 products change, and 2,000 orders with 3 lines
-- each are added.
update customer set loyalty_tier = case loyalty_tier when 'gold' then 'silver' else 'gold' end where id <= 1000;

update product set price = price * 1.01 where id <= 1000;

with last_order as (
    select max(id) as id, max(ordered_at) as ordered_at from sales_order
),

added as (
    insert into sales_order (id, customer_id, payment_method_id, status, ordered_at)
    select last_order.id + number, number % 1000 + 1, 1, 'pending', last_order.ordered_at + number * interval '1 second'
    from last_order
    cross join generate_series(1, 2000) as number
    returning id
)

insert into order_item (
    sales_order_id, line_number, product_id, distribution_center_id, quantity, unit_price_default, unit_price,
    discount_amount, status
)
select added.id, line, product.id, 1, 1 + added.id % 4, product.price_default, product.price, 0, 'pending'
from added
cross join generate_series(1, 3) as line
inner join product on product.id = 1 + (added.id * 3 + line) % 1000;
