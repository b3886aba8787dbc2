-- company: one row per listed company that changed; its tax number is its key.
-- inputs: staging.companies_company_changed_keys (keys), raw.companies_company
select
    company.cuit as company_id,
    regexp_replace(upper(company.cuit), '[[:space:][:punct:]]', '', 'g') as cuit,
    company.name,
    upper(company.country) as country,
    coalesce(company.updated_at, company.record_timestamp) as changed_at
from staging.companies_company_changed_keys as changed
inner join raw.companies_company as company on changed.cuit = company.cuit
where not company._is_deleted
