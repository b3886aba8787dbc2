-- company: one row per supplier that changed.
-- inputs: staging.northwind_company_changed_keys (keys), raw.northwind_suppliers
select
    supplier.supplier_id::text as company_id,
    supplier.company_name as name,
    supplier.country
from staging.northwind_company_changed_keys as changed
inner join raw.northwind_suppliers as supplier on changed.supplier_id = supplier.supplier_id
where not supplier._is_deleted
