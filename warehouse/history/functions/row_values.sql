-- audit.row_values(oid, text): SQL expression that casts a row of the table to an array of texts.
-- inputs: the catalog
-- It has the columns of the table at the time when its trigger fires, including columns that were added later.
create function audit.row_values(relation oid, prefix text) returns text language sql stable
as $$
    select format('array[%s]', string_agg(format('%s.%I::text', prefix, attname), ', ' order by attnum))
    from pg_catalog.pg_attribute where attrelid = relation and attnum > 0 and not attisdropped
$$
