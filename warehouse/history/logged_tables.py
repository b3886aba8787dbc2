"""The change log of each table: its triggers, and the view and as-of function that are generated from its columns."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, LiteralString

import psycopg
from psycopg import sql
from psycopg.rows import class_row

from warehouse.db.object_files import SchemaObject
from warehouse.history.change_log import create_triggers

# Tables outside the star that runs change, too: their before-images are only for undo.
AUDIT_TABLES: Final = (
    "audit.watermark",
    "audit.key_range",
    "audit.quarantine",
    "audit.file",
    "audit.file_part",
    "audit.file_read",
    "audit.definition",
    "audit.freshness",
    "audit.feed_field",
    "audit.precedence",
    "audit.followed",
)
HOUSEKEEPING: Final = ("run_id", "expired_by_run_id", "batch_id", "row_hash")

VIEW_COLUMNS: Final = {
    "change_id": "Id of the change, in order",
    "changed_at": "When it was changed (UTC)",
    "operation": "update, delete, truncate; insert only for rows that an undo or a changed key has brought",
    "run_id": "Run that changed it; empty where somebody changed it by hand",
    "batch_number": "Number of the batch, in a run of live",
    "flow": "Flow of that run",
    "database_user": "Login that changed it",
    "changed_columns": "Columns that an update changed, without housekeeping",
    "changes": "The same with old and new values, to read (personal data)",
    "before": "The row before the change, every value as its text (personal data)",
    "after": "The row after the change, every value as its text (personal data)",
}


@dataclass(frozen=True)
class LoggedTable:
    """A table whose changes are logged by triggers: of the star in audit.change; of other tables only before-images."""

    schema: str
    name: str
    columns: Sequence[str]
    types: Sequence[str]
    comments: Sequence[str | None]
    key: Sequence[str]
    # Columns of its primary key and unique constraints.
    identifying: Sequence[str]
    has_triggers: bool

    @property
    def full_name(self) -> str:
        """`schema.table`."""
        return f"{self.schema}.{self.name}"

    @property
    def is_of_star(self) -> bool:
        """Whether it is a table of the star, whose changes people read."""
        return self.schema == "dwh"


def logged_tables(connection: psycopg.Connection) -> list[LoggedTable]:
    """Read the tables whose changes are to be logged: those with a primary key, by which the log identifies rows."""
    with connection.cursor(row_factory=class_row(LoggedTable)) as cursor:
        return cursor.execute(_TABLES, [list(AUDIT_TABLES)]).fetchall()


def add_missing_triggers(connection: psycopg.Connection) -> None:
    """Create missing triggers, and record the columns of all tables in audit.row_schema.

    Otherwise runs would record a table's columns when they first log a change of it, each in another order of tables,
    and two runs could deadlock.
    """
    tables = logged_tables(connection)
    for table in tables:
        if not table.has_triggers:
            create_triggers(connection, table.schema, table.name)
    connection.execute(
        "select audit.row_schema_id(to_regclass(name)) from unnest(%s::text[]) as name",
        [[sql.Identifier(table.schema, table.name).as_string(connection) for table in tables]],
    )


def drop_triggers(connection: psycopg.Connection) -> None:
    """Drop the triggers of all tables: nothing is logged until they are created again."""
    for (statement,) in connection.execute(_DROP_TRIGGERS).fetchall():
        connection.execute(statement.encode())


def table_objects(connection: psycopg.Connection) -> Iterator[SchemaObject]:
    """Generate the view of changes and the as-of function of each table of the star."""
    for table in logged_tables(connection):
        if table.is_of_star:
            yield SchemaObject("view", "audit", f"{table.name}_change", _change_view(connection, table))
            if "run_id" in table.columns:
                yield SchemaObject("function", "audit", f"{table.name}_at", _as_of(connection, table))


def table_object_comments(connection: psycopg.Connection) -> dict[str, str]:
    """Comments of `table_objects`, by name."""
    comments = {}
    for table in logged_tables(connection):
        if table.is_of_star:
            view = f"audit.{table.name}_change"
            descriptions = dict(zip(table.columns, table.comments, strict=True))
            columns = VIEW_COLUMNS | {name: descriptions[name] or name for name in _identifying(table)}
            comments[view] = (
                f"Every row of {table.full_name} that was updated or deleted: by whom, and what it was before."
            )
            comments |= {f"{view}.{name}": text for name, text in columns.items()}
            comments[f"audit.{table.name}_at()"] = (
                f"Rows of {table.full_name} as of the given run or time; an error where the change log does not go "
                "back to it."
            )
    return comments


def _identifying(table: LoggedTable) -> list[str]:
    return [name for name in table.columns if name in table.identifying and name not in VIEW_COLUMNS]


def _change_view(connection: psycopg.Connection, table: LoggedTable) -> str:
    types = dict(zip(table.columns, table.types, strict=True))
    identifying = [
        sql.SQL("(coalesce(logged.before, logged.after) ->> {})::{} as {}").format(
            sql.Literal(name),
            sql.SQL(types[name]),
            sql.Identifier(name),
        )
        for name in _identifying(table)
    ]
    query = sql.SQL(_CHANGE_VIEW).format(
        identifying=sql.SQL(", ").join(identifying),
        housekeeping=sql.Literal(list(HOUSEKEEPING)),
        table_name=sql.Literal(table.full_name),
    )
    return query.as_string(connection)


def _as_of(connection: psycopg.Connection, table: LoggedTable) -> str:
    typed = list(zip(table.columns, map(sql.SQL, table.types), strict=True))
    body = sql.SQL(_AS_OF_BODY).format(
        table=sql.Identifier(table.schema, table.name),
        table_name=sql.Literal(table.full_name),
        # batch_id is the batch of `dwh live` that inserted the row, even if another run has written it since.
        is_earlier=_by_batch("now.batch_id" if "batch_id" in table.columns else None),
        was_earlier=_by_batch(
            "(changed.before ->> 'batch_id')::bigint" if "batch_id" in table.columns else None
        ),
        columns=sql.SQL(", ").join(sql.Identifier("now", name) for name in table.columns),
        key=sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier("now", name)) for name in table.key),
        images=sql.SQL(", ").join(
            sql.SQL("(changed.before ->> {})::{}").format(sql.Literal(name), kind) for name, kind in typed
        ),
    )
    returned = sql.SQL(", ").join(sql.SQL("{} {}").format(sql.Identifier(name), kind) for name, kind in typed)
    return (
        sql.SQL("(as_of anyelement) returns table ({}) language sql stable as {}")
        .format(returned, sql.Literal(body.as_string(connection)))
        .as_string(connection)
    )


def _by_batch(batch_id: LiteralString | None) -> sql.SQL:
    if batch_id is None:
        return sql.SQL("true")
    return sql.SQL(f"coalesce({batch_id} <= (select last_batch.batch_id from last_batch), true)")


_TABLES = """
    select
        namespace.nspname as schema, relation.relname as name,
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
        ) as identifying,
        exists (
            select from pg_trigger where tgrelid = relation.oid
                and tgfoid in (to_regproc('audit.log_change'), to_regproc('audit.log_before_image'))
        ) as has_triggers
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

_DROP_TRIGGERS = """
    select format('drop trigger %I on %s', tgname, tgrelid::regclass)
    from pg_trigger
    where tgfoid in (to_regproc('audit.log_change'), to_regproc('audit.log_before_image')) and tgparentid = 0
"""

_CHANGE_VIEW = """
    select
        logged.change_id, logged.changed_at, logged.operation, logged.run_id, logged.batch_number, logged.flow,
        logged.database_user,
        {identifying},
        changed.names as changed_columns,
        (
            select string_agg(
                format(
                    '%s: %s → %s', name, coalesce(logged.before ->> name, '-'), coalesce(logged.after ->> name, '-')
                ),
                '; ' order by position
            )
            from unnest(changed.names) with ordinality as one (name, position)
        ) as changes,
        logged.before, logged.after
    from audit.change_log as logged
    cross join lateral (
        select case when logged.operation = 'update' then array(
            select name from unnest(logged.changed_columns) with ordinality as one (name, position)
            where name <> all({housekeeping}::text[]) order by position
        ) end as names
    ) as changed
    where logged.table_name = {table_name}
"""

# Rows that changed since are read from their first before-image, all others from the table.
_AS_OF_BODY = """
    with later as materialized (
        select published.run_id from audit.published_after(as_of) as published
    ),

    last_batch as materialized (
        select audit.last_batch(as_of) as batch_id
    ),

    changed as materialized (
        select distinct on (logged.row_key) logged.row_key, logged.operation, logged.before
        from audit.change_log as logged
        where logged.table_name = {table_name}
            and (
                logged.run_id in (select later.run_id from later)
                or logged.batch_id > (select last_batch.batch_id from last_batch)
                or logged.run_id is null and logged.changed_at > audit.published_at(as_of)
            )
        order by logged.row_key, logged.change_id
    )

    select {columns} from {table} as now
    where now.run_id not in (select later.run_id from later) and {is_earlier}
        and array[{key}] not in (select changed.row_key from changed)
    union all
    select {images} from changed
    where changed.operation <> 'insert'
        and (changed.before ->> 'run_id')::bigint not in (select later.run_id from later) and {was_earlier}
"""
