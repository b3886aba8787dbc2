"""The change feed of every table, made anew after every upgrade, so that no new table or column is forgotten."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import psycopg
from alembic import op
from psycopg import sql
from sqlalchemy import Connection

from warehouse.history.change_log import tracing

# Not of people's interest, but of undo's: what a run writes beside the star.
EVIDENCE = ("audit.watermark", "audit.quarantine", "audit.file", "audit.file_part")
HOUSEKEEPING = ("run_id", "closed_by_run_id", "row_hash")

# Dimensions and facts tell their changes, of mirrors images are kept. What has no key has no rows to name.
TABLES = """
    select
        namespace.nspname as schema, relation.relname as name,
        namespace.nspname = 'dwh' as is_told,
        array(
            select attname::text from pg_attribute
            where attrelid = relation.oid and attnum > 0 and not attisdropped order by attnum
        ) as columns,
        array(
            select format_type(atttypid, atttypmod) from pg_attribute
            where attrelid = relation.oid and attnum > 0 and not attisdropped order by attnum
        ) as types,
        array(
            select col_description(attrelid, attnum) from pg_attribute
            where attrelid = relation.oid and attnum > 0 and not attisdropped order by attnum
        ) as comments,
        array(
            select attname::text from unnest(key.indkey) with ordinality as part (attnum, position)
            inner join pg_attribute on attrelid = relation.oid and pg_attribute.attnum = part.attnum
            order by part.position
        ) as key,
        array(
            select distinct attname::text from pg_constraint
            inner join pg_attribute on attrelid = conrelid and attnum = any(conkey)
            where conrelid = relation.oid and contype in ('p', 'u')
        ) as identifying
    from pg_class as relation
    inner join pg_namespace as namespace on relation.relnamespace = namespace.oid
    inner join pg_index as key on relation.oid = key.indrelid and key.indisprimary
    where relation.relkind in ('r', 'p') and not relation.relispartition
        and (
            namespace.nspname = 'raw' or namespace.nspname = 'dwh' and relation.relname ~ '^(dim|fact)_'
            or namespace.nspname || '.' || relation.relname = any(%s)
        )
    order by relation.oid
"""

# Whatever this module made, by the function that it fires or the comment that it bears.
MADE = """
    select format('drop trigger %I on %s', tgname, tgrelid::regclass)
    from pg_trigger
    where tgfoid in (to_regproc('audit.keep_change'), to_regproc('audit.keep_before_image'))
    union all
    select format('drop view %s', oid::regclass) from pg_class
    where relnamespace = to_regnamespace('audit') and relkind = 'v'
        and obj_description(oid, 'pg_class') like 'Every row of dwh.% that was updated or deleted:%'
    union all
    select format('drop function %s', oid::regprocedure) from pg_proc
    where pronamespace = to_regnamespace('audit')
        and obj_description(oid, 'pg_proc') like 'What dwh.% said when the given run had published%'
"""

CHANGE_VIEW = """
    create view {view} as
    select
        feed.change_id, feed.changed_at, feed.operation, feed.run_id, feed.flow, feed.database_user, {identifying},
        changed.names as changed_columns,
        (
            select string_agg(
                format('%s: %s → %s', name, coalesce(feed.before ->> name, '-'), coalesce(feed.after ->> name, '-')),
                '; ' order by position
            )
            from unnest(changed.names) with ordinality as one (name, position)
        ) as changes,
        feed.before, feed.after
    from audit.change_feed as feed
    cross join lateral (
        select case when feed.operation = 'update' then array(
            select name from unnest(feed.changed_columns) with ordinality as one (name, position)
            where name <> all({housekeeping}::text[]) order by position
        ) end as names
    ) as changed
    where feed.table_name = {table_name}
"""

# A row that changed since is taken from its first image, one that did not from the table.
AS_OF = """
    create function {function}(as_of_run_id bigint) returns table ({returned}) language sql stable
    as {body}
"""
AS_OF_BODY = """
    with later as materialized (
        select published.run_id from audit.published_after(as_of_run_id) as published
    ),

    changed as materialized (
        select distinct on (feed.row_key) feed.row_key, feed.operation, feed.before
        from audit.change_feed as feed
        where feed.table_name = {table_name}
            and (
                feed.run_id in (select later.run_id from later)
                or feed.run_id is null and feed.changed_at > audit.published_at(as_of_run_id)
            )
        order by feed.row_key, feed.change_id
    )

    select {columns} from {table} as now
    where now.run_id not in (select later.run_id from later)
        and array[{key}] not in (select changed.row_key from changed)
    union all
    select {images} from changed
    where changed.operation <> 'insert'
        and (changed.before ->> 'run_id')::bigint not in (select later.run_id from later)
"""

VIEW_COLUMNS = {
    "change_id": "Id of the change, in order",
    "changed_at": "When (UTC)",
    "operation": "update, delete, truncate; insert only where an undo or a changed key brought a row",
    "run_id": "Run that changed it; empty: somebody did by hand",
    "flow": "Flow of that run",
    "database_user": "Login that changed it",
    "changed_columns": "Columns that an update changed, without housekeeping",
    "changes": "The same with old and new values, to read (personal data)",
    "before": "The row before the change, every value as its text (personal data)",
    "after": "The row after the change, every value as its text (personal data)",
}


@dataclass(frozen=True)
class Traced:
    """A table whose changes are kept."""

    schema: str
    name: str
    # Whether people read of its changes in the change feed; else images are kept for undo alone.
    is_told: bool
    columns: Sequence[str]
    types: Sequence[str]
    comments: Sequence[str | None]
    key: Sequence[str]
    identifying: Sequence[str]


def apply(connection: Connection) -> None:
    """Triggers, views and as-of functions for every table that the warehouse has now."""
    driver = _driver(connection)
    if driver.execute("select to_regclass('audit.change')").fetchone() == (None,):
        return
    _drop(driver)
    for row in driver.execute(TABLES, [list(EVIDENCE)]).fetchall():
        table = Traced(*row)
        driver.execute(tracing(table.schema, table.name, is_told=table.is_told))
        if table.is_told:
            _show_changes(driver, table)
            if "run_id" in table.columns:
                _tell_as_of(driver, table)


def withdraw() -> None:
    """Everything that `apply` has made is dropped."""
    _drop(_driver(op.get_bind()))


def _drop(driver: psycopg.Connection) -> None:
    for (statement,) in driver.execute(MADE).fetchall():
        driver.execute(statement.encode())


def _show_changes(driver: psycopg.Connection, table: Traced) -> None:
    view = sql.Identifier("audit", f"{table.name}_change")
    types = dict(zip(table.columns, table.types, strict=True))
    comments = dict(zip(table.columns, table.comments, strict=True))
    identifying = [name for name in table.columns if name in table.identifying and name not in VIEW_COLUMNS]
    driver.execute(
        sql.SQL(CHANGE_VIEW).format(
            view=view,
            identifying=sql.SQL(", ").join(
                sql.SQL("(coalesce(feed.before, feed.after) ->> {})::{} as {}").format(
                    sql.Literal(name), sql.SQL(types[name]), sql.Identifier(name)
                )
                for name in identifying
            ),
            housekeeping=sql.Literal(list(HOUSEKEEPING)),
            table_name=sql.Literal(f"{table.schema}.{table.name}"),
        )
    )
    said = f"Every row of {table.schema}.{table.name} that was updated or deleted: by whom, and what it was before."
    driver.execute(sql.SQL("comment on view {} is {}").format(view, sql.Literal(said)))
    for column, text in {**VIEW_COLUMNS, **{name: comments[name] or name for name in identifying}}.items():
        driver.execute(
            sql.SQL("comment on column {}.{} is {}").format(view, sql.Identifier(column), sql.Literal(text))
        )


def _tell_as_of(driver: psycopg.Connection, table: Traced) -> None:
    function = sql.Identifier("audit", f"{table.name}_at")
    typed = list(zip(table.columns, table.types, strict=True))
    body = sql.SQL(AS_OF_BODY).format(
        table=sql.Identifier(table.schema, table.name),
        table_name=sql.Literal(f"{table.schema}.{table.name}"),
        columns=sql.SQL(", ").join(sql.Identifier("now", name) for name in table.columns),
        key=sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier("now", name)) for name in table.key),
        images=sql.SQL(", ").join(
            sql.SQL("(changed.before ->> {})::{}").format(sql.Literal(name), sql.SQL(kind))
            for name, kind in typed
        ),
    )
    driver.execute(
        sql.SQL(AS_OF).format(
            function=function,
            returned=sql.SQL(", ").join(
                sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(kind)) for name, kind in typed
            ),
            body=sql.Literal(body.as_string(driver)),
        )
    )
    said = f"What {table.schema}.{table.name} said when the given run had published; an error where that is not known."
    driver.execute(sql.SQL("comment on function {}(bigint) is {}").format(function, sql.Literal(said)))


def _driver(connection: Connection) -> psycopg.Connection:
    """The connection beneath SQLAlchemy's, in the same transaction."""
    # Begins it, where nothing was executed yet.
    connection.exec_driver_sql("select")
    return cast(psycopg.Connection, connection.connection.driver_connection)
