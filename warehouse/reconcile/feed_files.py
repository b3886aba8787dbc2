"""Reconcile a feed's files: compare the counts in audit.file with the records in mirror and quarantine."""

import time

import psycopg
from psycopg import sql

from warehouse.extract.catalog import mirror_exists
from warehouse.reconcile.verdict import MOST_LISTED, Difference, Verdict
from warehouse.sources.feed import FILE_ID
from warehouse.sources.source import Source


def reconcile_files(connection: psycopg.Connection, source: Source) -> list[Verdict]:
    """Repair the counts of a feed's files from its mirror and the quarantine; the number of a file's records is kept.

    Records that are neither loaded, quarantined nor discarded count as superseded.
    """
    started = time.monotonic()
    if not mirror_exists(connection, source.record):
        return []
    rows = connection.execute(
        sql.SQL(_COUNTS).format(
            mirror=sql.Identifier("raw", source.record.mirror),
            file_id=sql.Identifier(FILE_ID),
            feed=sql.Literal(source.name),
            entity=sql.Literal(source.record.mirror),
        )
    ).fetchall()
    names = ("rows_loaded", "rows_quarantined", "rows_discarded", "rows_superseded")
    differing = []
    for file_id, line_count, *counts in rows:
        found, held = counts[:4], counts[4:]
        expected = [*held, line_count - sum(held)]
        if found == expected:
            continue
        is_possible = expected[-1] >= 0
        if is_possible:
            connection.execute(
                "update audit.file set rows_loaded = %s, rows_quarantined = %s, rows_discarded = %s, "
                "rows_superseded = %s where file_id = %s",
                [*expected, file_id],
            )
        differing.append(
            Difference(
                "star",
                source.name,
                "audit.file",
                {"file_id": str(file_id)},
                "changed" if is_possible else "unrepairable",
                {name: str(count) for name, count in zip(names, found, strict=True)},
                {name: str(count) for name, count in zip(names, expected, strict=True)},
            )
        )
    return [
        Verdict(
            "star",
            source.name,
            "audit.file",
            len(rows),
            len(rows),
            rows_differing=len(differing),
            differences=differing[:MOST_LISTED],
        ).timed(started)
    ]


_COUNTS = """
    select
        file.file_id, file.line_count - file.lines_duplicated, file.rows_loaded, file.rows_quarantined,
        file.rows_discarded, file.rows_superseded,
        coalesce(loaded.count, 0), coalesce(entry.quarantined, 0), coalesce(entry.discarded, 0)
    from audit.file as file
    left join (
        select {file_id} as file_id, count(*) from {mirror} where not _is_deleted group by 1
    ) as loaded on file.file_id = loaded.file_id
    left join (
        select file_id, count(*) filter (where resolved_at is null) as quarantined,
            count(*) filter (where resolution = 'discarded') as discarded
        from audit.quarantine where source = {feed} and entity = {entity} group by file_id
    ) as entry on file.file_id = entry.file_id
    where file.feed = {feed} order by file.file_id
"""
