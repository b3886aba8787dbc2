"""The catalog of a warehouse as text: everything that a migration could leave behind."""

import psycopg

SCHEMAS = ("staging", "raw", "dwh", "mart", "audit")

# What loads make: mirrors, their batches, and partitions of the web log.
_MADE_BY_LOADS = "^(raw\\.|staging\\.(shop|northwind)_|dwh\\.fact_weblog_.)"

_CATALOG = """
    with relation as (
        select pg_class.*, oid::regclass::text as name from pg_class
        where relnamespace::regnamespace::text = any(%(schemas)s) and oid::regclass::text !~ %(made_by_loads)s
            and oid not in (
                select indexrelid from pg_index inner join pg_class as indexed on indrelid = indexed.oid
                where indrelid::regclass::text ~ %(made_by_loads)s or %(tables_only)s and indexed.relkind = 'm'
            )
            and relkind <> 't' and not (%(tables_only)s and relkind in ('v', 'm'))
    )

    select concat_ws(
        ' ', 'schema', nspname, case when not %(tables_only)s then obj_description(oid, 'pg_namespace') end,
        nspowner::regrole, case when %(grants)s then nspacl end)
    from pg_namespace where nspname = any(%(schemas)s)
    union all
    select concat_ws(
        ' ', 'relation', name, relkind, relpersistence, reloptions, relispopulated,
        case when not %(tables_only)s then obj_description(oid, 'pg_class') end,
        relowner::regrole,
        array(select item::text from unnest(relacl) as item where %(grants)s order by item::text)
    )
    from relation
    union all
    select concat_ws(
        ' ', 'column', name, (select count(*) from pg_attribute as other
            where other.attrelid = relation.oid and other.attnum > 0 and other.attnum <= attribute.attnum
                and not other.attisdropped),
        attname, format_type(atttypid, atttypmod), attnotnull, attidentity, pg_get_expr(adbin, adrelid),
        case when not %(tables_only)s then col_description(attrelid, attnum) end, case when %(grants)s then attacl end
    )
    from relation
    inner join pg_attribute as attribute on attribute.attrelid = relation.oid
    left join pg_attrdef on adrelid = attrelid and adnum = attnum
    where relkind in ('r', 'p', 'v', 'm') and attnum > 0 and not attisdropped
    union all
    select concat_ws(' ', 'constraint', name, conname, pg_get_constraintdef(pg_constraint.oid))
    from pg_constraint inner join relation on conrelid = relation.oid
    -- PostgreSQL 18 names them, by the name that the column had first.
    where contype <> 'n'
    union all
    select concat_ws(' ', 'index', pg_get_indexdef(indexrelid))
    from pg_index inner join relation on indrelid = relation.oid
    union all
    select concat_ws(' ', 'sequence', name, seqtypid::regtype, seqstart, seqincrement, seqcycle)
    from pg_sequence inner join relation on seqrelid = relation.oid
    union all
    select concat_ws(' ', 'view', name, pg_get_viewdef(oid)) from relation where relkind in ('v', 'm')
    union all
    select concat_ws(' ', 'trigger', pg_get_triggerdef(pg_trigger.oid), tgenabled)
    from pg_trigger inner join relation on tgrelid = relation.oid where not tgisinternal and not %(tables_only)s
    union all
    select concat_ws(
        ' ', 'function', pg_get_functiondef(oid), obj_description(oid, 'pg_proc'),
        proowner::regrole, case when %(grants)s then proacl end
    )
    from pg_proc where pronamespace::regnamespace::text = any(%(schemas)s) and not %(tables_only)s
    order by 1
"""


def catalog(connection: psycopg.Connection, *, tables_only: bool = False, grants: bool = True) -> list[str]:
    """Schemas, tables, columns, constraints, indexes, views, triggers, functions, with owners, grants and comments.

    What loads make is left out; with `tables_only` also views, triggers, functions and comments.
    """
    parameters = {
        "schemas": list(SCHEMAS),
        "made_by_loads": _MADE_BY_LOADS,
        "tables_only": tables_only,
        "grants": grants,
    }
    return [text for (text,) in connection.execute(_CATALOG, parameters).fetchall()]
