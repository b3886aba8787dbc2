"""Stage: from one snapshot of a source, copy the rows that may have changed and find the keys that were deleted."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import psycopg

from warehouse.db.connections import read_only_transaction
from warehouse.extract import deletes, undecodable
from warehouse.extract.access_paths import NO_PATHS, read_access_paths
from warehouse.extract.catalog import source_columns
from warehouse.extract.checksum_store import store_checksums, stored_checksums
from warehouse.extract.cursor_window import outdated_cursors
from warehouse.extract.delete_threshold import DeleteThreshold
from warehouse.extract.expected import describe_changes
from warehouse.extract.limits import DEFAULT_LIMITS, ReadLimits
from warehouse.extract.open_transactions import find_open_transactions
from warehouse.extract.range_store import forget_unverified
from warehouse.extract.reading import last_open_transactions, smallest_tables
from warehouse.extract.snapshot import Snapshot, snapshot_of
from warehouse.extract.source_counters import read_counters
from warehouse.extract.source_identity import captured_identity, check_same_source
from warehouse.extract.stage_table import TableStager, TableState
from warehouse.extract.staged import Staged, StagedTable
from warehouse.extract.staging_tables import create_staging
from warehouse.extract.table_catalog import read_catalogs
from warehouse.extract.watermark import Watermark, read_watermarks
from warehouse.runs.audit import Run, ensure_alive
from warehouse.runs.definitions import read_contracts
from warehouse.sources.source import Source, Table

Progress = Callable[[str], None]


def stage(
    run: Run,
    source: Source,
    source_url: str,
    *,
    threshold: DeleteThreshold,
    limits: ReadLimits = DEFAULT_LIMITS,
    full_refresh: bool = False,
    accept_source: bool = False,
    lock_wait_seconds: float = 60,
    on_staged: Callable[[StagedTable, Snapshot], None] = lambda *_: None,
    progress: Progress = lambda _: None,
) -> Staged:
    """Copy the rows that may have changed since the last published run into schema staging; publishes nothing.

    The smallest tables, up to `limits.scan_rows`, are compared completely; larger ones are read by the index of their
    cursor, and the next ranges of their keys are compared. `full_refresh` reads every row again. `accept_source` does,
    too, and accepts that the source is another database than the one read last. `on_staged` is called for each table
    once its batch is committed to staging; for a table's first batch, also before it is compared with the source.

    Raises:
        SourceChanged: it is another database, and `accept_source` is not given.
        SourceLocked: another session still held a lock on a table after `lock_wait_seconds`.
        SourceError, SchemaDrift, DeclarationError: the source cannot be read completely.
        DeleteThresholdExceeded: more of a table was deleted than `threshold` allows.
    """
    # Read contracts first: a source without them is not read at all.
    contracts = read_contracts(source)
    staged: list[StagedTable] = []
    with run.session("stage") as writer:
        forget_unverified(writer, source.name)
        recorded = read_watermarks(writer, source.name, source.tables)
        watermarks = {table: recorded.get(table) for table in source.tables}
        small = smallest_tables(writer, watermarks, limits.scan_rows)
        run.commit(writer)
        with snapshot_of(
            source.name,
            source_url,
            source.tables,
            lock_wait_seconds=lock_wait_seconds,
            find_open_transactions=lambda: find_open_transactions(
                source.name, source_url, last_open_transactions(watermarks), limits.late_commit_window
            ),
            progress=progress,
        ) as (reader, snapshot):
            # One process of the source's server is enough, and only what it reads is in this session's counters.
            reader.execute(
                "set local max_parallel_workers_per_gather = 0; "
                # Plan for reading all rows of a server-side cursor, not its first tenth.
                "set local cursor_tuple_fraction = 1"
            )
            is_accepted = _check_identity(writer, source, snapshot, accept_source, progress)
            states = _read_states(reader, writer, watermarks, small, snapshot)
            create_staging(writer, {state.table: state.catalog.drift.columns for state in states})

            def hand_over(batch: StagedTable) -> None:
                # Only the run that holds the source's lock may commit to the staging tables.
                ensure_alive(run)
                run.commit(writer)
                on_staged(batch, snapshot)

            for state in states:
                stager = TableStager(
                    reader,
                    writer,
                    state,
                    snapshot,
                    limits,
                    threshold,
                    full_refresh=full_refresh or accept_source,
                    on_copied=hand_over,
                    progress=progress,
                )
                with _explain_undecodable(source_url, state.table):
                    staged.append(stager.stage())
                if is_accepted:
                    progress(f"{state.table.name}: {describe_changes(writer, staged[-1])}")
                hand_over(staged[-1])
            if digests := [one.digest for one in staged if one.digest is not None]:
                store_checksums(writer, snapshot.taken_at, digests)
                run.commit(writer)
            deletes.check_threshold(writer, staged, threshold)
            counters = read_counters(reader, [one.identity for one in staged])
            staged = [replace(one, counters=now) for one, now in zip(staged, counters, strict=True)]
    return Staged(
        source,
        snapshot,
        tuple(staged),
        contracts,
        threshold,
        is_refresh_requested=full_refresh or accept_source,
        limits=limits,
    )


def _read_states(
    reader: psycopg.Connection,
    writer: psycopg.Connection,
    watermarks: Mapping[Table, Watermark | None],
    small: Collection[Table],
    snapshot: Snapshot,
) -> list[TableState]:
    """Read the catalogs, indexes and stored checksums of all tables before any of their rows.

    Raises:
        SourceError, SchemaDrift, DeclarationError: a table cannot be read, or differs from its mirror or declaration.
    """
    catalogs = read_catalogs(reader, writer, list(watermarks))
    columns = {table: catalog.drift.columns for table, catalog in catalogs.items()}
    outdated = outdated_cursors(writer, watermarks, columns, snapshot)
    # Views have no indexes, and small tables are scanned.
    large = {
        table: columns[table]
        for table, catalog in catalogs.items()
        if table not in small and catalog.has_transaction_ids
    }
    paths = read_access_paths(reader, writer, large)
    moments = {
        table: (mark.captured_at, columns[table])
        for table, mark in watermarks.items()
        if table in small and mark is not None
    }
    verified = stored_checksums(writer, moments, if_verified=True)
    return [
        TableState(
            table,
            catalogs[table],
            watermark,
            has_outdated_cursor=table in outdated,
            is_small=table in small,
            paths=paths.get(table, NO_PATHS),
            verified=verified.get(table),
        )
        for table, watermark in watermarks.items()
    ]


def _check_identity(
    writer: psycopg.Connection, source: Source, snapshot: Snapshot, accept_source: bool, progress: Progress
) -> bool:
    """Refuse another database than the one that was read last, unless it is accepted; returns whether one is.

    Raises:
        SourceChanged: it is another database, and not accepted.
    """
    before = captured_identity(writer, source.name)
    if accept_source and before is not None:
        progress(
            f"source {source.name} is {snapshot.identity} from now on, and was {before}: everything is read again; "
            "compared with what was read last:"
        )
        return True
    for note in check_same_source(source.name, before, snapshot.identity):
        progress(f"source {source.name}: {note}")
    return False


@contextmanager
def _explain_undecodable(source_url: str, table: Table) -> Iterator[None]:
    """Turn an error about a text that cannot be decoded into one that names the row and column."""
    try:
        yield
    except undecodable.ERRORS as error:
        # The transaction has failed: search for the text in another one.
        with read_only_transaction(table.source, source_url, application_name="dwh capture") as other:
            as_they_are = source_columns(other, replace(table, undecodable="refuse"))
            raise undecodable.explain_undecodable(other, table, as_they_are, error) from None
