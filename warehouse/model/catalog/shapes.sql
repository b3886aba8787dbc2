-- one row per column, constraint, index and partitioning of each table in dwh, mart and staging, and of temporary tables.
-- inputs: the catalog; partitions are left out
with relation as (
    select
        class.oid,
        case when class.relpersistence = 't' then 'pg_temp' else namespace.nspname end as schema_name,
        class.relname as table_name
    from pg_class as class
    inner join pg_namespace as namespace on class.relnamespace = namespace.oid
    where
        class.relkind in ('r', 'p')
        and not class.relispartition
        and (namespace.nspname in ('dwh', 'mart', 'staging') or namespace.oid = pg_my_temp_schema())
)

select
    relation.schema_name,
    relation.table_name,
    'table' as kind,
    '' as name,
    coalesce('partition by ' || lower(pg_get_partkeydef(relation.oid)), '') as definition,
    false as is_required,
    null as default_value,
    obj_description(relation.oid, 'pg_class') as comment
from relation
union all
select
    relation.schema_name,
    relation.table_name,
    'column' as kind,
    attribute.attname as name,
    format_type(attribute.atttypid, attribute.atttypmod) as definition,
    attribute.attnotnull as is_required,
    case
        when attribute.attidentity <> '' then 'identity'
        else pg_get_expr(value.adbin, value.adrelid)
    end as default_value,
    col_description(relation.oid, attribute.attnum) as comment
from relation
inner join pg_attribute as attribute on relation.oid = attribute.attrelid
left join pg_attrdef as value on attribute.attrelid = value.adrelid and attribute.attnum = value.adnum
where attribute.attnum > 0 and not attribute.attisdropped
union all
select
    relation.schema_name,
    relation.table_name,
    'constraint' as kind,
    constrained.conname as name,
    pg_get_constraintdef(constrained.oid) as definition,
    false as is_required,
    null as default_value,
    null as comment
from relation
inner join pg_constraint as constrained on relation.oid = constrained.conrelid
where
    constrained.contype <> 'n'
    -- Skip foreign keys that are not enforced: they follow from the declared references, and need PostgreSQL 18.
    and coalesce(to_jsonb(constrained) ->> 'conenforced', 'true') = 'true'
union all
select
    relation.schema_name,
    relation.table_name,
    'index' as kind,
    class.relname as name,
    regexp_replace(pg_get_indexdef(index.indexrelid), ' ON (ONLY )?\S+ USING ', ' ON USING ') as definition,
    false as is_required,
    null as default_value,
    null as comment
from relation
inner join pg_index as index on relation.oid = index.indrelid
inner join pg_class as class on index.indexrelid = class.oid
left join pg_constraint as backed on index.indexrelid = backed.conindid
where backed.oid is null
order by schema_name, table_name, kind, name
