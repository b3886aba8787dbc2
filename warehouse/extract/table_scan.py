"""Scan a source table completely: find changed rows by xmin, and deletes and all other differences by checksums."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import psycopg
from psycopg import sql

from warehouse.extract import deletes
from warehouse.extract.catalog import Mirror, invalid_key
from warehouse.extract.checksum_store import Digest
from warehouse.extract.checksums import (
    Checksums,
    Hashing,
    chunks_for,
    compute_checksums,
    compute_checksums_and_changes,
    differing_chunks,
    hashing,
    row_count,
)
from warehouse.extract.column import Column
from warehouse.extract.expected import expected_checksums, without_deleted
from warehouse.extract.missed_rows import read_missed_rows
from warehouse.sources.source import Table

# Places (ctid) of changed rows kept in memory, about 70 bytes each; more changed rows are read by a second scan.
MOST_PLACES = 500_000
# Places in one statement.
PLACES_AT_ONCE = 50_000


@dataclass(frozen=True)
class SourceChecksums:
    """Result of one scan of the source: checksums in `chunks` chunks, and the places (ctid) of the changed rows."""

    checksums: Checksums
    chunks: int
    places: list[str]

    @property
    def changed(self) -> Iterator[sql.Composable]:
        """SQL conditions that together select the changed rows, each row once; valid in the same snapshot."""
        for start in range(0, len(self.places), PLACES_AT_ONCE):
            places = self.places[start : start + PLACES_AT_ONCE]
            yield sql.SQL("ctid = any({}::tid[])").format(sql.Literal(places))


@dataclass(frozen=True)
class Compared:
    """What a comparison of all rows has found: deleted keys, rows that differ, and the source's checksums."""

    rows_deleted: int
    rows_found: int
    digest: Digest

    @property
    def source_rows(self) -> int:
        return row_count(self.digest.checksums)


def scan_once(
    reader: psycopg.Connection,
    table: Table,
    columns: Sequence[Column],
    has_changed: sql.Composable,
    rows_expected: int,
    method: Hashing,
) -> SourceChecksums | None:
    """Compute the source's checksums and find the rows that have changed, in one scan; None if these are too many."""
    chunks = chunks_for(rows_expected)
    found = compute_checksums_and_changes(
        reader,
        sql.Identifier(*table.at_source),
        table.key,
        columns,
        chunks,
        method,
        has_changed,
        MOST_PLACES,
    )
    return SourceChecksums(found[0], chunks, found[1]) if found else None


def compare_all(
    reader: psycopg.Connection,
    writer: psycopg.Connection,
    table: Table,
    columns: tuple[Column, ...],
    mirror: Mirror,
    already_read: sql.Composable,
    rows_staged: int,
    *,
    is_full: bool,
    verified: Digest | None,
    scanned: SourceChecksums | None = None,
) -> Compared:
    """Compare all rows of the source with mirror and batch; stage deleted keys, and add missed rows to the batch.

    `already_read` is the condition by which the `rows_staged` rows of the batch were read. No rows are added to a batch
    that `is_full`. `verified` are the checksums to which the last run verified the mirror, if known. The source is
    scanned unless it was `scanned` already.
    """
    relation = sql.Identifier(*table.at_source)
    # The source has about as many rows as the larger of batch and mirror.
    chunks = scanned.chunks if scanned else chunks_for(max(mirror.rows, rows_staged))
    method = hashing(reader, writer)
    mirror_checksums = verified.checksums if verified and verified.chunks == chunks else None

    def read_source() -> Checksums:
        if scanned is not None:
            return scanned.checksums
        return compute_checksums(reader, relation, table.key, columns, chunks, method, at_source=True)

    # Source and warehouse are different servers: hash both in parallel.
    with ThreadPoolExecutor(max_workers=1) as pool:
        pending = pool.submit(read_source)
        expected = (
            expected_checksums(
                writer, table, columns, chunks, method, mirror_checksums, rows_staged, keys_only=is_full
            )
            if mirror.exists
            else None
        )
        source = pending.result()
    digest = Digest(table, columns, source, chunks)
    if expected is None:
        return Compared(0, 0, digest)
    buckets = differing_chunks(source, expected, content=False)
    deleted = deletes.find_deleted_keys(reader, writer, table, columns, buckets, chunks)
    # The source has more rows than expected: some were missed, or share their key.
    if row_count(source) > row_count(expected) - deleted and deletes.has_repeated_key(writer, table):
        raise invalid_key(table, "not unique")
    if is_full:
        return Compared(deleted, 0, digest)
    if deleted:
        expected = without_deleted(writer, table, columns, chunks, method, expected)
    buckets = differing_chunks(source, expected, content=True)
    found = read_missed_rows(reader, writer, table, columns, already_read, buckets, chunks)
    return Compared(deleted, found, digest)
