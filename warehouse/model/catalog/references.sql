-- one row per declared foreign key of one column: which column refers to which table.
-- inputs: the catalog
select
    namespace.nspname as schema_name,
    relation.relname as relation_name,
    attribute.attname as column_name,
    referred.relname as referred_name
from pg_constraint as foreign_key
inner join pg_class as relation on foreign_key.conrelid = relation.oid
inner join pg_namespace as namespace on relation.relnamespace = namespace.oid
inner join pg_attribute as attribute
    on relation.oid = attribute.attrelid and attribute.attnum = foreign_key.conkey[1]
inner join pg_class as referred on foreign_key.confrelid = referred.oid
where
    foreign_key.contype = 'f'
    and cardinality(foreign_key.conkey) = 1
    and not relation.relispartition
order by namespace.nspname, relation.relname, attribute.attname
