-- product: one row per product that changed, or whose category or brand did.
-- inputs: staging.shop_product_changed_keys (keys), raw.shop_product, raw.shop_category, raw.shop_brand
select
    product.id::text as product_id,
    product.company_id::text as company_id,
    product.name,
    category.name as category,
    brand.name as brand,
    product.price_default as price_default_amount,
    product.price as price_amount,
    product.currency,
    product.rating_average,
    product.review_count,
    product.sold_count,
    greatest(product.updated_at, category.updated_at, brand.updated_at) as changed_at
from staging.shop_product_changed_keys as changed
inner join raw.shop_product as product on changed.id = product.id
left join raw.shop_category as category on product.category_id = category.id and not category._is_deleted
left join raw.shop_brand as brand on product.brand_id = brand.id and not brand._is_deleted
where not product._is_deleted
