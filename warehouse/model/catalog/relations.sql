-- one row per table and view that migrations make, with its comment, primary key and partitioning.
-- inputs: the catalog; mirrors and partitions are left out, since loads make them
select
    namespace.nspname as schema_name,
    relation.relname as relation_name,
    case relation.relkind
        when 'v' then 'view'
        when 'm' then 'stored view'
        else 'table'
    end as kind,
    obj_description(relation.oid, 'pg_class') as comment,
    coalesce(
        (
            select array_agg(attribute.attname::text order by array_position(key.conkey, attribute.attnum))
            from pg_constraint as key
            inner join pg_attribute as attribute
                on key.conrelid = attribute.attrelid and attribute.attnum = any(key.conkey)
            where key.conrelid = relation.oid and key.contype = 'p'
        ),
        '{}'
    ) as primary_key,
    case when relation.relkind = 'p' then pg_get_partkeydef(relation.oid) end as partitioned_by
from pg_class as relation
inner join pg_namespace as namespace on relation.relnamespace = namespace.oid
where
    namespace.nspname in ('dwh', 'mart', 'audit', 'staging')
    and relation.relkind in ('r', 'p', 'v', 'm')
    and not relation.relispartition
order by namespace.nspname, relation.relname
