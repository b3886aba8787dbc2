"""Verify key ranges: compare source and mirror by index range scans, in the snapshot of the batch.

The source should equal the mirror with the batch applied. Deleted keys are staged, rows that differ are added to the
batch.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import psycopg
from psycopg import sql

from warehouse.db.connections import analyze_briefly
from warehouse.db.identifiers import listed, qualified, same_key
from warehouse.extract import deletes
from warehouse.extract.catalog import invalid_key
from warehouse.extract.checksums import (
    RANGE_CHUNKS,
    RANGES_AT_ONCE,
    Checksums,
    Chunk,
    Hashing,
    combined,
    compute_checksums,
    compute_range_checksums,
    differing_chunks,
    hashing,
    row_count,
)
from warehouse.extract.column import Column
from warehouse.extract.key_order import Bound, KeyOrder
from warehouse.extract.key_ranges import KeyRange, Turn, VerifiedRange
from warehouse.extract.missed_rows import read_missed_rows
from warehouse.extract.staging_tables import batch_table, deleted_table
from warehouse.extract.watermark import Rotation
from warehouse.sources.source import Table

# A batch with more rows is indexed by its key, since each range looks up its own keys.
INDEX_ABOVE = 1000


@dataclass
class RangeVerifier:
    """Verify key ranges of one table, whose batch has to be staged before; rows that were missed are added to it."""

    reader: psycopg.Connection
    writer: psycopg.Connection
    table: Table
    columns: tuple[Column, ...]
    order: KeyOrder
    # SQL condition on the source's rows that are in the batch already.
    already_read: sql.Composable
    # The rotation before this run.
    earlier: Rotation
    verified: dict[Bound, VerifiedRange] = field(default_factory=dict)
    rows_found: int = 0

    def __post_init__(self) -> None:
        self._method: Hashing = hashing(self.reader, self.writer)
        # Never scan the table for a range, even where the planner's statistics suggest it.
        for connection in (self.reader, self.writer):
            connection.execute("set local enable_seqscan = off")
        batch = batch_table(self.table)
        row = self.writer.execute(sql.SQL("select count(*) from {}").format(batch)).fetchone()
        if row is not None and row[0] > INDEX_ABOVE:
            # PostgreSQL chooses the name: any name of ours may be that of another table's batch.
            self.writer.execute(sql.SQL("create index on {} ({})").format(batch, self.order.sorted()))
            analyze_briefly(self.writer, batch, self.table.key)

    @property
    def rows_deleted(self) -> int:
        """Keys that were found to be deleted."""
        return sum(one.rows_deleted for one in self.verified.values())

    @property
    def rows_expected(self) -> int:
        """Rows that were compared."""
        return sum(max(one.rows_expected, one.row_count) for one in self.verified.values())

    @property
    def rotation(self) -> Rotation:
        """The rotation including this run; a row counts once, however often its range is verified."""
        return Rotation(
            self.earlier.started_at,
            self.earlier.rows_verified + sum(one.rows_first_verified for one in self.verified.values()),
            self.earlier.rows_deleted + self.rows_deleted,
        )

    def verify(self, chosen: Sequence[tuple[KeyRange, Turn]]) -> None:
        """Compare ranges; stage the deleted keys and the rows that differ.

        Raises:
            SourceError: the declared key is not unique in the source.
        """
        for start in range(0, len(chosen), RANGES_AT_ONCE):
            some = chosen[start : start + RANGES_AT_ONCE]
            # Source and warehouse are different servers: hash both in parallel.
            with ThreadPoolExecutor(max_workers=1) as pool:
                pending = pool.submit(self._source_checksums, [one for one, _ in some])
                expected = self._expected_checksums([one for one, _ in some])
                source = pending.result()
            for (one, turn), source_checksums, expected_checksums in zip(some, source, expected, strict=True):
                self.verified[one.low] = self._settle(one, turn, source_checksums, expected_checksums)

    def verify_beyond(self, ranges: Sequence[KeyRange], is_enough: Callable[[], bool]) -> None:
        """Verify the neighbours of ranges in which a key at the end was deleted, to find a block of deletes completely;
        stop once `is_enough`."""
        places = {one.low: place for place, one in enumerate(ranges)}
        while not is_enough():
            beyond = [
                ranges[place]
                for low, one in self.verified.items()
                if one.is_cut_off
                for place in (places[low] - 1, places[low] + 1)
                if 0 <= place < len(ranges) and ranges[place].low not in self.verified
            ]
            if not beyond:
                return
            self.verify([(beyond[0], "oldest")])

    def close(self) -> None:
        """Restore the planner's settings on both connections, and drop the batch's index."""
        for connection in (self.reader, self.writer):
            connection.execute("set local enable_seqscan to default")
        batch = batch_table(self.table)
        for (name,) in self.writer.execute(
            "select relname from pg_index inner join pg_class on pg_class.oid = indexrelid "
            "where indrelid = %s::regclass",
            [batch.as_string(self.writer)],
        ).fetchall():
            self.writer.execute(sql.SQL("drop index {}").format(sql.Identifier("staging", name)))

    def _settle(self, one: KeyRange, turn: Turn, source: Checksums, expected: Checksums) -> VerifiedRange:
        """Stage the deleted keys of a range, and its rows that differ."""
        rows_expected = row_count(expected)
        within = deletes.Within(
            self.order.within(one.low, one.high, at_source=True), self.order.within(one.low, one.high)
        )
        buckets = differing_chunks(source, expected, content=False)
        deleted = deletes.find_deleted_keys(
            self.reader, self.writer, self.table, self.columns, buckets, RANGE_CHUNKS, within
        )
        # The source has more rows than expected: some were missed, or share their key.
        if row_count(source) > rows_expected - deleted and deletes.has_repeated_key(self.writer, self.table):
            raise invalid_key(self.table, "not unique")
        if deleted:
            expected = combined([expected], [self._deleted_checksums(within.at_mirror)])
        buckets = differing_chunks(source, expected, content=True)
        self.rows_found += read_missed_rows(
            self.reader,
            self.writer,
            self.table,
            self.columns,
            self.already_read,
            buckets,
            RANGE_CHUNKS,
            within,
        )
        return VerifiedRange(
            one.low,
            one.high,
            turn,
            source,
            rows_expected,
            deleted,
            bool(deleted) and self._is_cut_off(within.at_mirror),
            rows_first_verified=self._first_verified(one, max(rows_expected, row_count(source))),
        )

    def _first_verified(self, one: KeyRange, rows: int) -> int:
        """How many of a range's rows no run has counted in this rotation; a reconcile's verification counts none."""
        is_again = one.age_key > self.earlier.started_at and one.turn != "whole"
        return max(rows - one.row_count, 0) if is_again else rows

    def _source_checksums(self, ranges: Sequence[KeyRange]) -> list[dict[int, Chunk]]:
        return compute_range_checksums(
            self.reader,
            sql.Identifier(*self.table.at_source),
            self.table.key,
            self.columns,
            self._method,
            [self.order.within(one.low, one.high, at_source=True) for one in ranges],
            at_source=True,
        )

    def _expected_checksums(self, ranges: Sequence[KeyRange]) -> list[dict[int, Chunk]]:
        """Compute the checksums of the mirror with the batch applied, by range."""
        names = listed([column.name for column in self.columns])
        relation = sql.SQL(
            """
            (
                select {names} from {mirror} as mirror
                where not _is_deleted and not exists (select from {batch} as batch where {same})
                union all
                select {names} from {batch} as batch
            ) as expected
            """
        ).format(
            names=names,
            mirror=sql.Identifier("raw", self.table.mirror),
            batch=batch_table(self.table),
            same=same_key(self.table.key, "mirror", "batch"),
        )
        return compute_range_checksums(
            self.writer,
            relation,
            self.table.key,
            self.columns,
            self._method,
            [self.order.within(one.low, one.high) for one in ranges],
        )

    def _deleted_checksums(self, within: sql.Composable) -> dict[int, Chunk]:
        return compute_checksums(
            self.writer,
            sql.SQL("{} as mirror").format(sql.Identifier("raw", self.table.mirror)),
            self.table.key,
            self.columns,
            RANGE_CHUNKS,
            self._method,
            where=sql.SQL("not _is_deleted and {} and exists (select from {} as staged where {})").format(
                within, deleted_table(self.table), same_key(self.table.key, "mirror", "staged")
            ),
        )

    def _is_cut_off(self, within: sql.Composable) -> bool:
        """Whether the mirror's first or last row in a range was deleted at the source."""
        ends = sql.SQL(" union all ").join(
            sql.SQL(
                "(select {key} from {mirror} as mirror where not _is_deleted and {within} order by {sorted} limit 1)"
            ).format(
                key=qualified("mirror", self.table.key),
                mirror=sql.Identifier("raw", self.table.mirror),
                within=within,
                sorted=self.order.sorted(of="mirror", is_descending=is_descending),
            )
            for is_descending in (False, True)
        )
        return bool(
            self.writer.execute(
                sql.SQL("select from ({}) as ends inner join {} as gone on {} limit 1").format(
                    ends, deleted_table(self.table), same_key(self.table.key, "ends", "gone")
                )
            ).rowcount
        )
