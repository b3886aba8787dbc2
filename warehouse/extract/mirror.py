"""Mirrors: raw.<source>_<table>, made from the source's own catalog and kept in step with it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import psycopg
from psycopg import sql
from psycopg.rows import class_row

from warehouse.db.identifiers import listed
from warehouse.db.roles import OWNER
from warehouse.errors import DeclarationError, SchemaDrift, SourceError
from warehouse.history.change_log import create_triggers, log_added_column
from warehouse.runs.audit import mark_irreversible
from warehouse.sources.declaration import Table

RUN_ID = "_run_id"
IS_DELETED = "_is_deleted"
HOUSEKEEPING = {RUN_ID: "Run that wrote this row last", IS_DELETED: "Whether the row is gone from the source"}
# What a delta tells of each key that changed.
VERDICT = {"_operation": "text", "_is_stamped": "boolean"}
# What stands beside affected keys, or while they are found.
MARKS = ("_is_new", "_is_outdated", "_marks")


@dataclass(frozen=True)
class Column:
    """A source column as it is mirrored: its type there, and the cast that makes the source deliver that type."""

    name: str
    type: str
    cast: str | None
    comment: str | None

    @property
    def selected(self) -> sql.Composable:
        name = sql.Identifier(self.name)
        return sql.SQL("{}::{}").format(name, sql.SQL(self.cast)) if self.cast else name


def source_columns(connection: psycopg.Connection, table: Table) -> tuple[Column, ...]:
    """Columns of a source table, in its order; a type that the warehouse cannot have too travels as text.

    Raises:
        DeclarationError: the declared key or cursor is no column of it.
    """
    with connection.cursor(row_factory=class_row(Column)) as cursor:
        columns = tuple(
            cursor.execute(
                """
                with declared as (
                    select
                        attribute.*,
                        type.typtype = 'd' as is_domain,
                        case when type.typtype = 'd' then type.typbasetype else type.oid end as base_oid,
                        case when type.typtype = 'd' then type.typtypmod else attribute.atttypmod end as base_mod
                    from pg_attribute as attribute
                    join pg_type as type on type.oid = attribute.atttypid
                    where attribute.attrelid = to_regclass(format('%%I.%%I', %s::text, %s::text))
                        and attribute.attnum > 0 and not attribute.attisdropped
                ),

                judged as (
                    select
                        declared.*,
                        -- reg* types are numbers of another database's catalog: only their text means anything here
                        base.typnamespace = 'pg_catalog'::regnamespace
                        and base.typtype in ('b', 'r', 'm')
                        and base.typname !~ '^_?(reg|aclitem|pg_|xml$)' as is_portable
                    from declared
                    join pg_type as base on base.oid = declared.base_oid
                )

                select
                    attname as name,
                    case when is_portable then format_type(base_oid, base_mod) else 'text' end as type,
                    case
                        when not is_portable then 'text'
                        when is_domain then format_type(base_oid, base_mod)
                    end as cast,
                    col_description(attrelid, attnum) as comment
                from judged
                order by attnum
                """,
                [table.schema, table.name],
            ).fetchall()
        )
    names = {column.name for column in columns}
    for wanted in (*table.key, *([table.cursor] if table.cursor else [])):
        if wanted not in names:
            raise DeclarationError(
                f"Source '{table.source}' declares column '{wanted}' of {table}, which is not there.",
                hint=f"Its columns are: {', '.join(sorted(names))}.",
            )
    for taken in sorted((names & HOUSEKEEPING.keys()) | (set(table.key) & {*VERDICT, *MARKS})):
        raise SourceError(
            f"Column '{taken}' of {table} of source '{table.source}' has a name that the mirror needs itself.",
            hint="Rename it there.",
        )
    return columns


@dataclass(frozen=True)
class Drift:
    """How a source table differs from its mirror: columns as they are to be captured, by the source's policy."""

    columns: tuple[Column, ...]
    # In words, for people: each change, and what is done about it.
    said: tuple[str, ...] = ()
    # Whether rows that nobody touched have new content: a default that fills them, another type.
    must_read_whole: bool = False


def find_drift(connection: psycopg.Connection, table: Table, columns: Sequence[Column]) -> Drift:
    """What has changed since `table` was mirrored, and which of `columns` to capture.

    Raises:
        SchemaDrift: a column is new, gone or of another type, and the source's policy is to stop.
        DeclarationError: the mirror was made with another key.
    """
    mirrored = mirrored_columns(connection, table)
    if not mirrored:
        return Drift(tuple(columns), must_read_whole=True)
    key = _key_of(connection, table)
    if key and key != table.key:
        raise DeclarationError(
            f"Source '{table.source}' declares ({', '.join(table.key)}) as key of {table}, "
            f"which was captured by ({', '.join(key)}).",
            hint=f"Declare the old key again, or drop raw.{table.mirror} to have it captured anew.",
        )
    now = {column.name: column.type for column in columns}
    policy = table.on_schema_change
    changes = [(policy.dropped_column, f"{name} is gone") for name in sorted(mirrored.keys() - now.keys())]
    changes += [
        (policy.changed_type, f"{name} is {now[name]} and was {kind}")
        for name, kind in sorted(mirrored.items())
        if now.get(name, kind) != kind
    ]
    changes += [(policy.new_column, f"{name} is new") for name in sorted(now.keys() - mirrored.keys())]
    if retyped := sorted(
        name for name in table.key if name in mirrored and not _are_alike(mirrored[name], now[name])
    ):
        raise SchemaDrift(
            f"Table {table} of source '{table.source}' has changed: its key {retyped[0]} is "
            f"{now[retyped[0]]} and was {mirrored[retyped[0]]}, and rows are matched by it.",
            hint=f"Drop raw.{table.mirror} to have it captured anew.",
        )
    if any(word == "stop" for word, _ in changes):
        raise SchemaDrift(
            f"Table {table} of source '{table.source}' has changed: {'; '.join(change for _, change in changes)}.",
            hint="Adapt the conform SQL, then let the mirror follow: evolve (or ignore) under [on_schema_change] in "
            f"warehouse/sources/{table.source}/source.toml.",
        )
    captured = tuple(
        column
        if mirrored.get(column.name, column.type) == column.type or policy.changed_type == "evolve"
        # The mirror keeps its type, and the source is asked for it.
        else replace(column, type=mirrored[column.name], cast=mirrored[column.name])
        for column in columns
        if column.name in mirrored or policy.new_column == "evolve"
    )
    done = {"evolve": "the mirror follows", "ignore": "ignored"}
    return Drift(
        captured,
        tuple(f"{table.name}: {change} ({done[word]})" for word, change in changes),
        must_read_whole=any(mirrored.get(column.name) != column.type for column in captured),
    )


def _are_alike(*types: str) -> bool:
    """Whether equal values of the types are equal, and hash alike."""
    families = {"smallint": "integer", "bigint": "integer", "character varying": "text"}
    return len({families.get(plain := without_modifier(kind), plain) for kind in types}) == 1


def without_modifier(kind: str) -> str:
    """The type without its length or precision: timestamp(3)[] is timestamp[]."""
    return re.sub(r"\(.*?\)", "", kind)


def key_problem(table: Table, problem: str) -> SourceError:
    """What to say of a declared key that is none."""
    return SourceError(
        f"The key ({', '.join(table.key)}) that source '{table.source}' declares for {table} is {problem}.",
        hint=f"Declare another key in warehouse/sources/{table.source}/source.toml.",
    )


def ensure_mirror(
    connection: psycopg.Connection, run_id: int, table: Table, columns: Sequence[Column], comment: str | None
) -> bool:
    """Make the mirror of the batch that the first capture staged, or let it follow `columns`, as the policy lets it.

    Whether the batch has become the mirror: then its rows are in it, and the batch is gone.
    """
    mirror = sql.Identifier("raw", table.mirror)
    mirrored = _columns_of(connection, "raw", table.mirror)
    if not mirrored:
        # A mirror that was there and is gone cannot be brought back by an undo.
        if connection.execute(
            "select from audit.watermark where source = %s and table_name = %s", [table.source, table.name]
        ).rowcount:
            mark_irreversible(connection, run_id)
        # Its rows are not copied again, and its key is built over all of them at once.
        connection.execute(
            sql.SQL(
                """
                alter table {batch}
                    add column {run_id} bigint not null default {run},
                    add column {is_deleted} boolean not null default false;
                alter table {batch} alter column {run_id} drop default;
                alter table {batch} add constraint {constraint} primary key ({key});
                alter table {batch} set schema raw;
                analyze {mirror}
                """
            ).format(
                batch=sql.Identifier("staging", table.mirror),
                mirror=mirror,
                run_id=sql.Identifier(RUN_ID),
                run=sql.Literal(run_id),
                is_deleted=sql.Identifier(IS_DELETED),
                constraint=sql.Identifier(f"pk_{table.mirror}"),
                key=listed(table.key),
            )
        )
        said = comment or f"Table {table} of source {table.source}."
        _comment(connection, sql.SQL("table {}").format(mirror), f"Mirror. {said}")
        for name, text in HOUSEKEEPING.items():
            _comment_column(connection, mirror, name, text)
        create_triggers(connection, "raw", table.mirror)
        # Deleted rows are handed to a trigger; truncated ones it reads from the table.
        connection.execute(sql.SQL("grant select on {} to {}").format(mirror, sql.Identifier(OWNER)))
    elif table.on_schema_change.dropped_column == "evolve":
        for name in sorted(mirrored.keys() - {column.name for column in columns}):
            _alter(connection, run_id, table, sql.SQL("drop column {}").format(sql.Identifier(name)), name)
    for column in columns:
        if column.name in mirrored:
            if mirrored[column.name] != column.type:
                _retype(connection, run_id, table, column)
            continue
        if mirrored:
            connection.execute(sql.SQL("alter table {} add column {}").format(mirror, _definition(column)))
            log_added_column(connection, table.mirror, column.name)
        _comment_column(connection, mirror, column.name, _said(column, table))
    return not mirrored


def batch_of(connection: psycopg.Connection, table: Table) -> sql.Identifier | None:
    """The batch that was staged of `table`; None where it has become the mirror."""
    if not _columns_of(connection, "staging", table.mirror):
        return None
    return sql.Identifier("staging", table.mirror)


def _retype(connection: psycopg.Connection, run_id: int, table: Table, column: Column) -> None:
    # The table is read whole: a value that the new type cannot hold must not be in the way. A key must keep its rows.
    name = sql.Identifier(column.name)
    kept = (
        sql.SQL("{}::{}").format(name, sql.SQL(column.type)) if column.name in table.key else sql.SQL("null")
    )
    change = sql.SQL("alter column {} type {} using {}").format(name, sql.SQL(column.type), kept)
    _alter(connection, run_id, table, change, column.name)


def _alter(
    connection: psycopg.Connection, run_id: int, table: Table, change: sql.Composable, name: str
) -> None:
    try:
        with connection.transaction():
            connection.execute(
                sql.SQL("alter table {} {}").format(sql.Identifier("raw", table.mirror), change)
            )
            # What the column held is nowhere kept.
            mark_irreversible(connection, run_id)
    except (
        psycopg.errors.DependentObjectsStillExist,
        psycopg.errors.FeatureNotSupported,
        psycopg.DataError,
        psycopg.errors.CannotCoerce,
    ) as error:
        said = (error.diag.message_detail or error.diag.message_primary or str(error)).rstrip(".")
        raise SchemaDrift(
            f"Column {name} of {table} of source '{table.source}' has changed, and its mirror raw.{table.mirror} "
            f"cannot follow: {said}.",
            hint="Drop what depends on the column, or change the mirror by hand; then run again.",
        ) from None


def mirrored_columns(connection: psycopg.Connection, table: Table) -> dict[str, str]:
    """Columns of the mirror of `table`, without what the mirror adds: their types by name."""
    return _columns_of(connection, "raw", table.mirror)


def mirror_exists(connection: psycopg.Connection, table: Table) -> bool:
    """Whether `table` has a mirror yet."""
    return bool(_columns_of(connection, "raw", table.mirror))


def make_staging(connection: psycopg.Connection, table: Table, columns: Sequence[Column]) -> None:
    """Empty staging tables for one run of `table`: its batch, the keys that vanished, and what changed.

    The batch of a first capture survives a crash as its mirror must, since it becomes the mirror.
    """
    is_first = not mirror_exists(connection, table)
    by_name = {column.name: column for column in columns}
    key = [by_name[name] for name in table.key]
    verdict = [Column(name, kind, None, None) for name, kind in VERDICT.items()]
    # No constraint on the batch: a declared key that is none must be told in words, not by a COPY that breaks.
    for suffix, members in (("", columns), ("_deleted", key), ("_delta", [*key, *verdict])):
        name = sql.Identifier("staging", table.mirror + suffix)
        wanted = {column.name: column.type for column in members}
        becomes_mirror = is_first and not suffix
        if not becomes_mirror and _columns_of(connection, "staging", table.mirror + suffix) == wanted:
            connection.execute(sql.SQL("truncate {}").format(name))
            continue
        connection.execute(sql.SQL("drop table if exists {}").format(name))
        connection.execute(
            sql.SQL("create {} table {} ({})").format(
                sql.SQL("" if becomes_mirror else "unlogged"),
                name,
                sql.SQL(", ").join(map(_definition, members)),
            )
        )
        _comment(
            connection, sql.SQL("table {}").format(name), f"Staging of {table} of source {table.source}."
        )
        for column in members:
            _comment_column(connection, name, column.name, _said(column, table))


def table_comment(connection: psycopg.Connection, table: Table) -> str | None:
    """Comment on a source table."""
    row = connection.execute(
        "select obj_description(to_regclass(format('%%I.%%I', %s::text, %s::text)), 'pg_class')",
        [table.schema, table.name],
    ).fetchone()
    return row[0] if row else None


def _columns_of(connection: psycopg.Connection, schema: str, table: str) -> dict[str, str]:
    rows = connection.execute(
        """
        select attname, format_type(atttypid, atttypmod) from pg_attribute
        where attrelid = to_regclass(format('%%I.%%I', %s::text, %s::text)) and attnum > 0 and not attisdropped
        order by attnum
        """,
        [schema, table],
    ).fetchall()
    return {name: kind for name, kind in rows if name not in HOUSEKEEPING}


def _key_of(connection: psycopg.Connection, table: Table) -> tuple[str, ...]:
    rows = connection.execute(
        """
        select attname from pg_constraint
        cross join unnest(conkey) with ordinality as part (attnum, position)
        inner join pg_attribute on attrelid = conrelid and pg_attribute.attnum = part.attnum
        where conrelid = to_regclass(format('raw.%%I', %s::text)) and contype = 'p'
        order by part.position
        """,
        [table.mirror],
    ).fetchall()
    return tuple(name for (name,) in rows)


def _definition(column: Column) -> sql.Composable:
    return sql.SQL("{} {}").format(sql.Identifier(column.name), sql.SQL(column.type))


def _said(column: Column, table: Table) -> str:
    return column.comment or f"Column {column.name} of {table}."


def _comment(connection: psycopg.Connection, what: sql.Composable, text: str) -> None:
    connection.execute(sql.SQL("comment on {} is {}").format(what, sql.Literal(text)))


def _comment_column(connection: psycopg.Connection, mirror: sql.Identifier, name: str, text: str) -> None:
    _comment(connection, sql.SQL("column {}.{}").format(mirror, sql.Identifier(name)), text)
