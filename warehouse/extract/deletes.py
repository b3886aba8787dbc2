"""Deletes: keys that the warehouse expects and the source no longer has."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from warehouse.db.identifiers import listed, same_key
from warehouse.errors import DeleteThresholdExceeded
from warehouse.extract.checksums import Digest, Hashing, added, digest, hashing, key_hash, rows_of
from warehouse.extract.copy_stream import copy_stream
from warehouse.extract.mirror import Column, mirror_exists
from warehouse.sources.declaration import Table

if TYPE_CHECKING:
    from warehouse.extract.stage import StagedTable

BRAKE_ADVICE = (
    "Nothing was changed. If the deletes are real, run again with --confirm-deletes; "
    "DWH_MAX_DELETE_SHARE sets the limit."
)
_SEEN = sql.Identifier("pg_temp", "source_key")


def expected_rows(writer: psycopg.Connection, table: Table) -> int:
    """About how many rows the source should have: those of the mirror and the batch, by the planner's count."""
    row = writer.execute(
        """
        select coalesce(sum(greatest(reltuples, 0)), 0)::bigint from pg_class
        where oid = to_regclass(format('raw.%%I', %s::text))
        """,
        [table.mirror],
    ).fetchone()
    staged = writer.execute(sql.SQL("select count(*) from {}").format(_staging(table))).fetchone()
    assert row is not None and staged is not None
    return int(max(row[0], staged[0]))


def expected_keys(
    writer: psycopg.Connection,
    table: Table,
    columns: Sequence[Column],
    chunks: int,
    method: Hashing,
    proven: Digest | None,
) -> Digest | None:
    """Digest of the keys that the source should have; None where nothing was captured yet.

    They are those of the mirror and of the batch. `proven` tells what the mirror was proven to hold: as long as it has
    as many rows, its keys need not be hashed again. A row changed by hand that this overlooks, the next proof does not.
    """
    if not mirror_exists(writer, table):
        return None
    if proven is None or _live_rows(writer, table) != rows_of(proven):
        return digest(writer, _expected(table), table.key, columns, chunks, method, keys_only=True)
    new = sql.SQL("({}) as expected").format(_new(table))
    return added(proven, digest(writer, new, table.key, columns, chunks, method, keys_only=True))


def find(
    reader: psycopg.Connection,
    writer: psycopg.Connection,
    table: Table,
    columns: Sequence[Column],
    buckets: Sequence[int],
    chunks: int,
) -> int:
    """Stage the keys that vanished, looked for in `buckets`, in which the two servers disagree; how many."""
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
            select {key} from {seen}
            """
        ).format(
            deleted=_staging(table, "_deleted"),
            key=listed(table.key),
            expected=_expected(table),
            hash=key_hash(table.key, columns, method),
            mask=sql.Literal(chunks - 1),
            buckets=sql.Literal(list(buckets)),
            seen=_SEEN,
        )
    )
    return inserted.rowcount


def has_repeated_key(writer: psycopg.Connection, table: Table) -> bool:
    """Whether the source has a key more than once among those that `find` has looked at."""
    return bool(
        writer.execute(
            sql.SQL("select from {seen} group by {key} having count(*) > 1 limit 1").format(
                seen=_SEEN, key=listed(table.key)
            )
        ).rowcount
    )


def brake(writer: psycopg.Connection, staged: "Sequence[StagedTable]", max_share: float) -> None:
    """Stop a run in which more of a table has vanished than is plausible.

    Raises:
        DeleteThresholdExceeded: naming each such table, its share and the limit.
    """
    pulled = []
    for one in staged:
        if one.rows_vanished == 0:
            continue
        live = _live_rows(writer, one.table)
        share = one.rows_vanished / max(live, 1)
        if share > max_share:
            pulled.append(f"{one.table.name} ({one.rows_vanished:,} of {live:,} rows, {share:.0%})")
    if pulled:
        raise DeleteThresholdExceeded(
            f"Too many rows have vanished from the source: {', '.join(pulled)}; the limit is {max_share:.0%}.",
            hint=BRAKE_ADVICE,
        )


def _live_rows(writer: psycopg.Connection, table: Table) -> int:
    row = writer.execute(
        sql.SQL("select count(*) from {} where not _is_deleted").format(sql.Identifier("raw", table.mirror))
    ).fetchone()
    assert row is not None
    return int(row[0])


def _expected(table: Table) -> sql.Composable:
    """Keys of the mirror as it will be once the batch is in: what is there, and what is new."""
    return sql.SQL("(select {key} from {mirror} where not _is_deleted union all {new}) as expected").format(
        key=listed(table.key), mirror=sql.Identifier("raw", table.mirror), new=_new(table)
    )


def _new(table: Table) -> sql.Composable:
    return sql.SQL(
        "select {key} from {batch} as batch where not exists "
        "(select from {mirror} as mirror where not mirror._is_deleted and {same})"
    ).format(
        key=listed(table.key),
        batch=_staging(table),
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
            listed(table.key), _staging(table)
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


def _staging(table: Table, suffix: str = "") -> sql.Identifier:
    return sql.Identifier("staging", table.mirror + suffix)
