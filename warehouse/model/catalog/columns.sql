-- one row per column of tables and views, with its type and comment.
-- inputs: the catalog
select
    namespace.nspname as schema_name,
    relation.relname as relation_name,
    attribute.attname as column_name,
    format_type(attribute.atttypid, attribute.atttypmod) as type,
    attribute.attnotnull as is_required,
    col_description(relation.oid, attribute.attnum) as comment
from pg_class as relation
inner join pg_namespace as namespace on relation.relnamespace = namespace.oid
inner join pg_attribute as attribute on relation.oid = attribute.attrelid
where
    namespace.nspname in ('dwh', 'mart', 'audit', 'staging')
    and relation.relkind in ('r', 'p', 'v', 'm')
    and not relation.relispartition
    and attribute.attnum > 0
    and not attribute.attisdropped
order by namespace.nspname, relation.relname, attribute.attnum
