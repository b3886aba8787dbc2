"""Stage: from one snapshot of a source, copy the rows that may have changed and find the keys that were deleted."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Literal

import psycopg
from psycopg import sql

from warehouse.db.connections import read_only_transaction
from warehouse.db.identifiers import listed
from warehouse.errors import SourceError
from warehouse.extract import deletes, undecodable
from warehouse.extract.catalog import invalid_key, source_columns, table_comment
from warehouse.extract.checksum_store import store_checksums, verified_checksums
from warehouse.extract.checksums import chunks_for, compute_checksums, differing_chunks, hashing, row_count
from warehouse.extract.column import Column
from warehouse.extract.copy_stream import copy_stream
from warehouse.extract.delete_threshold import DeleteThreshold
from warehouse.extract.drift import find_drift
from warehouse.extract.expected import describe_changes, expected_checksums, expected_rows, without_deleted
from warehouse.extract.missed_rows import read_missed_rows
from warehouse.extract.snapshot import Snapshot, check_readable, snapshot_of
from warehouse.extract.source_identity import captured_identity, check_same_source
from warehouse.extract.staged import Staged, StagedTable
from warehouse.extract.staging_tables import batch_table, create_staging
from warehouse.extract.table_identity import read_identity
from warehouse.extract.watermark import (
    Watermark,
    changed_since,
    find_window,
    read_watermark,
    without_late_cursor,
)
from warehouse.runs.audit import Run, ensure_alive
from warehouse.runs.definitions import read_contracts
from warehouse.sources.declaration import Source, Table

Progress = Callable[[str], None]
XminScan = Literal["always", "unless-quiet"]


def stage(
    run: Run,
    source: Source,
    source_url: str,
    *,
    threshold: DeleteThreshold,
    full_refresh: bool = False,
    accept_source: bool = False,
    xmin_scan: XminScan = "always",
    lock_wait_seconds: float = 60,
    progress: Progress = lambda _: None,
) -> Staged:
    """Copy what may have changed since the last published run into schema staging; publishes nothing.

    `full_refresh` reads every row again. `accept_source` does so, too, and takes another database than the one that was
    read last for the source from now on. `xmin_scan` "unless-quiet" reads by the cursor alone where no transaction was
    open at the last snapshot: an index scan instead of a table scan.

    Raises:
        SourceChanged: it is another database, and `accept_source` is not given.
        SourceLocked: somebody still held a lock on a table after `lock_wait_seconds`.
        SourceError, SchemaDrift, DeclarationError: the source cannot be read completely.
        DeleteThresholdExceeded: more of a table was deleted than `threshold` allows.
    """
    # First of all: without its contracts a source is not even read.
    contracts = read_contracts(source)
    staged = []
    with (
        snapshot_of(
            source.name, source_url, source.tables, lock_wait_seconds=lock_wait_seconds, progress=progress
        ) as (reader, snapshot),
        run.session("stage") as writer,
    ):
        is_accepted = accept_source and _accept(writer, source, snapshot, progress)
        if not is_accepted:
            before = captured_identity(writer, source.name)
            for note in check_same_source(source.name, before, snapshot.identity):
                progress(f"source {source.name}: {note}")
        for table in source.tables:
            full = full_refresh or accept_source
            try:
                staged.append(_stage_table(reader, writer, table, snapshot, full, xmin_scan, progress))
            except undecodable.ERRORS as error:
                # The transaction has failed: where it was is found out in another one.
                with read_only_transaction(source.name, source_url, application_name="dwh capture") as other:
                    columns = source_columns(other, replace(table, undecodable="refuse"))
                    raise undecodable.explain_undecodable(other, table, columns, error) from None
            if is_accepted:
                progress(f"{table.name}: {describe_changes(writer, staged[-1])}")
            # The staging tables belong to the run that holds the source's lock.
            ensure_alive(run)
            run.commit(writer)
        deletes.check_threshold(writer, staged, threshold)
    return Staged(
        source,
        snapshot,
        tuple(staged),
        contracts,
        threshold,
        is_refresh_requested=full_refresh or accept_source,
    )


def _accept(writer: psycopg.Connection, source: Source, snapshot: Snapshot, progress: Progress) -> bool:
    """Report that another database becomes the source; returns whether one had been read before."""
    before = captured_identity(writer, source.name)
    if before is None:
        return False
    progress(
        f"source {source.name} is {snapshot.identity} from now on, and was {before}: everything is read again; "
        "compared with what was read last:"
    )
    return True


def _stage_table(
    reader: psycopg.Connection,
    writer: psycopg.Connection,
    table: Table,
    snapshot: Snapshot,
    full_refresh: bool,
    xmin_scan: XminScan,
    progress: Progress,
) -> StagedTable:
    started = time.monotonic()
    has_transaction_ids = check_readable(reader, table)
    drift = find_drift(writer, table, source_columns(reader, table))
    identity = read_identity(reader, table)
    window = find_window(
        table,
        read_watermark(writer, table),
        snapshot,
        identity,
        full_refresh=full_refresh or drift.needs_full_refresh,
    )
    watermark = without_late_cursor(writer, window.watermark, drift.columns, table, snapshot)
    notes = [*drift.messages, *window.notes]
    for message in notes:
        progress(f"{table.name}: {message}")
    create_staging(writer, table, drift.columns)
    by_cursor = xmin_scan == "unless-quiet" and watermark is not None and watermark.no_open_transactions
    where = changed_since(
        table, drift.columns, watermark, by_cursor=by_cursor, new_relations=window.new_relations
    )
    if watermark is not None and not has_transaction_ids:
        # Of a view the checksums say which rows have changed.
        where = sql.SQL("false")
    rows_read = _copy_rows(reader, writer, table, drift.columns, where)
    copied = time.monotonic()
    for name, rows in undecodable.count_undecodable(reader, table, drift.columns, where).items():
        notes.append(
            f"column {name}: bytes that are no text in {rows:,} rows (undecodable: {table.undecodable})"
        )
        progress(f"{table.name}: {notes[-1]}")
    rows_deleted, rows_found = _compare_checksums(
        reader, writer, table, drift.columns, snapshot, watermark, where
    )
    progress(f"{table.name}: {rows_read + rows_found:,} rows staged")
    if rows_found and has_transaction_ids:
        notes.append(f"{rows_found:,} rows that no newer transaction wrote were found by their checksums")
        progress(f"{table.name}: {notes[-1]}")
    return StagedTable(
        table,
        drift.columns,
        table_comment(reader, table),
        full_refresh=watermark is None,
        window_low=watermark.cursor_value if watermark else None,
        rows_read=rows_read + rows_found,
        rows_deleted=rows_deleted,
        copy_seconds=copied - started,
        scan_seconds=time.monotonic() - copied,
        hashing=hashing(reader, writer),
        identity=identity,
        rows_found_by_checksum=rows_found if has_transaction_ids else 0,
        notes=tuple(notes),
    )


def _copy_rows(
    reader: psycopg.Connection,
    writer: psycopg.Connection,
    table: Table,
    columns: Sequence[Column],
    where: sql.Composable,
) -> int:
    outgoing = sql.SQL("copy (select {} from {} where {}) to stdout (format binary)").format(
        sql.SQL(", ").join(column.selected for column in columns),
        sql.Identifier(*table.at_source),
        where,
    )
    incoming = sql.SQL("copy {} ({}) from stdin (format binary)").format(
        batch_table(table), listed([column.name for column in columns])
    )
    try:
        return copy_stream(reader, outgoing, writer, incoming)
    except undecodable.ERRORS:
        raise
    except psycopg.DataError as error:
        raise SourceError(
            f"A value of {table} of source '{table.source}' does not fit its mirror: {error.diag.message_primary}.",
            # Only there the mirror's type is another one than the source's.
            hint='Let the mirror take the column\'s new type: changed_type = "evolve" under [on_schema_change] in '
            f"the source.toml of '{table.source}'."
            if table.on_schema_change.changed_type == "ignore"
            else "Correct the value in the source.",
        ) from error


def _compare_checksums(
    reader: psycopg.Connection,
    writer: psycopg.Connection,
    table: Table,
    columns: tuple[Column, ...],
    snapshot: Snapshot,
    watermark: Watermark | None,
    already_read: sql.Composable,
) -> tuple[int, int]:
    """Store the source's checksums at this snapshot for the verification. Where mirror and batch differ from them,
    stage the keys that were deleted, and read the rows that were not among those `already_read`.

    Returns the number of deleted keys and that of rows read.
    """
    relation = sql.Identifier(*table.at_source)
    chunks = chunks_for(expected_rows(writer, table))
    method = hashing(reader, writer)
    is_full = watermark is None
    verified = (
        verified_checksums(writer, table, watermark.captured_at, columns, chunks) if watermark else None
    )
    # Source and warehouse are different servers: hash both in parallel.
    with ThreadPoolExecutor(max_workers=1) as pool:
        pending = pool.submit(
            compute_checksums, reader, relation, table.key, columns, chunks, method, at_source=True
        )
        expected = expected_checksums(writer, table, columns, chunks, method, verified, keys_only=is_full)
        source = pending.result()
    store_checksums(writer, table, snapshot.taken_at, columns, source, chunks)
    if expected is None:
        return 0, 0
    buckets = differing_chunks(source, expected, content=False)
    deleted = deletes.find_deleted_keys(reader, writer, table, columns, buckets, chunks)
    # More rows than keys: some were not read, or share their key.
    if row_count(source) > row_count(expected) - deleted and deletes.has_repeated_key(writer, table):
        raise invalid_key(table, "not unique")
    if is_full:
        return deleted, 0
    if deleted:
        expected = without_deleted(writer, table, columns, chunks, method, expected)
    buckets = differing_chunks(source, expected, content=True)
    return deleted, read_missed_rows(reader, writer, table, columns, already_read, buckets, chunks)
