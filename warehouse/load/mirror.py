"""Merge staged batches into their mirrors, and record in delta tables which keys were inserted, updated or deleted."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import psycopg
from psycopg import sql

from warehouse.db import staying_session
from warehouse.db.identifiers import assigned, each, listed, qualified, same_key
from warehouse.db.staying_session import analyze
from warehouse.errors import SourceError
from warehouse.extract.catalog import columns_of_each, invalid_key
from warehouse.extract.staged import Staged, StagedTable
from warehouse.extract.staging_tables import (
    batch_exists,
    batch_table,
    before_name,
    before_table,
    deleted_table,
    delta_table,
)
from warehouse.extract.watermark import read_watermark
from warehouse.load.mirror_ddl import ensure_mirror, index_joins
from warehouse.runs.audit import Load
from warehouse.sources.source import Table


@dataclass
class Prepared:
    """Mirrors that a run has created, or whose new columns it has filled, before it merges its changes."""

    created: dict[Table, Load] = field(default_factory=dict)
    filled: list[Table] = field(default_factory=list)


def prepare_mirrors(connection: psycopg.Connection, run_id: int, staged: Staged) -> Prepared:
    """Create missing mirrors, and fill new columns of the others, because changed conform SQL may read them.

    No other value of a mirror changes: it still shows what the last run has read. A mirror whose first load was undone
    exists but is empty and has no watermark; it is filled as if it were missing. New columns of a feed's mirrors stay
    empty until the merge: this run may reject a record, whose earlier version has no value of them.
    """
    prepared, present = Prepared(), _present(connection, staged.tables)
    for one in staged.tables:
        table, mirrored = one.table, present[one.table].mirrored
        if mirrored and staged.source.feed is not None:
            with _explain_errors(table):
                ensure_mirror(connection, run_id, table, mirrored, one.columns, one.comment)
            continue
        if not mirrored or read_watermark(connection, table) is None:
            prepared.created[table] = merge_table(connection, run_id, one, present[table])
            continue
        changed = [
            column.name
            for column in one.columns
            if mirrored.get(column.name) != column.type and column.name not in table.key
        ]
        if changed and present[table].has_batch:
            with _explain_errors(table):
                ensure_mirror(connection, run_id, table, mirrored, one.columns, one.comment)
            connection.execute(
                sql.SQL(
                    "update {mirror} as mirror set {assigned} from {batch} as batch "
                    "where {same} and not mirror._is_deleted"
                ).format(
                    mirror=sql.Identifier("raw", table.mirror),
                    assigned=assigned(changed, "batch"),
                    batch=batch_table(table),
                    same=same_key(table.key, "mirror", "batch"),
                )
            )
            prepared.filled.append(table)
    return prepared


def merge_mirrors(
    connection: psycopg.Connection,
    run_id: int,
    staged: Staged,
    is_full_load: bool,
    progress: Callable[[str], None],
    prepared: Prepared | None = None,
) -> list[Load]:
    """Merge every staged table into its mirror; in a full load, star and quarantine have no rows of the source.

    Raises:
        SourceError: a declared key does not identify rows, or a table is too wide for a mirror.
    """
    prepared = prepared or Prepared()
    loads = []
    joined = {
        entity.tables[join.table] for entity in staged.source.entities.values() for join in entity.joins
    }
    idle = {table.table for table in staged.tables if staged.batch is not None and not table.rows_read}
    if idle:
        staying_session.empty(connection, *map(delta_table, idle))
    busy = [table for table in staged.tables if table.table not in idle]
    # In a session of `dwh live` no batch becomes a mirror, so the catalog is read once.
    present = staying_session.remembered(
        connection, ("present", *(table.table for table in busy)), lambda: _present(connection, busy)
    )
    for table in staged.tables:
        if table.table in idle:
            loads.append(Load(table.table.source, f"raw.{table.table.mirror}"))
            continue
        is_filled = table.table in prepared.filled
        load = prepared.created.get(table.table) or merge_table(
            connection,
            run_id,
            table,
            present[table.table],
            keeps_before=table.table in joined and not is_filled,
        )
        if is_filled:
            more = _mark_others_updated(connection, table.table)
            load = replace(
                load, rows_updated=load.rows_updated + more, rows_unchanged=load.rows_unchanged - more
            )
        loads.append(load)
        progress(str(load))
    # Rows loaded before may refer to rows of a mirror that was created again, so all its rows count as inserted.
    for table in () if is_full_load else staged.tables:
        if table.full_refresh and not batch_exists(connection, table.table):
            _mark_all_inserted(connection, table)
    staying_session.remembered(
        connection, ("joins are indexed", staged.source.name), lambda: index_joins(connection, staged.source)
    )
    return loads


@dataclass(frozen=True)
class _Present:
    """What exists of a table: types of its mirror's columns (none without a mirror), and whether it has a batch."""

    mirrored: Mapping[str, str]
    has_batch: bool


def _present(connection: psycopg.Connection, tables: Sequence[StagedTable]) -> dict[Table, _Present]:
    """Read from the catalog what exists of each table."""
    names = [one.table.mirror for one in tables]
    columns = columns_of_each(
        connection, *(("raw", name) for name in names), *(("staging", name) for name in names)
    )
    return {
        one.table: _Present(mirrored, bool(batch))
        for one, mirrored, batch in zip(tables, columns[: len(tables)], columns[len(tables) :], strict=True)
    }


def merge_table(
    connection: psycopg.Connection,
    run_id: int,
    staged: StagedTable,
    present: _Present,
    *,
    keeps_before: bool = False,
) -> Load:
    """Merge the batch of one table into its mirror, and fill `staging.<mirror>_delta` with the keys that changed.

    With `keeps_before`, a temporary table keeps the old images of updated rows, unless a column changed its type.

    Raises:
        SourceError: the declared key is not unique, or null, in the source, or the table is too wide for a mirror.
    """
    started = time.monotonic()
    table, mirrored = staged.table, present.mirrored
    # The old values of a column that changed its type are dropped by `ensure_mirror`.
    keeps_before = keeps_before and all(
        mirrored.get(column.name, column.type) == column.type for column in staged.columns
    )
    with _explain_errors(table):
        is_new = ensure_mirror(connection, run_id, table, mirrored, staged.columns, staged.comment)
    names = {
        "mirror": sql.Identifier("raw", table.mirror),
        "batch": batch_table(table),
        "delta": delta_table(table),
        "before": before_table(table),
        "deleted": deleted_table(table),
        "present": sql.Identifier("pg_temp", _present_name(table)),
        "key": listed(table.key),
        "batch_key": qualified("batch", table.key),
        "columns": listed([column.name for column in staged.columns]),
        "batch_columns": qualified("batch", [column.name for column in staged.columns]),
        "mirror_columns": qualified("mirror", [column.name for column in staged.columns]),
        # Key columns are assigned, too: equal keys may differ in their bytes, as 1.0 and 1.00.
        "assignments": each("{0} = excluded.{0}", [column.name for column in staged.columns]),
        "same": same_key(table.key, "mirror", "batch"),
        "run_id": sql.Literal(run_id),
        "cursor": sql.Identifier("batch", table.cursor) if table.cursor else sql.NULL,
        "old_cursor": sql.Identifier("mirror", table.cursor) if table.cursor else sql.NULL,
    }
    staying_session.empty(connection, delta_table(table))
    has_batch = not is_new and bool(staged.rows_read or staged.rows_deleted) and present.has_batch
    keeps_before = keeps_before and has_batch
    if keeps_before:
        staying_session.create_temporary(
            connection, before_name(table), sql.SQL("select * from {mirror} limit 0").format(**names)
        )
    counts = {"insert": 0, "update": 0, "delete": 0}
    missed = 0
    if is_new:
        counts["insert"] = staged.rows_read
    # The batch is missing if an earlier attempt of this run turned it into the mirror and lost the reply to its commit.
    elif staged.rows_read and has_batch:
        analyze(connection, names["batch"], table.key)
        existing = _find_existing(connection, table, names)
        if existing and keeps_before:
            connection.execute(_KEEP_BEFORE.format(**names))
        if existing:
            counts |= _change(connection, names, staged)
        if existing < staged.rows_read:
            counts["insert"] += _add(connection, names, staged, existing)
        missed = _cursor_missed(connection, names, staged)
    if staged.rows_deleted:
        counts["delete"] = _delete(connection, names, table.key)
    return Load(
        table.source,
        f"raw.{table.mirror}",
        window_low=staged.window_low,
        rows_read=staged.rows_read,
        rows_inserted=counts["insert"],
        rows_updated=counts["update"],
        rows_deleted=counts["delete"],
        rows_unchanged=staged.rows_read - counts["insert"] - counts["update"],
        rows_cursor_missed=missed,
        rows_found_by_checksum=staged.rows_found_by_checksum,
        source_rows_read=staged.counters.rows_read if staged.counters else None,
        source_blocks_read=staged.counters.blocks_read if staged.counters else None,
        note="; ".join(staged.notes) or None,
        seconds=round(staged.copy_seconds + time.monotonic() - started, 3),
    )


_KEEP_BEFORE = sql.SQL(
    "insert into {before} select mirror.* from {present} as batch inner join {mirror} as mirror on {same} "
    "where batch._operation = 'update'"
)


def _mark_all_inserted(connection: psycopg.Connection, staged: StagedTable) -> None:
    """Fill the delta of a table whose batch has become the mirror: every row was inserted."""
    connection.execute(
        sql.SQL(
            "insert into {delta} ({key}, _operation, _has_updated_at) "
            "select {key}, 'insert', {cursor} is not null from {mirror}"
        ).format(
            delta=delta_table(staged.table),
            key=listed(staged.table.key),
            cursor=sql.Identifier(staged.table.cursor) if staged.table.cursor else sql.NULL,
            mirror=sql.Identifier("raw", staged.table.mirror),
        )
    )


def _mark_others_updated(connection: psycopg.Connection, table: Table) -> int:
    """Add rows to the delta of which only a column that `prepare_mirrors` filled has changed; returns their number."""
    return connection.execute(
        sql.SQL(
            "insert into {delta} ({key}, _operation, _has_updated_at) select {mirror_key}, 'update', false "
            "from {mirror} as mirror where not mirror._is_deleted "
            "and not exists (select from {delta} as delta where {same})"
        ).format(
            delta=delta_table(table),
            key=listed(table.key),
            mirror_key=qualified("mirror", table.key),
            mirror=sql.Identifier("raw", table.mirror),
            same=same_key(table.key, "mirror", "delta"),
        )
    ).rowcount


def _present_name(table: Table) -> str:
    """Name the temporary table of the batch's keys that the mirror already has."""
    return f"present_{table.mirror}"


def _find_existing(connection: psycopg.Connection, table: Table, names: dict[str, sql.Composable]) -> int:
    """Fill a temporary table with the batch's keys that the mirror already has, and how their rows changed.

    Returns the number of keys.
    """
    # *<> compares bytes: it needs no equality operator, and distinguishes 1.0 from 1.00, as verification does.
    return staying_session.create_temporary(
        connection,
        _present_name(table),
        sql.SQL(
            """
            select
                {batch_key},
                case
                    when mirror._is_deleted then 'insert'
                    when row({batch_columns})::record *<> row({mirror_columns})::record then 'update'
                end as _operation,
                {cursor} is not null
                and (mirror._is_deleted or {cursor} is distinct from {old_cursor}) as _has_updated_at
            from {batch} as batch
            inner join {mirror} as mirror on {same}
            """
        ).format(**names),
        replaces=True,
    )


def _change(
    connection: psycopg.Connection, names: dict[str, sql.Composable], staged: StagedTable
) -> dict[str, int]:
    """Update the mirror's rows that differ from the batch's, and insert again those that it has as deleted.

    Returns how many rows were updated and how many were inserted again.
    """
    changed = connection.execute(
        sql.SQL(
            "insert into {delta} ({key}, _operation, _has_updated_at) "
            "select {key}, _operation, _has_updated_at from {present} where _operation is not null"
        ).format(**names)
    )
    if not changed.rowcount:
        return {}
    analyze(connection, names["delta"])
    with _explain_errors(staged.table):
        connection.execute(
            sql.SQL(
                """
                insert into {mirror} ({columns}, _run_id, _is_deleted)
                select {batch_columns}, {run_id}, false
                from {delta} as delta inner join {batch} as batch on {changed}
                on conflict ({key}) do update set {assignments}, _run_id = excluded._run_id, _is_deleted = false
                """
            ).format(**names, changed=same_key(staged.table.key, "delta", "batch"))
        )
    rows = connection.execute(
        sql.SQL("select _operation, count(*) from {delta} group by _operation").format(**names)
    ).fetchall()
    return dict(rows)


def _add(
    connection: psycopg.Connection, names: dict[str, sql.Composable], staged: StagedTable, existing: int
) -> int:
    """Insert the rows of the batch whose keys are not among the `existing` ones; returns their number."""
    new: sql.Composable = sql.SQL("true")
    if existing:
        analyze(connection, names["present"])
        new = sql.SQL("not exists (select from {} as existing where {})").format(
            names["present"], same_key(staged.table.key, "existing", "batch")
        )
    with _explain_errors(staged.table):
        connection.execute(
            sql.SQL(
                "insert into {mirror} ({columns}, _run_id, _is_deleted) "
                "select {batch_columns}, {run_id}, false from {batch} as batch where {new}"
            ).format(**names, new=new)
        )
    added = connection.execute(
        sql.SQL(
            "insert into {delta} ({key}, _operation, _has_updated_at) "
            "select {batch_key}, 'insert', {cursor} is not null from {batch} as batch where {new}"
        ).format(**names, new=new)
    )
    return added.rowcount


@contextmanager
def _explain_errors(table: Table) -> Iterator[None]:
    try:
        yield
    except (
        psycopg.errors.CardinalityViolation,
        psycopg.errors.UniqueViolation,
        psycopg.errors.NotNullViolation,
    ) as error:
        is_null = isinstance(error, psycopg.errors.NotNullViolation)
        raise invalid_key(table, "null in some rows" if is_null else "not unique") from None
    except (psycopg.errors.ProgramLimitExceeded, psycopg.errors.TooManyColumns) as error:
        raise SourceError(
            f"{table} of source '{table.source}' cannot be mirrored: {error.diag.message_primary}.",
            hint="Its mirror has two columns more, and an index on the key. Declare a shorter key, or take the table "
            f"out of the source.toml of '{table.source}'.",
        ) from error


def _cursor_missed(
    connection: psycopg.Connection, names: dict[str, sql.Composable], staged: StagedTable
) -> int:
    """Count the changed rows that a plain cursor (`cursor > highest value seen`) would have missed."""
    cursor = staged.table.cursor
    if cursor is None or staged.full_refresh or staged.window_low is None:
        return 0
    row = connection.execute(
        sql.SQL(
            """
            select count(*) from {delta} as delta inner join {batch} as batch on {changed}
            where {cursor} is null or {cursor} <= {low}::{type}
            """
        ).format(
            **names,
            changed=same_key(staged.table.key, "delta", "batch"),
            low=sql.Literal(staged.window_low),
            type=sql.SQL(staged.cursor_type),
        )
    ).fetchone()
    assert row is not None
    return int(row[0])


def _delete(connection: psycopg.Connection, names: dict[str, sql.Composable], key: tuple[str, ...]) -> int:
    deleted = connection.execute(
        sql.SQL(
            """
            with marked as (
                update {mirror} as mirror set _is_deleted = true, _run_id = {run_id}
                from {deleted} as deleted
                where {gone} and not mirror._is_deleted
                returning {mirror_key}
            )
            insert into {delta} ({key}, _operation, _has_updated_at) select {key}, 'delete', false from marked
            """
        ).format(**names, gone=same_key(key, "mirror", "deleted"), mirror_key=qualified("mirror", key))
    )
    return deleted.rowcount
