-- company: one row per selling company that changed.
-- inputs: staging.shop_company_changed_keys (keys), raw.shop_company
select
    company.id::text as company_id,
    regexp_replace(upper(company.cuit), '[[:space:][:punct:]]', '', 'g') as cuit,
    company.name,
    company.country,
    company.updated_at as changed_at
from staging.shop_company_changed_keys as changed
inner join raw.shop_company as company on changed.id = company.id
where not company._is_deleted
