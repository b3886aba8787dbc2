-- One row per company: add '& Asoc.' to its name, or remove it.
update public.company
set
    name = case
        when name like '%% & Asoc.' then regexp_replace(name, ' & Asoc\.$', '')
        else name || ' & Asoc.'
    end
where id = any(%(ids)s::bigint[])
