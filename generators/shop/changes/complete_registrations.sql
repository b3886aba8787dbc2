-- One row per customer: what the registration lacked is filled in.
update public.customer as c
set
    birth_date = coalesce(c.birth_date, whole.birth_date),
    document_number = coalesce(c.document_number, whole.document_number),
    name = coalesce(c.name, whole.name)
from
    unnest(%(ids)s::bigint[], %(birth_dates)s::date[], %(document_numbers)s::text[], %(names)s::text[])
        as whole (id, birth_date, document_number, name)
where c.id = whole.id
