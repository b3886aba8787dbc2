"""Decide which batches of a staged source are archived, and which rows each batch has."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg import sql

from warehouse.archive.manifest import Kind
from warehouse.archive.pending import MIRROR_OPERATION, MIRROR_RUN, Columns
from warehouse.archive.place import table_path
from warehouse.extract.catalog import mirrored_columns
from warehouse.extract.snapshot import Snapshot
from warehouse.extract.staged import Staged, StagedTable
from warehouse.extract.staging_tables import batch_table, deleted_table
from warehouse.sources.source import Table

ONE_ROW: Final = sql.SQL("(values (1)) as one")


@dataclass(frozen=True)
class Plan:
    """What of a table that was read is archived."""

    staged: StagedTable
    # In this order; none if the batch has no rows and the archive has all rows from before it.
    kinds: Sequence[Kind]
    # Whether the last archived batch had other columns, or there is none.
    has_new_columns: bool

    @property
    def has_baseline(self) -> bool:
        """Whether the archive missed earlier loads of the mirror: then all its rows are archived first."""
        return "baseline" in self.kinds

    @property
    def has_batch(self) -> bool:
        """Whether the batch itself has rows."""
        return kind_of(self.staged) in self.kinds


def plan_batches(connection: psycopg.Connection, tables: Sequence[StagedTable]) -> list[Plan]:
    """Decide what is archived of each table that was read, by what the archive has now."""
    read = {table_path(one.table.source, one.table.name): one for one in tables if _is_read(one)}
    rows = connection.execute(
        "select path, captured_run_id, columns from audit.archive_table where path = any(%s)", [list(read)]
    ).fetchall()
    archived = {
        path: (run_id, [(name, kind) for name, kind in columns or ()]) for path, run_id, columns in rows
    }
    plans = []
    for path, one in read.items():
        run_id, columns = archived.get(path, (None, None))
        has_all = one.before is not None and one.before.run_id == run_id
        kinds = [kind for kind in possible_kinds(one) if kind != "baseline" or not has_all]
        plans.append(Plan(one, kinds, columns != list(columns_of(one))))
    return plans


def outlive_merge(connection: psycopg.Connection, staged: Staged) -> bool:
    """Whether the staging tables still exist after the merge and no mirror needs a baseline from before the merge."""
    return not any(map(becomes_mirror, staged.tables)) and not any(
        plan.has_baseline for plan in plan_batches(connection, staged.tables)
    )


def becomes_mirror(staged: StagedTable) -> bool:
    """Whether the staging table itself may become the mirror: on the first load and on a full refresh."""
    return kind_of(staged) != "incremental"


def possible_kinds(staged: StagedTable) -> Iterator[Kind]:
    """Yield what may have to be archived of a staged table, whatever the archive has of it already."""
    if not _is_read(staged):
        return
    if staged.before is not None:
        yield "baseline"
    if staged.rows_read or staged.rows_deleted or _begins_again(staged):
        yield kind_of(staged)


def _is_read(staged: StagedTable) -> bool:
    """Whether the watermark moves. A table that was skipped, or whose cursor query found no rows, keeps it."""
    return staged.reading != "skipped" and (staged.reading != "cursor" or staged.rows_read > 0)


def kind_of(staged: StagedTable) -> Kind:
    """Return how the table was read: first load, full refresh or incremental."""
    if staged.before is None:
        return "first"
    return "full" if staged.full_refresh else "incremental"


def columns_of(staged: StagedTable) -> Columns:
    """Return the names and types of a batch's columns."""
    return tuple((column.name, column.type) for column in staged.columns)


@dataclass(frozen=True)
class Part:
    """Rows of a batch: their operation, the columns that have values, and the table or query to read them from."""

    # A text is the operation of all rows; SQL is evaluated for each row.
    operation: str | sql.Composable
    columns: Sequence[str]
    rows: sql.Composable
    mirror_run_id: sql.Composable | None = None


@dataclass(frozen=True)
class Batch:
    """What a batch of a staged table consists of."""

    columns: Columns
    parts: Sequence[Part]
    # None for a baseline, whose rows were captured by earlier runs.
    snapshot: Snapshot | None


def batch_of(connection: psycopg.Connection, staged: StagedTable, kind: Kind, snapshot: Snapshot) -> Batch:
    """Return what the batch of this kind consists of; a baseline is read from the mirror, others from staging."""
    if kind != "baseline":
        return Batch(columns_of(staged), _staged_parts(staged), snapshot)
    columns = tuple(mirrored_columns(connection, staged.table).items())
    return Batch(columns, _mirror_parts(staged.table, columns), None)


def _staged_parts(staged: StagedTable) -> list[Part]:
    table = staged.table
    parts = [Part("write", [column.name for column in staged.columns], batch_table(table))]
    if _begins_again(staged):
        parts.insert(0, Part("truncate", (), ONE_ROW))
    if staged.rows_deleted:
        parts.append(Part("delete", table.key, deleted_table(table)))
    return parts


def _mirror_parts(table: Table, columns: Columns) -> list[Part]:
    """Return all rows of a mirror, after a 'truncate' row that invalidates everything archived before."""
    return [
        Part("truncate", (), ONE_ROW),
        Part(
            MIRROR_OPERATION, [name for name, _ in columns], sql.Identifier("raw", table.mirror), MIRROR_RUN
        ),
    ]


def _begins_again(staged: StagedTable) -> bool:
    """Whether the mirror was dropped since the last load. Then the archived rows are truncated: no batch deletes the
    rows that the dropped mirror had, and they may have been archived under another key."""
    return staged.before is not None and not staged.has_mirror
