-- Facts of the order lines in :lines, joined to the dimension versions valid at order time.
select
    item.sales_order_id as order_id, item.line_number, sales_order.ordered_at,
    to_char(sales_order.ordered_at at time zone 'UTC', 'YYYYMMDD')::integer as ordered_date_key,
    coalesce(customer.customer_key, 0) as customer_key, coalesce(product.product_key, 0) as product_key,
    coalesce(company.company_key, 0) as company_key, item.promotion_id, sales_order.payment_method_id,
    item.distribution_center_id, item.quantity, item.unit_price_default as base_unit_price,
    item.unit_price as list_unit_price, item.unit_price - item.discount_amount / nullif(item.quantity, 0) as net_unit_price,
    item.quantity * item.unit_price as gross_amount, item.discount_amount,
    item.quantity * item.unit_price - item.discount_amount as net_amount,
    item.quantity * (item.unit_price - item.unit_price_default) - item.discount_amount as profit_amount,
    product.currency, item.status, item.returned_at
from :lines as item
inner join raw.sales_order on item.sales_order_id = sales_order.id
left join star.dim_customer as customer
    on sales_order.customer_id = customer.customer_id
    and sales_order.ordered_at >= customer.valid_from and sales_order.ordered_at < customer.valid_to
left join star.dim_product as product
    on item.product_id = product.product_id
    and sales_order.ordered_at >= product.valid_from and sales_order.ordered_at < product.valid_to
left join star.dim_company as company
    on product.company_id = company.company_id
    and sales_order.ordered_at >= company.valid_from and sales_order.ordered_at < company.valid_to
