"""Identity of a source database, by which a run refuses another database or an earlier state of the same one."""

from dataclasses import dataclass

import psycopg
from psycopg.rows import class_row

from warehouse.errors import SourceChanged


@dataclass(frozen=True)
class SourceIdentity:
    """The cluster and database that a snapshot was taken from, with counters of the cluster that never go back.

    `system_identifier` is None if the server refuses it. All but `snapshot_xmin` are None in watermarks that were
    written before they were recorded.
    """

    system_identifier: str | None
    timeline: int | None
    database_oid: int | None
    database_name: str | None
    # In bytes.
    wal_position: int | None
    # Id of the oldest transaction that was open.
    snapshot_xmin: int

    def __str__(self) -> str:
        database = f"database {self.database_name} (oid {self.database_oid})"
        cluster = f"cluster {self.system_identifier or 'unknown'}"
        return f"{database} of {cluster}" if self.database_oid is not None else cluster

    def is_same_server(self, later: "SourceIdentity") -> bool:
        """Whether transaction ids of the two can be compared: same database, and no other server has taken over."""
        return all(
            None in (one, other) or one == other
            for one, other in (
                (self.system_identifier, later.system_identifier),
                (self.timeline, later.timeline),
                (self.database_oid, later.database_oid),
            )
        )


def captured_identity(connection: psycopg.Connection, source: str) -> SourceIdentity | None:
    """Return the identity of `source` when it was last read; None if it was never read."""
    with connection.cursor(row_factory=class_row(SourceIdentity)) as cursor:
        return cursor.execute(
            """
            select
                system_identifier, timeline, database_oid, database_name,
                (wal_position - '0/0')::bigint as wal_position, snapshot_xmin
            from audit.watermark where source = %s order by captured_at desc, table_name limit 1
            """,
            [source],
        ).fetchone()


def check_same_source(source: str, before: SourceIdentity | None, now: SourceIdentity) -> list[str]:
    """Refuse another database, or an earlier state of the same one: its rows are not newer states of those captured.

    Returns notes that are no reason to stop: the database was renamed, or its cluster cannot be identified.

    Raises:
        SourceChanged: with both identities.
    """
    notes = []
    if now.system_identifier is None:
        notes.append(
            "its server does not say which cluster it is (pg_control_system() is refused): another one is recognised "
            "by its database and counters only"
        )
    if before is None:
        return notes
    if difference := _difference(before, now):
        raise SourceChanged(
            f"Source '{source}' is not the database that was read last: {difference}.",
            hint=accept_hint(source),
        )
    if before.database_name not in (None, now.database_name):
        notes.append(f"its database {before.database_name} is now called {now.database_name}")
    return notes


def accept_hint(source: str) -> str:
    """What to do when a source is another one: correct the URL, or accept it."""
    return (
        f"Nothing was changed. Is DWH_{source.upper()}_URL right? If the source was moved or restored on purpose, "
        f"`dwh run {source} --accept-source --dry-run` shows what would change, and `dwh run {source} --accept-source` "
        "reads everything again."
    )


def _difference(before: SourceIdentity, now: SourceIdentity) -> str | None:
    clusters = (before.system_identifier, now.system_identifier)
    if None not in clusters and before.system_identifier != now.system_identifier:
        return f"it is {now}, and was {before}"
    if None not in (before.database_oid, now.database_oid) and before.database_oid != now.database_oid:
        return f"it is {now}, and was {before}"
    # A restored copy has the identity of its original, but counters that are behind.
    restored = f"(a restored copy, or set back); both are {now}"
    # A former primary may have continued on its own, past every counter: only its timeline is lower.
    if before.timeline is not None and now.timeline is not None and now.timeline < before.timeline:
        return (
            f"its timeline is {now.timeline}, and was {before.timeline} (a restored copy, or a primary "
            f"that another server has replaced); both are {now}"
        )
    if now.snapshot_xmin < before.snapshot_xmin:
        counters = f"counted from {now.snapshot_xmin:,}, and were from {before.snapshot_xmin:,}"
        return f"its transactions are {counters} {restored}"
    if (
        before.wal_position is not None
        and now.wal_position is not None
        and now.wal_position < before.wal_position
    ):
        return f"its write-ahead log is at byte {now.wal_position:,}, and was at {before.wal_position:,} {restored}"
    return None
