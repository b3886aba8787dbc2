-- One row per customer: fill in columns that were missing since the registration.
update public.customer as c
set
    birth_date = coalesce(c.birth_date, complete.birth_date),
    document_number = coalesce(c.document_number, complete.document_number),
    name = coalesce(c.name, complete.name)
from
    unnest(%(ids)s::bigint[], %(birth_dates)s::date[], %(document_numbers)s::text[], %(names)s::text[])
        as complete (id, birth_date, document_number, name)
where c.id = complete.id
