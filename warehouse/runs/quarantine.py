"""Read the quarantine: rows of sources and lines of files that broke a rule, with rules and reasons."""

from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg.rows import dict_row

from warehouse.errors import WrongParameters

Rows = Sequence[dict[str, Any]]


def read_waiting(
    connection: psycopg.Connection,
    *,
    source: str | None = None,
    entity: str | None = None,
    rule: str | None = None,
    run_id: int | None = None,
    limit: int = 50,
) -> tuple[int, Rows]:
    """How many entries wait in quarantine, and the newest `limit` of them, without the rows themselves."""
    wanted = {"source": source, "entity": entity, "rule": rule, "run_id": run_id, "limit": limit}
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(_WAITING, wanted).fetchall()
    counts = [row.pop("waiting_count") for row in rows]
    return (counts[0] if counts else 0), rows


def read_entry(connection: psycopg.Connection, quarantine_id: int) -> dict[str, Any]:
    """An entry with its row or line, whether it waits or is resolved.

    Raises:
        WrongParameters: there is none of this id.
    """
    with connection.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(_ENTRY, [quarantine_id]).fetchone()
    if row is None:
        raise WrongParameters(
            f"There is no entry {quarantine_id} in quarantine.", hint="`dwh quarantine list` lists them."
        )
    return row


_PLACE = """
        coalesce(array_to_string(entry.row_key, ' '), concat_ws(':', file.path, entry.line_number)) as place
"""
_WAITING = f"""
    select
        entry.quarantine_id, entry.source, entry.entity, {_PLACE}, entry.rules, entry.reason, entry.quarantined_at,
        entry.run_id, count(*) over () as waiting_count
    from audit.quarantine as entry
    left join audit.file as file on entry.file_id = file.file_id
    where entry.resolved_at is null
        and (%(source)s::text is null or entry.source = %(source)s)
        and (%(entity)s::text is null or entry.entity = %(entity)s)
        and (%(rule)s::text is null or %(rule)s = any(entry.rules))
        and (%(run_id)s::bigint is null or entry.run_id = %(run_id)s)
    order by entry.quarantine_id desc limit %(limit)s
"""
_ENTRY = f"""
    select
        entry.quarantine_id, entry.source, entry.entity, {_PLACE}, entry.rules, entry.reason, entry.quarantined_at,
        entry.run_id, entry.resolved_at, entry.resolution, entry.resolved_run_id, entry.byte_offset, entry.raw_text,
        entry.row_data
    from audit.quarantine as entry
    left join audit.file as file on entry.file_id = file.file_id
    where entry.quarantine_id = %s
"""
