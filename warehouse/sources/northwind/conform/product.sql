-- product: one row per product that changed, or whose category did.
-- inputs: staging.northwind_product_changed_keys (keys), raw.northwind_products, raw.northwind_categories
select
    product.product_id::text as product_id,
    product.supplier_id::text as company_id,
    product.product_name as name,
    category.category_name as category,
    product.unit_price::numeric as price_amount,
    'USD' as currency
from staging.northwind_product_changed_keys as changed
inner join raw.northwind_products as product on changed.product_id = product.product_id
left join raw.northwind_categories as category
    on product.category_id = category.category_id and not category._is_deleted
where not product._is_deleted
