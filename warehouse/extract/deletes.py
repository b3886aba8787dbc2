"""Deletes: keys that the warehouse expects and the source no longer has."""

from collections.abc import Sequence

import psycopg
from psycopg import sql

from warehouse.db.identifiers import listed, same_key
from warehouse.errors import DeleteThresholdExceeded
from warehouse.extract.catalog import Column, mirror_exists
from warehouse.extract.checksums import (
    Checksums,
    Hashing,
    added,
    compute_checksums,
    hashing,
    key_hash,
    row_count,
)
from warehouse.extract.copy_stream import copy_stream
from warehouse.extract.staged import StagedTable
from warehouse.extract.staging_tables import batch_table, deleted_table
from warehouse.sources.declaration import Table

_SOURCE_KEYS = sql.Identifier("pg_temp", "source_key")


def expected_rows(writer: psycopg.Connection, table: Table) -> int:
    """Estimate how many rows the source has: the larger of the batch and the planner's count of the mirror."""
    row = writer.execute(
        """
        select coalesce(sum(greatest(reltuples, 0)), 0)::bigint from pg_class
        where oid = to_regclass(format('raw.%%I', %s::text))
        """,
        [table.mirror],
    ).fetchone()
    staged = writer.execute(sql.SQL("select count(*) from {}").format(batch_table(table))).fetchone()
    assert row is not None and staged is not None
    return int(max(row[0], staged[0]))


def expected_keys(
    writer: psycopg.Connection,
    table: Table,
    columns: Sequence[Column],
    chunks: int,
    method: Hashing,
    verified: Checksums | None,
) -> Checksums | None:
    """Checksums of the keys of mirror and batch, which the source should have; None where nothing was captured yet.

    `verified` is what the last run verified the mirror to hold: as long as the mirror has as many rows, its keys are
    not hashed again. A row that was changed by hand is missed here, and found by the verification that ends the run.
    """
    if not mirror_exists(writer, table):
        return None
    if verified is None or _live_rows(writer, table) != row_count(verified):
        return compute_checksums(writer, _expected(table), table.key, columns, chunks, method, keys_only=True)
    new = sql.SQL("({}) as expected").format(_new(table))
    return added(verified, compute_checksums(writer, new, table.key, columns, chunks, method, keys_only=True))


def find_deleted_keys(
    reader: psycopg.Connection,
    writer: psycopg.Connection,
    table: Table,
    columns: Sequence[Column],
    buckets: Sequence[int],
    chunks: int,
) -> int:
    """Stage the keys that the source no longer has, searching the `buckets` in which the servers differ.

    Returns the number of deleted keys.
    """
    if not buckets:
        return 0
    method = hashing(reader, writer)
    _copy_keys(reader, writer, table, columns, chunks, buckets)
    inserted = writer.execute(
        sql.SQL(
            """
            insert into {deleted} ({key})
            select {key} from {expected} where ({hash} & {mask}) = any({buckets})
            except
            select {key} from {source_keys}
            """
        ).format(
            deleted=deleted_table(table),
            key=listed(table.key),
            expected=_expected(table),
            hash=key_hash(table.key, columns, method),
            mask=sql.Literal(chunks - 1),
            buckets=sql.Literal(list(buckets)),
            source_keys=_SOURCE_KEYS,
        )
    )
    return inserted.rowcount


def has_repeated_key(writer: psycopg.Connection, table: Table) -> bool:
    """Whether the source has a key more than once among those that `find` has fetched."""
    return bool(
        writer.execute(
            sql.SQL("select from {source_keys} group by {key} having count(*) > 1 limit 1").format(
                source_keys=_SOURCE_KEYS, key=listed(table.key)
            )
        ).rowcount
    )


def check_threshold(writer: psycopg.Connection, staged: Sequence[StagedTable], max_share: float) -> None:
    """Stop a run in which more of a table was deleted than is plausible.

    Raises:
        DeleteThresholdExceeded: naming each such table, its share and the limit.
    """
    exceeded = []
    for one in staged:
        if one.rows_deleted == 0:
            continue
        live = _live_rows(writer, one.table)
        share = one.rows_deleted / max(live, 1)
        if share > max_share:
            exceeded.append(f"{one.table.name} ({one.rows_deleted:,} of {live:,} rows, {share:.0%})")
    if exceeded:
        raise DeleteThresholdExceeded(
            f"Too many rows were deleted in the source: {', '.join(exceeded)}; the limit is {max_share:.0%}.",
            hint=confirm_hint(staged[0].table.source),
        )


def confirm_hint(source: str) -> str:
    """What to do when the threshold stops `source`: confirm its deletes, and no other source's."""
    return (
        f"Nothing of '{source}' was changed. If the deletes are real: `dwh run {source} --confirm-deletes`; "
        "DWH_MAX_DELETE_SHARE sets the limit."
    )


def _live_rows(writer: psycopg.Connection, table: Table) -> int:
    row = writer.execute(
        sql.SQL("select count(*) from {} where not _is_deleted").format(sql.Identifier("raw", table.mirror))
    ).fetchone()
    assert row is not None
    return int(row[0])


def _expected(table: Table) -> sql.Composable:
    """Keys of the mirror as they will be after the batch: those it has, and the batch's new ones."""
    return sql.SQL("(select {key} from {mirror} where not _is_deleted union all {new}) as expected").format(
        key=listed(table.key), mirror=sql.Identifier("raw", table.mirror), new=_new(table)
    )


def _new(table: Table) -> sql.Composable:
    return sql.SQL(
        "select {key} from {batch} as batch where not exists "
        "(select from {mirror} as mirror where not mirror._is_deleted and {same})"
    ).format(
        key=listed(table.key),
        batch=batch_table(table),
        mirror=sql.Identifier("raw", table.mirror),
        same=same_key(table.key, "mirror", "batch"),
    )


def _copy_keys(
    reader: psycopg.Connection,
    writer: psycopg.Connection,
    table: Table,
    columns: Sequence[Column],
    chunks: int,
    buckets: Sequence[int],
) -> None:
    by_name = {column.name: column for column in columns}
    writer.execute("drop table if exists pg_temp.source_key")
    writer.execute(
        sql.SQL("create temp table source_key on commit drop as select {} from {} limit 0").format(
            listed(table.key), batch_table(table)
        )
    )
    outgoing = sql.SQL("copy (select {} from {} where ({} & {}) = any({})) to stdout (format binary)").format(
        sql.SQL(", ").join(by_name[name].selected for name in table.key),
        sql.Identifier(table.schema, table.name),
        key_hash(table.key, columns, hashing(reader, writer), at_source=True),
        sql.Literal(chunks - 1),
        sql.Literal(list(buckets)),
    )
    copy_stream(reader, outgoing, writer, sql.SQL("copy pg_temp.source_key from stdin (format binary)"))
