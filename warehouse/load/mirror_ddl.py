"""DDL of mirrors: create a mirror from its first batch, and alter it when the columns of its source table change."""

import re
from collections.abc import Mapping, Sequence

import psycopg
from psycopg import sql

from warehouse.db.identifiers import definitions, listed
from warehouse.db.roles import OWNER
from warehouse.errors import SchemaDrift
from warehouse.extract.catalog import HOUSEKEEPING
from warehouse.extract.column import Column
from warehouse.extract.staging_tables import batch_table, column_comment, comment_on
from warehouse.history.change_log import create_triggers, log_added_column
from warehouse.runs.audit import mark_irreversible
from warehouse.sources.feed import RESCUED
from warehouse.sources.joins import without_table
from warehouse.sources.source import Source, Table, fitted


def ensure_mirror(
    connection: psycopg.Connection,
    run_id: int,
    table: Table,
    mirrored: Mapping[str, str],
    columns: Sequence[Column],
    comment: str | None,
) -> bool:
    """Turn the first batch of `table` into its mirror, or alter the mirror to have `columns`.

    `mirrored` has the types of the mirror's columns; the table's `on_schema_change` says whether dropped columns are
    dropped in the mirror. Returns whether the batch has become the mirror; then it no longer exists in staging.
    """
    if not mirrored:
        _create_mirror(connection, run_id, table, comment)
    elif table.on_schema_change.dropped_column == "evolve":
        for name in sorted(mirrored.keys() - {column.name for column in columns}):
            _alter(connection, run_id, table, sql.SQL("drop column {}").format(sql.Identifier(name)), name)
    mirror, added = sql.Identifier("raw", table.mirror), {}
    for column in columns:
        if column.name in mirrored:
            if mirrored[column.name] != column.type:
                _retype(connection, run_id, table, column)
            continue
        added[column.name] = column_comment(column, table)
        if mirrored:
            connection.execute(
                sql.SQL("alter table {} add column {}").format(
                    mirror, definitions({column.name: column.type})
                )
            )
            log_added_column(connection, table.mirror, column.name)
    comment_on(connection, mirror, added)
    return not mirrored


def create_empty_mirror(
    connection: psycopg.Connection, table: Table, columns: Sequence[Column], comment: str | None
) -> None:
    """Create a mirror without rows, and without its primary key (see `add_key`)."""
    mirror = sql.Identifier("raw", table.mirror)
    connection.execute(
        sql.SQL(
            "create table {} ({}, _run_id bigint not null, _is_deleted boolean not null default false)"
        ).format(mirror, definitions({column.name: column.type for column in columns}))
    )
    comment_on(connection, mirror, {column.name: column_comment(column, table) for column in columns})
    finish_mirror(connection, table, comment)


def add_key(connection: psycopg.Connection, table: Table) -> None:
    """Add the primary key of a mirror after filling it: building the index once is ten times cheaper."""
    connection.execute(
        sql.SQL("alter table {} add constraint {} primary key ({})").format(
            sql.Identifier("raw", table.mirror), sql.Identifier(f"pk_{table.mirror}"), listed(table.key)
        )
    )


def index_joins(connection: psycopg.Connection, source: Source) -> None:
    """Index the expressions that joins compare in the mirrors, so that following a change does not scan them."""
    compared: dict[str, tuple[Table, tuple[str, ...]]] = {}
    for entity in source.entities.values():
        for join, near in [(one, near) for one in entity.joins for near in one.near]:
            equalities = [one for one in join.equalities if one.near == near]
            for table, expressions in (
                (entity.tables[near], [without_table(one.near_expression) for one in equalities]),
                (entity.tables[join.table], [without_table(one.expression) for one in equalities]),
            ):
                columns = {one.strip('"') for one in expressions}
                if columns and columns != set(table.key[: len(columns)]):
                    name = "_".join(["ix", table.mirror, *re.findall(r"\w+", " ".join(expressions))])
                    compared[fitted(name)] = (table, tuple(expressions))
    missing = connection.execute(
        "select name from unnest(%s::text[]) as name where to_regclass(format('raw.%%I', name)) is null",
        [list(compared)],
    ).fetchall()
    for (name,) in missing:
        _index(connection, name, *compared[name])


def _index(connection: psycopg.Connection, name: str, table: Table, expressions: Sequence[str]) -> None:
    mirror = sql.Identifier("raw", table.mirror)
    try:
        with connection.transaction():
            types = connection.execute(
                sql.SQL("select {} from {} limit 0").format(
                    sql.SQL(", ").join(map(sql.SQL, expressions)), mirror
                )
            ).description
            has_fixed_size = connection.execute(
                "select typlen > 0 from unnest(%s::oid[]) with ordinality as kind (oid, position) "
                "inner join pg_type using (oid) order by position",
                [[column.type_code for column in types or ()]],
            ).fetchall()
            fixed = [one for one, (is_fixed,) in zip(expressions, has_fixed_size, strict=True) if is_fixed]
            # A text may be too long for a B-tree entry, which would fail the capture: index texts by hash, the last of
            # several, since what begins a key, as a tenant, is the same in many rows.
            connection.execute(
                sql.SQL("create index {} on {} using {} ({})").format(
                    sql.Identifier(name),
                    mirror,
                    sql.SQL("btree" if fixed else "hash"),
                    sql.SQL(", ").join(sql.SQL(f"({one})") for one in fixed or expressions[-1:]),
                )
            )
    except psycopg.ProgrammingError:
        # Some expressions and types cannot be indexed; their joins scan the mirror.
        return


def _create_mirror(connection: psycopg.Connection, run_id: int, table: Table, comment: str | None) -> None:
    # The table has a watermark, so a mirror was dropped, which an undo cannot restore.
    if connection.execute(
        "select from audit.watermark where source = %s and table_name = %s", [table.source, table.name]
    ).rowcount:
        mark_irreversible(connection, run_id)
    mirror = sql.Identifier("raw", table.mirror)
    # The batch itself becomes the mirror: its rows are not copied again, and the primary key is built in one pass.
    connection.execute(
        sql.SQL(
            """
            alter table {batch}
                add column _run_id bigint not null default {run_id},
                add column _is_deleted boolean not null default false;
            alter table {batch} alter column _run_id drop default;
            alter table {batch} add constraint {constraint} primary key ({key});
            alter table {batch} set schema raw;
            analyze {mirror}
            """
        ).format(
            batch=batch_table(table),
            mirror=mirror,
            run_id=sql.Literal(run_id),
            constraint=sql.Identifier(f"pk_{table.mirror}"),
            key=listed(table.key),
        )
    )
    finish_mirror(connection, table, comment)


def finish_mirror(connection: psycopg.Connection, table: Table, comment: str | None) -> None:
    """Comment on a mirror that was just created, and create the triggers of the change log."""
    mirror = sql.Identifier("raw", table.mirror)
    text = comment or f"Table {table} of source {table.source}."
    comment_on(connection, mirror, HOUSEKEEPING, f"Mirror. {text}")
    create_triggers(connection, "raw", table.mirror)
    # Triggers receive deleted rows, but have to read the table's rows before a TRUNCATE.
    connection.execute(sql.SQL("grant select on {} to {}").format(mirror, sql.Identifier(OWNER)))


def _retype(connection: psycopg.Connection, run_id: int, table: Table, column: Column) -> None:
    name = sql.Identifier(column.name)
    if table.columns:
        value = _keep_unfit(connection, table, column)
    elif column.name in table.key:
        value = sql.SQL("{}::{}").format(name, sql.SQL(column.type))
    else:
        # The table is read in full after a change of type, so old values are not needed; only keys are converted.
        value = sql.SQL("null")
    change = sql.SQL("alter column {} type {} using {}").format(name, sql.SQL(column.type), value)
    _alter(connection, run_id, table, change, column.name)


def _keep_unfit(connection: psycopg.Connection, table: Table, column: Column) -> sql.Composable:
    """Move a feed's values that the column's new type cannot hold to its rescued data: files are not read again.

    Returns the expression that casts the other values to the new type.
    """
    names = {
        "mirror": sql.Identifier("raw", table.mirror),
        "column": sql.Identifier(column.name),
        "field": sql.Literal(column.name),
        "kind": sql.SQL(column.type),
        "rescued": sql.Identifier(RESCUED),
    }
    fits = sql.SQL("pg_input_is_valid({column}::text, {type_name})").format(
        **names, type_name=sql.Literal(column.type)
    )
    connection.execute(
        sql.SQL(
            "update {mirror} set {rescued} = coalesce({rescued}, '{{}}') || jsonb_build_object({field}, {column}) "
            "where not {fits}"
        ).format(**names, fits=fits)
    )
    return sql.SQL("case when {fits} then {column}::text::{kind} end").format(**names, fits=fits)


def _alter(
    connection: psycopg.Connection, run_id: int, table: Table, change: sql.Composable, name: str
) -> None:
    try:
        with connection.transaction():
            connection.execute(
                sql.SQL("alter table {} {}").format(sql.Identifier("raw", table.mirror), change)
            )
            # The old values are stored nowhere else, so an undo cannot restore them.
            mark_irreversible(connection, run_id)
    except (
        psycopg.errors.DependentObjectsStillExist,
        psycopg.errors.FeatureNotSupported,
        psycopg.DataError,
        psycopg.errors.CannotCoerce,
    ) as error:
        reason = (error.diag.message_detail or error.diag.message_primary or str(error)).rstrip(".")
        raise SchemaDrift(
            f"Column {name} of {table} of source '{table.source}' has changed, and its mirror raw.{table.mirror} "
            f"cannot follow: {reason}.",
            hint="Drop what depends on the column, or change the mirror by hand; then run again.",
        ) from None
