-- audit.row_schema_id(oid): id of a table's present columns in audit.row_schema, to which new ones are added.
-- inputs: audit.row_schema
-- Logged rows are arrays of texts, which take a fifth of the time of jsonb, and half of its space.
create function audit.row_schema_id(relation oid) returns integer language plpgsql
as $body$
declare
    present constant text[] := array(
        select attname::text from pg_catalog.pg_attribute
        where attrelid = relation and attnum > 0 and not attisdropped order by attnum
    );
    known_id integer;
begin
    select row_schema_id into known_id from audit.row_schema where columns = present;
    if known_id is null then
        insert into audit.row_schema (columns) values (present) on conflict do nothing;
        select row_schema_id into known_id from audit.row_schema where columns = present;
    end if;
    return known_id;
end
$body$
