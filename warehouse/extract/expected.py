"""Expected checksums of the source: those of the mirror after the batch is merged. A difference is a missed row."""

import psycopg
from psycopg import sql

from warehouse.db.connections import analyze_briefly
from warehouse.db.identifiers import listed, qualified, same_key
from warehouse.extract.catalog import invalid_key, mirror_exists, mirrored_columns
from warehouse.extract.checksums import Checksums, Chunk, Hashing, combined, compute_checksums, row_count
from warehouse.extract.column import Column
from warehouse.extract.staged import StagedTable
from warehouse.extract.staging_tables import batch_table, deleted_table
from warehouse.sources.source import Table

# Batches from this size on are analyzed before they are joined to the mirror.
ANALYZE_ABOVE = 1000


def expected_checksums(
    writer: psycopg.Connection,
    table: Table,
    columns: tuple[Column, ...],
    chunks: int,
    method: Hashing,
    verified: Checksums | None,
    rows_staged: int,
    *,
    keys_only: bool,
) -> Checksums:
    """Compute the checksums that the source should have, for a table that has a mirror.

    `rows_staged` is the size of the batch. `verified` are the checksums to which the last run verified the mirror: as
    long as the mirror has as many rows, it is not hashed again. This misses a mirror row changed by hand, which the
    verification at the end of the run finds. `keys_only` is for a table that was read in full: the batch then has all
    its rows, and only deletes are to be found.

    Raises:
        SourceError: the declared key is not unique in the batch.
    """
    mirror = verified
    if verified is None or live_rows(writer, table) != row_count(verified):
        mirror = compute_checksums(
            writer, _mirror(table), table.key, columns, chunks, method, keys_only=keys_only, where=_IS_LIVE
        )
    assert mirror is not None
    if keys_only:
        new = sql.SQL("({}) as new").format(_new_keys(table))
        return combined(
            [mirror, compute_checksums(writer, new, table.key, columns, chunks, method, keys_only=True)]
        )
    if not rows_staged:
        return mirror
    if rows_staged > ANALYZE_ABOVE:
        analyze_briefly(writer, batch_table(table), table.key)
    batch = compute_checksums(writer, batch_table(table), table.key, columns, chunks, method)
    replaced = _in_mirror(writer, table, columns, chunks, method, batch_table(table))
    # A key that occurs twice in the batch replaces only one row of the mirror.
    new_rows = _count(writer, sql.SQL("select count(*) from ({}) as new").format(_new_keys(table)))
    if rows_staged - new_rows > row_count(replaced):
        raise invalid_key(table, "not unique")
    return combined([mirror, batch], [replaced])


def without_deleted(
    writer: psycopg.Connection,
    table: Table,
    columns: tuple[Column, ...],
    chunks: int,
    method: Hashing,
    expected: Checksums,
) -> Checksums:
    """The expected checksums without the rows whose keys are staged as deleted."""
    return combined([expected], [_in_mirror(writer, table, columns, chunks, method, deleted_table(table))])


def describe_changes(writer: psycopg.Connection, staged: StagedTable) -> str:
    """Describe how a batch that holds all rows of its table differs from the mirror."""
    table = staged.table
    if not mirror_exists(writer, table):
        return f"{staged.rows_read:,} rows, none of which were read before"
    mirrored = mirrored_columns(writer, table)
    # Values of a column of another type cannot be compared with the mirror's.
    names = [column.name for column in staged.columns if mirrored.get(column.name) == column.type]
    row = writer.execute(
        sql.SQL(
            """
            select
                count(*) filter (where mirror._run_id is null),
                count(*) filter (where row({batch_columns})::record *<> row({mirror_columns})::record)
            from {batch} as batch
            left join {mirror} as mirror on {same} and not mirror._is_deleted
            """
        ).format(
            batch_columns=qualified("batch", names),
            mirror_columns=qualified("mirror", names),
            batch=batch_table(table),
            mirror=_mirror(table),
            same=same_key(table.key, "mirror", "batch"),
        )
    ).fetchone()
    assert row is not None
    new, other = row[0], row[1] - row[0]
    return f"{new:,} rows are new, {other:,} are others, {staged.rows_deleted:,} are gone"


def live_rows(writer: psycopg.Connection, table: Table) -> int:
    """Number of rows of the mirror that are not marked as deleted."""
    return _count(writer, sql.SQL("select count(*) from {} where {}").format(_mirror(table), _IS_LIVE))


_IS_LIVE = sql.SQL("not _is_deleted")


def _mirror(table: Table) -> sql.Identifier:
    return sql.Identifier("raw", table.mirror)


def _in_mirror(
    writer: psycopg.Connection,
    table: Table,
    columns: tuple[Column, ...],
    chunks: int,
    method: Hashing,
    keys: sql.Composable,
) -> dict[int, Chunk]:
    """Checksums of the mirror's rows whose keys are among `keys`, a table."""
    relation = sql.SQL("{} as mirror").format(_mirror(table))
    where = sql.SQL("{} and exists (select from {} as staged where {})").format(
        _IS_LIVE, keys, same_key(table.key, "mirror", "staged")
    )
    return compute_checksums(writer, relation, table.key, columns, chunks, method, where=where)


def _new_keys(table: Table) -> sql.Composable:
    return sql.SQL(
        "select {key} from {batch} as batch where not exists "
        "(select from {mirror} as mirror where not mirror._is_deleted and {same})"
    ).format(
        key=listed(table.key),
        batch=batch_table(table),
        mirror=_mirror(table),
        same=same_key(table.key, "mirror", "batch"),
    )


def _count(writer: psycopg.Connection, query: sql.Composed) -> int:
    row = writer.execute(query).fetchone()
    assert row is not None
    return int(row[0])
