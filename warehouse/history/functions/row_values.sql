-- audit.row_values(oid, text): expression that makes a row of the table an array of texts.
-- inputs: the catalog
-- Made of the columns that a table has when its trigger fires: one that is added later is in the next image.
create function audit.row_values(relation oid, prefix text) returns text language sql stable
as $$
    select format('array[%s]', string_agg(format('%s.%I::text', prefix, attname), ', ' order by attnum))
    from pg_catalog.pg_attribute where attrelid = relation and attnum > 0 and not attisdropped
$$
