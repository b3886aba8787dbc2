"""Publish captured batches for the archive: large ones are written to files already, small ones are kept as rows."""

from collections.abc import Sequence

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from warehouse.archive.batch_files import Written
from warehouse.archive.capture_plan import Part, batch_of, columns_of, kind_of, plan_batches
from warehouse.archive.changed_rows import is_overdue
from warehouse.archive.manifest import Entry, Kind, write_manifest
from warehouse.archive.pending import Columns, begin_batch, keep_rows, publish_files, publish_rows
from warehouse.archive.place import table_path
from warehouse.extract.snapshot import Snapshot
from warehouse.extract.staged import Staged, StagedTable


def publish_batches(connection: psycopg.Connection, run_id: int, staged: Staged, written: Written) -> bool:
    """Publish the batches of a staged source for the archive. Call it before the merge unless they `outlive_merge`.

    Returns whether to archive the audit trail, too: live capture does so only every OVERDUE_SECONDS. Live skips mirrors
    that need a baseline; the next scheduled run archives all their rows.
    """
    plans = plan_batches(connection, staged.tables)
    if staged.batch is not None:
        plans = [one for one in plans if not one.has_baseline]
        if not plans:
            return False
    entries = []
    for plan in plans:
        one = plan.staged
        if plan.has_baseline and (one.table, "baseline") not in written:
            # The baseline truncates all lower batch ids, so the files already written for this batch are void.
            written = {key: batch for key, batch in written.items() if key[0] != one.table}
        entries += [_publish(connection, run_id, one, kind, staged.snapshot, written) for kind in plan.kinds]
        if plan.has_new_columns and not plan.has_batch:
            entries.append(_entry(one, kind_of(one), columns_of(one), None, 0, staged.snapshot))
    if staged.batch is not None and not is_overdue(connection):
        # Live batches get manifest rows only every OVERDUE_SECONDS, unless the columns changed.
        changed = {plan.staged.table for plan in plans if plan.has_new_columns}
        entries = [one for one in entries if one.table in changed]
    write_manifest(connection, run_id, entries)
    _remember(connection, run_id, [plan.staged for plan in plans], is_changed=bool(entries))
    return bool(entries)


def _publish(
    connection: psycopg.Connection,
    run_id: int,
    staged: StagedTable,
    kind: Kind,
    snapshot: Snapshot,
    written: Written,
) -> Entry:
    table, batch = staged.table, batch_of(connection, staged, kind, snapshot)
    if files := written.get((table, kind)):
        publish_files(connection, files.batch_id, files.files)
        batch_id, rows = files.batch_id, sum(file.rows for file in files.files)
    else:
        taken_at, xmin = (batch.snapshot.taken_at, batch.snapshot.xmin) if batch.snapshot else (None, None)
        path = table_path(table.source, table.name)
        batch_id, _ = begin_batch(connection, path, run_id, table.key, batch.columns, taken_at, xmin)
        for part in batch.parts:
            _keep_part(connection, batch_id, batch.columns, part)
        rows = publish_rows(connection, batch_id)
    return _entry(staged, kind, batch.columns, batch_id, rows, batch.snapshot)


def _entry(
    staged: StagedTable,
    kind: Kind,
    columns: Columns,
    batch_id: int | None,
    rows: int,
    snapshot: Snapshot | None,
) -> Entry:
    comments = {column.name: column.comment for column in staged.columns if column.comment}
    return Entry(staged.table, kind, columns, staged.comment, batch_id, rows, snapshot, comments)


def _keep_part(connection: psycopg.Connection, batch_id: int, columns: Columns, part: Part) -> int:
    """Keep rows of a batch in the warehouse; returns their number."""
    values = [sql.Identifier(name) if name in part.columns else None for name, _ in columns]
    operation = sql.Literal(part.operation) if isinstance(part.operation, str) else part.operation
    return keep_rows(connection, batch_id, operation, values, part.rows, part.mirror_run_id or sql.NULL)


def _remember(
    connection: psycopg.Connection, run_id: int, tables: Sequence[StagedTable], *, is_changed: bool
) -> None:
    paths = [table_path(one.table.source, one.table.name) for one in tables]
    if not is_changed:
        connection.execute(
            "update audit.archive_table set captured_run_id = %s where path = any(%s)", [run_id, paths]
        )
        return
    with connection.cursor() as cursor:
        cursor.executemany(
            """
            insert into audit.archive_table (path, columns, captured_run_id) values (%s, %s, %s)
            on conflict (path) do update
            set columns = excluded.columns, captured_run_id = excluded.captured_run_id
            """,
            [
                (path, Jsonb([list(column) for column in columns_of(one)]), run_id)
                for path, one in zip(paths, tables, strict=True)
            ],
        )
