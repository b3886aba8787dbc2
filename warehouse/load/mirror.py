"""Merge a staged batch into its mirror, and leave behind which keys changed and how."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql

from warehouse.db.connections import analyze_briefly
from warehouse.db.identifiers import listed, qualified, same_key
from warehouse.errors import SourceError
from warehouse.extract.mirror import batch_of, ensure_mirror, key_problem
from warehouse.extract.stage import StagedTable
from warehouse.runs.audit import Load
from warehouse.sources.declaration import Table


def merge_table(connection: psycopg.Connection, run_id: int, staged: StagedTable) -> Load:
    """Bring one mirror up to the batch; fills `staging.<mirror>_delta` with (key, operation, whether the cursor moved).

    Raises:
        SourceError: the declared key is not unique, or empty, in the source, or the table is too wide for a mirror.
    """
    started = time.monotonic()
    table = staged.table
    with _telling_problems(table):
        is_new = ensure_mirror(connection, run_id, table, staged.columns, staged.comment)
    names = {
        "mirror": sql.Identifier("raw", table.mirror),
        "batch": sql.Identifier("staging", table.mirror),
        "delta": sql.Identifier("staging", f"{table.mirror}_delta"),
        "deleted": sql.Identifier("staging", f"{table.mirror}_deleted"),
        "key": listed(table.key),
        "batch_key": qualified("batch", table.key),
        "columns": listed([column.name for column in staged.columns]),
        "batch_columns": qualified("batch", [column.name for column in staged.columns]),
        "mirror_columns": qualified("mirror", [column.name for column in staged.columns]),
        # The key too: one that is equal need not be the same, as 1.0 and 1.00.
        "assignments": _assignments([column.name for column in staged.columns]),
        "same": same_key(table.key, "mirror", "batch"),
        "run_id": sql.Literal(run_id),
        "stamp": sql.Identifier("batch", table.cursor) if table.cursor else sql.NULL,
        "old_stamp": sql.Identifier("mirror", table.cursor) if table.cursor else sql.NULL,
    }
    connection.execute(sql.SQL("truncate {delta}").format(**names))
    counts = {"insert": 0, "update": 0, "delete": 0}
    missed = 0
    if is_new:
        counts["insert"] = staged.rows_read
    # The batch is gone where an earlier try of this run made it the mirror, and lost the word of its commit.
    elif staged.rows_read and batch_of(connection, table):
        analyze_briefly(connection, names["batch"], table.key)
        known = _find_known(connection, names)
        if known:
            counts |= _change(connection, names, staged)
        if known < staged.rows_read:
            counts["insert"] += _add(connection, names, staged, known)
        missed = _cursor_missed(connection, names, staged)
    if staged.rows_vanished:
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
        seconds=round(staged.copy_seconds + time.monotonic() - started, 3),
    )


def mark_all_inserted(connection: psycopg.Connection, staged: StagedTable) -> None:
    """Fill the delta of a table whose batch has become the mirror: every row is new."""
    connection.execute(
        sql.SQL(
            "insert into {delta} ({key}, _operation, _is_stamped) select {key}, 'insert', {stamp} from {mirror}"
        ).format(
            delta=sql.Identifier("staging", f"{staged.table.mirror}_delta"),
            key=listed(staged.table.key),
            stamp=sql.SQL("{} is not null").format(sql.Identifier(staged.table.cursor))
            if staged.table.cursor
            else sql.SQL("false"),
            mirror=sql.Identifier("raw", staged.table.mirror),
        )
    )


def _find_known(connection: psycopg.Connection, names: dict[str, sql.Composable]) -> int:
    """Fill pg_temp.known with the keys of the batch that the mirror has, and what has become of each; how many."""
    # *<> compares the rows' bytes: it needs no equality operator, and tells 1.0 from 1.00 as the proof does.
    return connection.execute(
        sql.SQL(
            """
            drop table if exists pg_temp.known;
            create temp table known on commit drop as
            select
                {batch_key},
                case
                    when mirror._is_deleted then 'insert'
                    when row({batch_columns})::record *<> row({mirror_columns})::record then 'update'
                end as _operation,
                {stamp} is not null and (mirror._is_deleted or {stamp} is distinct from {old_stamp}) as _is_stamped
            from {batch} as batch
            inner join {mirror} as mirror on {same}
            """
        ).format(**names)
    ).rowcount


def _change(
    connection: psycopg.Connection, names: dict[str, sql.Composable], staged: StagedTable
) -> dict[str, int]:
    """Write the rows that the mirror has otherwise, or as deleted; how many were updated and inserted again."""
    found = connection.execute(
        sql.SQL(
            "insert into {delta} ({key}, _operation, _is_stamped) "
            "select {key}, _operation, _is_stamped from pg_temp.known where _operation is not null"
        ).format(**names)
    )
    if not found.rowcount:
        return {}
    analyze_briefly(connection, names["delta"])
    with _telling_problems(staged.table):
        connection.execute(
            sql.SQL(
                """
                insert into {mirror} ({columns}, _run_id, _is_deleted)
                select {batch_columns}, {run_id}, false
                from {delta} as delta inner join {batch} as batch on {changed}
                on conflict ({key}) do update set {assignments}_run_id = excluded._run_id, _is_deleted = false
                """
            ).format(**names, changed=same_key(staged.table.key, "delta", "batch"))
        )
    rows = connection.execute(
        sql.SQL("select _operation, count(*) from {delta} group by _operation").format(**names)
    ).fetchall()
    return dict(rows)


def _add(
    connection: psycopg.Connection, names: dict[str, sql.Composable], staged: StagedTable, known: int
) -> int:
    """Write the rows whose keys the mirror does not have, but for those `known` ones; how many."""
    new: sql.Composable = sql.SQL("true")
    if known:
        analyze_briefly(connection, sql.Identifier("pg_temp", "known"))
        new = sql.SQL("not exists (select from pg_temp.known as known where {})").format(
            same_key(staged.table.key, "known", "batch")
        )
    with _telling_problems(staged.table):
        connection.execute(
            sql.SQL(
                "insert into {mirror} ({columns}, _run_id, _is_deleted) "
                "select {batch_columns}, {run_id}, false from {batch} as batch where {new}"
            ).format(**names, new=new)
        )
    added = connection.execute(
        sql.SQL(
            "insert into {delta} ({key}, _operation, _is_stamped) "
            "select {batch_key}, 'insert', {stamp} is not null from {batch} as batch where {new}"
        ).format(**names, new=new)
    )
    return added.rowcount


@contextmanager
def _telling_problems(table: Table) -> Iterator[None]:
    try:
        yield
    except (
        psycopg.errors.CardinalityViolation,
        psycopg.errors.UniqueViolation,
        psycopg.errors.NotNullViolation,
    ) as error:
        empty = isinstance(error, psycopg.errors.NotNullViolation)
        raise key_problem(table, "empty in some rows" if empty else "not unique") from None
    except (psycopg.errors.ProgramLimitExceeded, psycopg.errors.TooManyColumns) as error:
        raise SourceError(
            f"{table} of source '{table.source}' cannot be mirrored: {error.diag.message_primary}.",
            hint="Its mirror has two columns more, and an index on the key. Declare a shorter key, or take the table "
            f"out of warehouse/sources/{table.source}/source.toml.",
        ) from error


def _cursor_missed(
    connection: psycopg.Connection, names: dict[str, sql.Composable], staged: StagedTable
) -> int:
    """Changed rows that `cursor > highest seen` would not have read."""
    cursor = staged.table.cursor
    if cursor is None or staged.whole or staged.window_low is None:
        return 0
    (cursor_type,) = (column.type for column in staged.columns if column.name == cursor)
    row = connection.execute(
        sql.SQL(
            """
            select count(*) from {delta} as delta inner join {batch} as batch on {changed}
            where batch.{cursor} is null or batch.{cursor} <= {low}::{type}
            """
        ).format(
            **names,
            changed=same_key(staged.table.key, "delta", "batch"),
            cursor=sql.Identifier(cursor),
            low=sql.Literal(staged.window_low),
            type=sql.SQL(cursor_type),
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
            insert into {delta} ({key}, _operation, _is_stamped) select {key}, 'delete', false from marked
            """
        ).format(**names, gone=same_key(key, "mirror", "deleted"), mirror_key=qualified("mirror", key))
    )
    return deleted.rowcount


def _assignments(names: list[str]) -> sql.Composable:
    return sql.SQL("").join(sql.SQL("{0} = excluded.{0}, ").format(sql.Identifier(name)) for name in names)
