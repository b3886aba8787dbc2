"""Proof: after a run, source (at the run's snapshot) and mirror hold the same rows, by chunked row hashes."""

import time
from dataclasses import dataclass
from datetime import datetime

import psycopg
from psycopg import sql

from warehouse.errors import VerificationFailed
from warehouse.extract.checksum_store import kept_digest
from warehouse.extract.checksums import differing, digest, rows_of
from warehouse.extract.stage import Staged, StagedTable
from warehouse.runs.audit import Run


@dataclass(frozen=True)
class Proof:
    """Verdict on one captured table; `seconds` took the digests of both sides and the search for deletes."""

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


def prove(run: Run, staged: Staged) -> tuple[Proof, ...]:
    """Compare each mirror with what its source held at the run's snapshot; the verdicts are kept in audit.verification.

    Raises:
        VerificationFailed: a mirror differs.
    """
    proofs = tuple(_prove(run.audit_connection, table, staged.snapshot.taken_at) for table in staged.tables)
    with run.audit_connection.cursor() as cursor:
        cursor.executemany(
            """
            insert into audit.verification
                (run_id, source, table_name, rows_source, rows_mirror, chunks, chunks_differing, verdict, seconds,
                captured_at)
            values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
            """,
            [
                (run.run_id, p.source, p.table_name, p.rows_source, p.rows_mirror, p.chunks, p.chunks_differing,
                 p.verdict, p.seconds, staged.snapshot.taken_at)
                for p in proofs
            ],
        )  # fmt: skip
    wrong = [proof for proof in proofs if proof.chunks_differing]
    if wrong:
        said = "; ".join(
            f"{p.table_name}: {p.rows_source:,} rows there, {p.rows_mirror:,} here, {p.chunks_differing} of "
            f"{p.chunks} chunks differ"
            for p in wrong
        )
        raise VerificationFailed(
            f"Source '{staged.source.name}' and its mirror differ: {said}.",
            hint="What was loaded stays. Read everything again: `dwh run shop --whole`.",
        )
    return proofs


def _prove(connection: psycopg.Connection, staged: StagedTable, taken_at: datetime) -> Proof:
    started = time.monotonic()
    table = staged.table
    kept = kept_digest(connection, table, taken_at, staged.columns)
    assert kept is not None, "staged by the same run"
    there, chunks = kept
    here = digest(
        connection,
        sql.Identifier("raw", table.mirror),
        table.key,
        staged.columns,
        chunks,
        staged.hashing,
        where=sql.SQL("not _is_deleted"),
    )
    return Proof(
        table.source,
        table.name,
        rows_of(there),
        rows_of(here),
        chunks,
        len(differing(there, here, content=True)),
        round(staged.scan_seconds + time.monotonic() - started, 3),
    )
