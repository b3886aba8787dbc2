-- One row per company: it becomes a partnership, or stops being one.
update public.company
set
    name = case
        when name like '%% & Asoc.' then regexp_replace(name, ' & Asoc\.$', '')
        else name || ' & Asoc.'
    end
where id = any(%(ids)s::bigint[])
