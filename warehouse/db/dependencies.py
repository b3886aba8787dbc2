"""Find the tables and columns that queries read, also through views and SQL functions, as PostgreSQL has parsed them.

Views and functions are named as `view raw.paid` and `function public.rate(text, date)`.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from warehouse.db.connection_errors import is_of_statement

# A reference to a whole row: pg_depend has neither its columns nor its table.
_WHOLE_ROW = re.compile(r"\{VAR :varno -?\d+ :varattno 0 ")
_RELATION = re.compile(r":rtekind 0 :relid (\d+) ")
# Objects that the probe depends on, through views, functions and operators. pg_depend has nothing for a function whose
# body is a string: `functions` are copies of such functions with parsed bodies.
_REACHED = """
    with recursive reached (classid, objid, subid) as (
        select 'pg_rewrite'::regclass::oid, oid, 0 from pg_rewrite where ev_class = 'pg_temp.probe'::regclass
        union
        select 'pg_proc'::regclass::oid, oid, 0 from pg_proc where oid = any(%(functions)s::oid[])
        union
        select further.* from reached cross join lateral (
            select refclassid, refobjid, refobjsubid from pg_depend
            where pg_depend.classid = reached.classid and pg_depend.objid = reached.objid and deptype = 'n'
                and reached.classid in ('pg_rewrite'::regclass, 'pg_proc'::regclass, 'pg_operator'::regclass)
                and refclassid in ('pg_class'::regclass, 'pg_proc'::regclass, 'pg_operator'::regclass)
            union all
            select 'pg_rewrite'::regclass, rule.oid, 0 from pg_rewrite as rule
            inner join pg_class as view on rule.ev_class = view.oid and view.relkind = 'v'
            where reached.classid = 'pg_class'::regclass and view.oid = reached.objid
        ) as further (classid, objid, subid)
    )
"""
_COLUMNS = """
    select nspname, relname, array_remove(array_agg(attname::text), null)
    from reached
    inner join pg_class on reached.classid = 'pg_class'::regclass and pg_class.oid = reached.objid
    inner join pg_namespace on pg_namespace.oid = relnamespace
    left join pg_attribute on attrelid = reached.objid and attnum = reached.subid and attnum > 0
    where relkind not in ('v', 'S') and nspname not in ('pg_catalog', 'information_schema')
    group by nspname, relname order by nspname, relname
"""
_FUNCTIONS = """
    select function.oid::bigint, nspname || '.' || proname, lanname, provolatile, prosqlbody is not null
    from reached
    inner join pg_proc as function on reached.classid = 'pg_proc'::regclass and function.oid = reached.objid
    inner join pg_namespace on pg_namespace.oid = pronamespace
    inner join pg_language on pg_language.oid = prolang
    where nspname <> 'pg_catalog' and prokind in ('f', 'w') and not exists (
        -- an extension's functions read no tables of ours
        select from pg_depend
        where classid = 'pg_proc'::regclass and pg_depend.objid = function.oid and deptype = 'e'
    )
    order by 2
"""
_OBJECTS = """
    select format('view %%I.%%I', nspname, relname)
    from reached
    inner join pg_class on reached.classid = 'pg_class'::regclass and pg_class.oid = reached.objid and relkind = 'v'
    inner join pg_namespace on pg_namespace.oid = relnamespace
    where nspname not in ('pg_catalog', 'information_schema') and nspname !~ '^pg_temp'
    union
    select format('function %%I.%%I(%%s)', nspname, proname, oidvectortypes(proargtypes))
    from reached
    inner join pg_proc as function on reached.classid = 'pg_proc'::regclass and function.oid = reached.objid
    inner join pg_namespace on pg_namespace.oid = pronamespace
    where nspname not in ('pg_catalog', 'information_schema') and nspname !~ '^pg_temp' and not exists (
        select from pg_depend
        where classid = 'pg_proc'::regclass and pg_depend.objid = function.oid and deptype = 'e'
    )
"""
# Definitions that the database has parsed have no comments; the body of a function may be an unparsed string.
_BODIES = """
    select object, null, pg_get_viewdef(pg_class.oid), false
    from unnest(%(objects)s::text[]) as object
    inner join pg_class
        on pg_class.oid = to_regclass(case when object like 'view %%' then substr(object, 6) end) and relkind = 'v'
    union all
    select object,
        concat_ws(
            ' ', lanname, pg_get_function_arguments(function.oid), pg_get_function_result(function.oid), provolatile,
            proisstrict, prosecdef, proconfig
        ),
        coalesce(pg_get_function_sqlbody(function.oid), prosrc), prosqlbody is null and lanname in ('sql', 'plpgsql')
    from unnest(%(objects)s::text[]) as object
    inner join pg_proc as function
        on function.oid = to_regprocedure(case when object like 'function %%' then substr(object, 10) end)
    inner join pg_language on pg_language.oid = prolang
"""
_TREES = """
    select rule.ev_class::bigint, rule.ev_action::text
    from reached inner join pg_rewrite as rule on reached.classid = 'pg_rewrite'::regclass and rule.oid = reached.objid
    union all
    select null, prosqlbody::text
    from reached
    inner join pg_proc as function on reached.classid = 'pg_proc'::regclass and function.oid = reached.objid
    where prosqlbody is not null
"""
# All in one query, since planning and following the dependencies takes longer than all else.
_READ = f"""
    {_REACHED}
    select
        array(select to_json(part) from ({_COLUMNS}) as part (schema, name, columns)),
        array(select to_json(part) from ({_FUNCTIONS}) as part (oid, name, language, volatility, is_parsed)),
        array(select part.name from ({_OBJECTS}) as part (name)),
        array(select to_json(part) from ({_TREES}) as part (view, tree))
"""
_WITH_PARSED_BODY = """
    select format(
        'create function pg_temp.%%I(%%s) returns %%s language sql begin atomic %%s; end',
        'probe_' || oid, pg_get_function_arguments(oid), pg_get_function_result(oid),
        rtrim(prosrc, E'; \\n\\r\\t') || E'\\n'
    ) from pg_proc where oid = %s
"""


@dataclass(frozen=True)
class Dependencies:
    """Tables and columns that queries read, and the views and functions in between."""

    # Columns of each table, by (schema, name); empty if the query reads rows but no columns, as count(*) does.
    tables: Mapping[tuple[str, str], frozenset[str]]
    # True if rows are read as a whole, so that every column matters.
    reads_whole_rows: bool
    # Functions, as schema.name, for which the database does not know what they read.
    opaque_functions: tuple[str, ...]
    # Views and functions through which the queries read.
    objects: frozenset[str]
    # How often each table is read, by oid.
    occurrences: Mapping[int, int]


def read_dependencies(connection: psycopg.Connection, queries: Sequence[sql.Composable]) -> Dependencies:
    """Find out what `queries` read: create a view on them, read the catalog, and roll back.

    Raises:
        psycopg.Error: a query is wrong.
    """
    with connection.transaction(force_rollback=True):
        connection.execute(
            sql.SQL("create view pg_temp.probe as with {} select 1 as one").format(
                sql.SQL(", ").join(
                    sql.SQL("{} as ({})").format(sql.Identifier(f"query_{number}"), query)
                    for number, query in enumerate(queries)
                )
            )
        )
        opaque, (tables, _, objects, trees) = _read_parsed(connection)
        named = [(one["view"], one["tree"]) for one in trees]
        return Dependencies(
            {(one["schema"], one["name"]): frozenset(one["columns"]) for one in tables},
            any(_WHOLE_ROW.search(tree) for _, tree in named),
            opaque,
            frozenset(objects),
            _occurrences(connection, named),
        )


def read_bodies(
    connection: psycopg.Connection, objects: Sequence[str]
) -> Iterator[tuple[str, str | None, str, bool]]:
    """Read the present definitions of views and functions; those that no longer exist are omitted.

    Yields name, signature (None for a view), definition or body, and whether that is an unparsed string.
    """
    yield from connection.execute(_BODIES, {"objects": list(objects)}).fetchall()


def _read_parsed(connection: psycopg.Connection) -> tuple[tuple[str, ...], tuple[Any, ...]]:
    """Return the names of opaque functions, and the result of `_READ` with the copies of all that could be parsed."""
    opaque: dict[str, None] = {}
    tried: set[int] = set()
    copies: list[int] = []
    while True:
        read = connection.execute(_READ, {"functions": copies}).fetchone()
        assert read is not None
        new = [one for one in read[1] if one["oid"] not in tried]
        if not new:
            return tuple(opaque), read
        for function in new:
            tried.add(function["oid"])
            # A function that is declared immutable reads no table.
            if function["is_parsed"] or function["volatility"] == "i":
                continue
            if function["language"] == "sql" and (copy := _copy_parsed(connection, function["oid"])):
                copies.append(copy)
            else:
                opaque[function["name"]] = None


def _copy_parsed(connection: psycopg.Connection, function: int) -> int | None:
    (statement,) = connection.execute(_WITH_PARSED_BODY, [function]).fetchone() or (None,)
    try:
        with connection.transaction():
            connection.execute(str(statement).encode())
    except psycopg.Error as error:
        if not is_of_statement(error):
            raise
        return None
    row = connection.execute(
        "select oid::bigint from pg_proc where pronamespace = pg_my_temp_schema() and proname = %s",
        [f"probe_{function}"],
    ).fetchone()
    return row[0] if row else None


def _occurrences(
    connection: psycopg.Connection, trees: Sequence[tuple[int | None, str]]
) -> Mapping[int, int]:
    """Count how often each table is read; tables in a view count as often as the view is read."""
    named = {view: Counter(map(int, _RELATION.findall(tree))) for view, tree in trees if view is not None}
    (probe,) = connection.execute("select 'pg_temp.probe'::regclass::oid::bigint").fetchone() or (0,)
    total: Counter[int] = Counter()

    def add(relations: Counter[int], times: int) -> None:
        for relation, count in relations.items():
            if relation in named:
                add(named[relation], times * count)
            else:
                total[relation] += times * count

    add(named[probe], 1)
    for view, tree in trees:
        if view is None:
            add(Counter(map(int, _RELATION.findall(tree))), 1)
    return total
