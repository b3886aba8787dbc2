-- company: one row per selling company that changed.
-- inputs: staging.shop_company_affected (keys), raw.shop_company
select
    company.id::text as company_id,
    company.cuit,
    company.name,
    company.country,
    company.updated_at as changed_at
from staging.shop_company_affected as affected
inner join raw.shop_company as company on affected.id = company.id
where not company._is_deleted
