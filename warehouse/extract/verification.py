"""Verification after a run: source (at the run's snapshot) and mirror hold the same rows, by chunked row hashes."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import psycopg
from psycopg import sql

from warehouse.errors import VerificationFailed
from warehouse.extract.checksum_store import stored_checksums
from warehouse.extract.checksums import (
    RANGE_CHUNKS,
    RANGES_AT_ONCE,
    Chunk,
    compute_checksums,
    compute_range_checksums,
    differing_chunks,
    row_count,
)
from warehouse.extract.range_store import forget_verification
from warehouse.extract.staged import Staged, StagedTable
from warehouse.runs.audit import Run

NOT_COMPARED = "not_compared"


@dataclass(frozen=True)
class Verification:
    """Verdict on one captured table; `seconds` covers the digests of both sides and the search for deletes."""

    source: str
    table_name: str
    rows_source: int
    rows_mirror: int
    chunks: int
    chunks_differing: int
    seconds: float
    # True if only some key ranges of the table were compared.
    is_part: bool = False

    @property
    def is_compared(self) -> bool:
        """Whether anything was compared: a read by the cursor of a table without key ranges compares nothing."""
        return self.chunks > 0

    @property
    def verdict(self) -> str:
        if not self.is_compared:
            return NOT_COMPARED
        return "different" if self.chunks_differing else "equal"


def verify(run: Run, staged: Staged) -> tuple[Verification, ...]:
    """Compare each mirror with its source at the run's snapshot, and record the verdicts in audit.verification.

    Of a large table, the ranges are compared that the run verified before it published: they are equal only if the
    publish changed the mirror as expected.

    Raises:
        VerificationFailed: a mirror differs.
    """
    verifications = tuple(
        _verify(run.audit_connection, table, staged.snapshot.taken_at)
        for table in staged.tables
        if table.reading != "skipped"
    )
    different = [verification for verification in verifications if verification.chunks_differing]
    # Before the verdicts: a run that is killed in between must not leave a range that differs marked as verified.
    for one in different:
        forget_verification(run.audit_connection, run.run_id, one.source, one.table_name)
    with run.audit_connection.cursor() as cursor:
        cursor.executemany(
            """
            insert into audit.verification
                (run_id, source, table_name, rows_source, rows_mirror, chunks, chunks_differing, verdict, seconds,
                captured_at)
            values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
            """,
            [
                (run.run_id, v.source, v.table_name, v.rows_source, v.rows_mirror, v.chunks, v.chunks_differing,
                 v.verdict, v.seconds, staged.snapshot.taken_at)
                for v in verifications
            ],
        )  # fmt: skip
    if different:
        tables = "; ".join(
            f"{v.table_name}: {v.rows_source:,} rows in the source, {v.rows_mirror:,} in the mirror, "
            f"{v.chunks_differing} of {v.chunks} chunks differ"
            for v in different
        )
        raise VerificationFailed(
            f"Source '{staged.source.name}' and its mirror differ: {tables}.",
            hint="What was loaded stays. Read everything again: "
            f"`dwh run {staged.source.name} --full-refresh`.",
        )
    return verifications


def _verify(connection: psycopg.Connection, staged: StagedTable, taken_at: datetime) -> Verification:
    started = time.monotonic()
    table = staged.table
    relation, live = sql.Identifier("raw", table.mirror), sql.SQL("not _is_deleted")
    if staged.reading == "ranges":
        chunks = RANGE_CHUNKS * len(staged.ranges)
        pairs = [
            (one.checksums, mirror)
            for one, mirror in zip(staged.ranges, _of_ranges(connection, staged), strict=True)
        ]
    else:
        if staged.digest is not None:
            source, chunks = staged.digest.checksums, staged.digest.chunks
        else:
            stored = stored_checksums(connection, {table: (taken_at, staged.columns)})
            assert table in stored, "staged by the same run"
            source, chunks = stored[table].checksums, stored[table].chunks
        pairs = [
            (
                source,
                compute_checksums(
                    connection, relation, table.key, staged.columns, chunks, staged.hashing, where=live
                ),
            )
        ]
    return Verification(
        table.source,
        table.name,
        sum(row_count(source) for source, _ in pairs),
        sum(row_count(mirror) for _, mirror in pairs),
        chunks,
        sum(len(differing_chunks(source, mirror, content=True)) for source, mirror in pairs),
        round(staged.scan_seconds + time.monotonic() - started, 3),
        is_part=staged.reading == "ranges",
    )


def _of_ranges(connection: psycopg.Connection, staged: StagedTable) -> Iterator[dict[int, Chunk]]:
    """Checksums of the mirror in each range that was verified."""
    for start in range(0, len(staged.ranges), RANGES_AT_ONCE):
        assert staged.key_order is not None
        with connection.transaction():
            connection.execute("set local enable_seqscan = off")
            yield from compute_range_checksums(
                connection,
                sql.SQL("(select * from {} where not _is_deleted) as mirror").format(
                    sql.Identifier("raw", staged.table.mirror)
                ),
                staged.table.key,
                staged.columns,
                staged.hashing,
                [
                    staged.key_order.within(one.low, one.high)
                    for one in staged.ranges[start : start + RANGES_AT_ONCE]
                ],
            )
            connection.execute("set local enable_seqscan to default")
