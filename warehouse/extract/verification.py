"""Verification after a run: source (at the run's snapshot) and mirror hold the same rows, by chunked row hashes."""

import time
from dataclasses import dataclass
from datetime import datetime

import psycopg
from psycopg import sql

from warehouse.errors import VerificationFailed
from warehouse.extract.checksum_store import stored_checksums
from warehouse.extract.checksums import compute_checksums, differing_chunks, row_count
from warehouse.extract.staged import Staged, StagedTable
from warehouse.runs.audit import Run


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

    @property
    def verdict(self) -> str:
        return "different" if self.chunks_differing else "equal"


def verify(run: Run, staged: Staged) -> tuple[Verification, ...]:
    """Compare each mirror with its source at the run's snapshot, and record the verdicts in audit.verification.

    Raises:
        VerificationFailed: a mirror differs.
    """
    verifications = tuple(
        _verify(run.audit_connection, table, staged.snapshot.taken_at) for table in staged.tables
    )
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
    different = [verification for verification in verifications if verification.chunks_differing]
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
    stored = stored_checksums(connection, table, taken_at, staged.columns)
    assert stored is not None, "staged by the same run"
    source, chunks = stored
    mirror = compute_checksums(
        connection,
        sql.Identifier("raw", table.mirror),
        table.key,
        staged.columns,
        chunks,
        staged.hashing,
        where=sql.SQL("not _is_deleted"),
    )
    return Verification(
        table.source,
        table.name,
        row_count(source),
        row_count(mirror),
        chunks,
        len(differing_chunks(source, mirror, content=True)),
        round(staged.scan_seconds + time.monotonic() - started, 3),
    )
