-- audit.format_key_columns(oid, text, text): the columns of a table's primary key, each through the pattern of format().
-- inputs: the catalog
create function audit.format_key_columns(relation oid, pattern text, separator text) returns text
language plpgsql stable
as $body$
declare
    keys constant text := (
        select string_agg(format(pattern, attname), separator order by part.position)
        from pg_catalog.pg_index
        cross join unnest(indkey) with ordinality as part (attnum, position)
        inner join pg_catalog.pg_attribute on attrelid = indrelid and pg_attribute.attnum = part.attnum
        where indrelid = relation and indisprimary
    );
begin
    if keys is null then
        raise exception '% has no primary key: its changes can neither be logged nor undone.', relation::regclass
            using hint = 'docs/model.md names the key: alter table … add primary key (…).';
    end if;
    return keys;
end
$body$
