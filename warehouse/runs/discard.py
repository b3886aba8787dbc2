"""Discard quarantined records and lines with a reason: they are counted as discarded and never loaded."""

from collections.abc import Sequence

import psycopg

from warehouse.errors import WrongParameters
from warehouse.runs.audit import Load, record_load

# Lines of web logs are counted with their file, not as a load: an undo reads the whole file again.
WEBLOGS = "weblogs"


def discard(connection: psycopg.Connection, run_id: int, quarantine_ids: Sequence[int], reason: str) -> int:
    """Discard records and lines of files, and update their files' counts in the same transaction. Returns the number.

    Raises:
        WrongParameters: an entry is a row of a database.
    """
    rows = connection.execute(
        "select quarantine_id from audit.quarantine where quarantine_id = any(%s) and file_id is null "
        "and resolved_at is null limit 1",
        [list(quarantine_ids)],
    ).fetchall()
    if rows:
        raise WrongParameters(
            f"Entry {rows[0][0]} is a row of a database, and can only be corrected there.",
            hint="Only records and lines of files can be discarded: name their source by --source.",
        )
    connection.execute("select set_config('dwh.run_id', %s, true)", [str(run_id)])
    # Do not change run_id of files and parts: an undo of the run that loaded them deletes them.
    discarded = connection.execute(
        """
        with discarded as (
            update audit.quarantine
            set resolved_at = clock_timestamp(), resolved_run_id = %(run_id)s, resolution = 'discarded',
                note = %(reason)s
            where quarantine_id = any(%(ids)s) and resolved_at is null
            returning source, entity, file_id, line_number
        ),

        file as (
            update audit.file as file set
                rows_quarantined = file.rows_quarantined - counted.entries,
                rows_discarded = file.rows_discarded + counted.entries
            from (select file_id, count(*) as entries from discarded group by file_id) as counted
            where file.file_id = counted.file_id
        ),

        part as (
            update audit.file_part as part set
                rows_quarantined = part.rows_quarantined - counted.entries,
                rows_discarded = part.rows_discarded + counted.entries
            from (
                select part.file_id, part.first_line, count(*) as entries
                from discarded inner join audit.file_part as part
                    on discarded.file_id = part.file_id and discarded.line_number >= part.first_line
                    and discarded.line_number < part.first_line + part.line_count
                group by part.file_id, part.first_line
            ) as counted
            where part.file_id = counted.file_id and part.first_line = counted.first_line
        )

        select source, entity, count(*) from discarded group by source, entity
        """,
        {"run_id": run_id, "ids": list(quarantine_ids), "reason": reason},
    ).fetchall()
    for source, entity, count in discarded:
        # Record a load, so that an undo of earlier runs knows that this run has changed the counts, too.
        if source != WEBLOGS:
            record_load(connection, run_id, Load(source, f"raw.{entity}", rows_updated=count))
    return sum(count for *_, count in discarded)
