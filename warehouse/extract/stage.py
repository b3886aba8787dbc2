"""Stage: one snapshot of a source, of each table the rows that may have changed and the keys that have vanished."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import psycopg
from psycopg import sql

from warehouse.errors import SourceError
from warehouse.extract import deletes
from warehouse.extract.checksum_store import keep_digest, proven_digest
from warehouse.extract.checksums import Hashing, chunks_for, differing, digest, hashing, rows_of
from warehouse.extract.copy_stream import copy_stream
from warehouse.extract.mirror import (
    Column,
    find_drift,
    key_problem,
    make_staging,
    source_columns,
    table_comment,
)
from warehouse.extract.snapshot import Snapshot, check_readable, snapshot_of
from warehouse.model.contracts import Contract, read_contract
from warehouse.runs.audit import Run, ensure_alive
from warehouse.sources.declaration import Source, Table

Progress = Callable[[str], None]
XidNet = Literal["always", "unless-quiet"]
# Half of the 32-bit transaction ids: farther back, newer and older cannot be told apart by xmin.
XID_HORIZON = 2**31 - 1_000_000


@dataclass(frozen=True)
class StagedTable:
    """What was staged of one table."""

    table: Table
    columns: tuple[Column, ...]
    comment: str | None
    whole: bool
    window_low: str | None
    rows_read: int
    rows_vanished: int
    copy_seconds: float
    scan_seconds: float
    hashing: Hashing


@dataclass(frozen=True)
class Staged:
    """What was staged of one source, and the snapshot it was read from."""

    source: Source
    snapshot: Snapshot
    tables: tuple[StagedTable, ...]
    # By entity, what its batch is judged by.
    contracts: Mapping[str, Contract]
    # Of what a target of the star holds, so much may vanish.
    max_delete_share: float = 1.0

    @property
    def rows_read(self) -> int:
        return sum(table.rows_read for table in self.tables)


@dataclass(frozen=True)
class Watermark:
    """How far a table is captured: what audit.watermark remembers of the last published run."""

    cursor_value: str | None
    snapshot_xmin: int
    no_open_transactions: bool
    system_identifier: str | None
    timeline: int | None
    captured_at: datetime


def stage(
    run: Run,
    source: Source,
    source_url: str,
    *,
    max_delete_share: float,
    confirm_deletes: bool = False,
    whole: bool = False,
    xid_net: XidNet = "always",
    progress: Progress = lambda _: None,
) -> Staged:
    """Copy what may have changed since the last published run into schema staging; publishes nothing.

    `whole` reads every row again, which is what a restored or failed-over source needs. `xid_net` "unless-quiet" reads
    by the cursor alone where no transaction was in flight at the last snapshot: by an index instead of a scan, at the
    price that rows with a wrong timestamp are only told of, by the proof.

    Raises:
        SourceError, SchemaDrift, DeclarationError: the source cannot be read whole.
        DeleteThresholdExceeded: more than `max_delete_share` of a table has vanished, without `confirm_deletes`.
    """
    # First of all: without its contracts a source is not even read.
    contracts = {entity.name: read_contract(entity.name, entity.lacks) for entity in source.entities.values()}
    staged = []
    with (
        snapshot_of(source_url, source.tables) as (reader, snapshot),
        run.session("stage") as writer,
    ):
        for table in source.tables:
            staged.append(_stage_table(reader, writer, table, snapshot, whole, xid_net, progress))
            # The staging tables belong to whoever holds the source's lock.
            ensure_alive(run)
            run.commit(writer)
        if not confirm_deletes:
            deletes.brake(writer, staged, max_delete_share)
    return Staged(source, snapshot, tuple(staged), contracts, 1.0 if confirm_deletes else max_delete_share)


def _stage_table(
    reader: psycopg.Connection,
    writer: psycopg.Connection,
    table: Table,
    snapshot: Snapshot,
    whole: bool,
    xid_net: XidNet,
    progress: Progress,
) -> StagedTable:
    started = time.monotonic()
    check_readable(reader, table)
    drift = find_drift(writer, table, source_columns(reader, table))
    columns = drift.columns
    for change in drift.said:
        progress(change)
    watermark = None if whole else watermark_of(writer, table)
    if watermark is not None:
        check_same_source(watermark, snapshot, table)
        if drift.must_read_whole or snapshot.xmin - watermark.snapshot_xmin >= XID_HORIZON:
            watermark = None
    make_staging(writer, table, columns)
    is_skipped = xid_net == "unless-quiet" and watermark is not None and watermark.no_open_transactions
    where = _changed_since(table, columns, watermark, by_cursor=is_skipped)
    try:
        rows_read = _copy(reader, writer, table, columns, where)
    except psycopg.DataError as error:
        raise SourceError(
            f"A value of {table} of source '{table.source}' does not fit its mirror: {error.diag.message_primary}.",
            hint='Let the mirror take the column\'s new type: changed_type = "evolve" under [on_schema_change] in '
            f"warehouse/sources/{table.source}/source.toml.",
        ) from error
    copied = time.monotonic()
    vanished = _scan(reader, writer, table, columns, snapshot, watermark)
    progress(f"{table.name}: {rows_read:,} rows staged")
    return StagedTable(
        table,
        columns,
        table_comment(reader, table),
        watermark is None,
        watermark.cursor_value if watermark else None,
        rows_read,
        vanished,
        copied - started,
        time.monotonic() - copied,
        hashing(reader, writer),
    )


def watermark_of(connection: psycopg.Connection, table: Table) -> Watermark | None:
    """The watermark of `table`; None where it was never captured."""
    row = connection.execute(
        """
        select cursor_value, snapshot_xmin, no_open_transactions, system_identifier, timeline, captured_at
        from audit.watermark where source = %s and table_name = %s
        """,
        [table.source, table.name],
    ).fetchone()
    return Watermark(*row) if row else None


def check_same_source(watermark: Watermark, snapshot: Snapshot, table: Table) -> None:
    """Refuse another server than the one that was read last: its transaction ids mean nothing.

    Raises:
        SourceError: system identifier or timeline differ, or the server went back in time.
    """
    for what, before, now in (
        ("system identifier", watermark.system_identifier, snapshot.system_identifier),
        ("timeline", watermark.timeline, snapshot.timeline),
    ):
        if before is not None and now is not None and before != now:
            raise SourceError(
                f"Source '{table.source}' is not the server that was read last: its {what} is {now} and was {before} "
                "(a failover, a restore, or another database).",
                hint="If that is meant, read everything again: `dwh run shop --whole`.",
            )
    if snapshot.xmin < watermark.snapshot_xmin:
        raise SourceError(
            f"Source '{table.source}' is not the server that was read last: its transactions are counted from "
            f"{snapshot.xmin:,} and were from {watermark.snapshot_xmin:,} "
            "(a restore from a copy, or another database).",
            hint="If that is meant, read everything again: `dwh run shop --whole`.",
        )


def _changed_since(
    table: Table, columns: Sequence[Column], watermark: Watermark | None, *, by_cursor: bool = False
) -> sql.Composable:
    """Rows written by a transaction that the last snapshot did not see (the xid net), whatever their cursor says."""
    if watermark is None:
        return sql.SQL("true")
    if by_cursor and table.cursor is not None and watermark.cursor_value is not None:
        (cursor_type,) = (column.type for column in columns if column.name == table.cursor)
        # Equal timestamps are read again: a transaction may have stamped its rows just before the snapshot.
        return sql.SQL("{} >= {}::{}").format(
            sql.Identifier(table.cursor), sql.Literal(watermark.cursor_value), sql.SQL(cursor_type)
        )
    return in_net(watermark)


def in_net(watermark: Watermark) -> sql.Composable:
    """Condition on a source row: it may have been written after the last published snapshot."""
    return sql.SQL("age(xmin) <= (select age({}::xid))").format(
        sql.Literal(str(watermark.snapshot_xmin % 2**32))
    )


def _copy(
    reader: psycopg.Connection,
    writer: psycopg.Connection,
    table: Table,
    columns: Sequence[Column],
    where: sql.Composable,
) -> int:
    outgoing = sql.SQL("copy (select {} from {} where {}) to stdout (format binary)").format(
        sql.SQL(", ").join(column.selected for column in columns),
        sql.Identifier(table.schema, table.name),
        where,
    )
    incoming = sql.SQL("copy {} ({}) from stdin (format binary)").format(
        sql.Identifier("staging", table.mirror),
        sql.SQL(", ").join(sql.Identifier(column.name) for column in columns),
    )
    return copy_stream(reader, outgoing, writer, incoming)


def _scan(
    reader: psycopg.Connection,
    writer: psycopg.Connection,
    table: Table,
    columns: Sequence[Column],
    snapshot: Snapshot,
    watermark: Watermark | None,
) -> int:
    """Digest the source at this snapshot for the proof, and find the keys that vanished from it; how many."""
    relation = sql.Identifier(table.schema, table.name)
    chunks = chunks_for(deletes.expected_rows(writer, table))
    method = hashing(reader, writer)
    proven = proven_digest(writer, table, watermark.captured_at, columns, chunks) if watermark else None
    # Two servers are asked, so both can work at once.
    with ThreadPoolExecutor(max_workers=1) as pool:
        asked = pool.submit(digest, reader, relation, table.key, columns, chunks, method, at_source=True)
        expected = deletes.expected_keys(writer, table, columns, chunks, method, proven)
        there = asked.result()
    keep_digest(writer, table, snapshot.taken_at, columns, there, chunks)
    if expected is None:
        return 0
    buckets = differing(there, expected, content=False)
    vanished = deletes.find(reader, writer, table, columns, buckets, chunks)
    # More rows than keys: some are unknown, which the proof will tell, or share their key.
    if rows_of(there) > rows_of(expected) - vanished and deletes.has_repeated_key(writer, table):
        raise key_problem(table, "not unique")
    return vanished
