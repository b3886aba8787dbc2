"""Deletes: keys that the warehouse expects and the source no longer has."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from warehouse.db.identifiers import listed, same_key
from warehouse.errors import DeleteThresholdExceeded
from warehouse.extract.checksums import hashing, key_hash
from warehouse.extract.column import Column
from warehouse.extract.copy_stream import copy_stream
from warehouse.extract.delete_threshold import DeleteThreshold
from warehouse.extract.expected import live_rows
from warehouse.extract.staged import StagedTable
from warehouse.extract.staging_tables import batch_table, deleted_table
from warehouse.sources.source import Table


@dataclass(frozen=True)
class Within:
    """Conditions by which a search is limited to a range of keys, at the source and in the mirror."""

    at_source: sql.Composable
    at_mirror: sql.Composable


EVERYWHERE = Within(sql.SQL("true"), sql.SQL("true"))
_SOURCE_KEYS = sql.Identifier("pg_temp", "source_key")


def find_deleted_keys(
    reader: psycopg.Connection,
    writer: psycopg.Connection,
    table: Table,
    columns: Sequence[Column],
    buckets: Sequence[int],
    chunks: int,
    within: Within = EVERYWHERE,
) -> int:
    """Stage the keys that the source no longer has, searching the `buckets` in which the servers differ.

    Returns the number of deleted keys.
    """
    if not buckets:
        return 0
    method = hashing(reader, writer)
    _copy_keys(reader, writer, table, columns, chunks, buckets, within)
    inserted = writer.execute(
        sql.SQL(
            """
            insert into {deleted} ({key})
            select {key} from {mirror} as mirror
            where not _is_deleted and {within} and ({hash} & {mask}) = any({buckets})
                -- All rows of the batch are in the source, even if they write a key in another way (1.0 and 1.00).
                and not exists (select from {batch} as batch where {same})
            except
            select {key} from {source_keys}
            """
        ).format(
            deleted=deleted_table(table),
            key=listed(table.key),
            mirror=sql.Identifier("raw", table.mirror),
            batch=batch_table(table),
            same=same_key(table.key, "mirror", "batch"),
            within=within.at_mirror,
            hash=key_hash(table.key, columns, method),
            mask=sql.Literal(chunks - 1),
            buckets=sql.Literal(list(buckets)),
            source_keys=_SOURCE_KEYS,
        )
    )
    return inserted.rowcount


def has_repeated_key(writer: psycopg.Connection, table: Table) -> bool:
    """Whether the source has a key more than once among those that `find_deleted_keys` has fetched."""
    return bool(
        writer.execute(
            sql.SQL("select from {source_keys} group by {key} having count(*) > 1 limit 1").format(
                source_keys=_SOURCE_KEYS, key=listed(table.key)
            )
        ).rowcount
    )


def check_threshold(
    writer: psycopg.Connection, staged: Sequence[StagedTable], threshold: DeleteThreshold
) -> None:
    """Stop a run in which more of a table was deleted than is plausible.

    Raises:
        DeleteThresholdExceeded: naming each such table, its share and the limit.
    """
    exceeded: list[str] = []
    for one in (one for one in staged if one.rows_deleted):
        if one.reading == "ranges":
            exceeded += _exceeded_in_part(one, threshold)
            continue
        live = live_rows(writer, one.table)
        if threshold.is_exceeded(one.rows_deleted, live):
            share = one.rows_deleted / live
            exceeded.append(f"{one.table.name} ({one.rows_deleted:,} of {live:,} rows, {share:.0%})")
    if exceeded:
        raise DeleteThresholdExceeded(
            f"Too many rows were deleted in the source: {', '.join(exceeded)}; {threshold}.",
            hint=confirm_hint(staged[0].table.source, threshold),
        )


def _exceeded_in_part(staged: StagedTable, threshold: DeleteThreshold) -> Iterator[str]:
    """Yield a message if the deletes of a table that is verified by key ranges exceed the threshold.

    They count as a share of the rows compared: as a share of the table, deletes in a few ranges never would exceed it.
    """
    assert staged.rotation is not None
    rows = staged.before.row_count if staged.before else None
    if rows is not None and staged.rows_deleted >= rows and not threshold.is_confirmed:
        yield f"{staged.table.name} ({staged.rows_deleted:,} of {rows:,} rows, 100%)"
        return
    for deleted, compared, since in (
        (staged.rows_deleted, staged.rows_compared, "in this run"),
        (
            staged.rotation.rows_deleted,
            staged.rotation.rows_verified,
            f"since {staged.rotation.started_at:%Y-%m-%d %H:%M:%S} UTC",
        ),
    ):
        if threshold.is_exceeded_in_part(deleted, compared):
            yield (
                f"{staged.table.name} ({deleted:,} of {compared:,} rows verified {since}, {deleted / compared:.0%})"
            )
            return


def confirm_hint(source: str, threshold: DeleteThreshold) -> str:
    """Hint for a run that the threshold stopped: the command that confirms the deletes of `source` alone."""
    command = " ".join(["dwh run", source, *threshold.options, "--confirm-deletes"])
    return (
        f"Nothing of '{source}' was changed. If the deletes are real: `{command}`; "
        "DWH_MAX_DELETE_SHARE and DWH_DELETE_FLOOR_ROWS set the limit."
    )


def _copy_keys(
    reader: psycopg.Connection,
    writer: psycopg.Connection,
    table: Table,
    columns: Sequence[Column],
    chunks: int,
    buckets: Sequence[int],
    within: Within,
) -> None:
    by_name = {column.name: column for column in columns}
    writer.execute("drop table if exists pg_temp.source_key")
    writer.execute(
        sql.SQL("create temp table source_key on commit drop as select {} from {} limit 0").format(
            listed(table.key), batch_table(table)
        )
    )
    outgoing = sql.SQL(
        "copy (select {} from {} where {} and ({} & {}) = any({})) to stdout (format binary)"
    ).format(
        sql.SQL(", ").join(by_name[name].selected for name in table.key),
        sql.Identifier(*table.at_source),
        within.at_source,
        key_hash(table.key, columns, hashing(reader, writer), at_source=True),
        sql.Literal(chunks - 1),
        sql.Literal(list(buckets)),
    )
    copy_stream(reader, outgoing, writer, sql.SQL("copy pg_temp.source_key from stdin (format binary)"))
