"""Read the quarantine (rows of sources and lines of files that broke a rule), and correct its records."""

import getpass
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import psycopg
from psycopg.rows import dict_row

from warehouse.errors import WrongParameters

Rows = Sequence[dict[str, Any]]
# Characters of an example that `read_groups` returns.
_MOST_LISTED = 1000


@dataclass(frozen=True)
class Selection:
    """Filter for unresolved entries; all given conditions must hold."""

    ids: Sequence[int] = ()
    source: str | None = None
    entity: str | None = None
    rule: str | None = None
    run_id: int | None = None


def find_waiting(connection: psycopg.Connection, selection: Selection) -> Mapping[str, Sequence[int]]:
    """Return the ids of the selected unresolved entries by source.

    Raises:
        WrongParameters: there are none.
    """
    rows = connection.execute(
        f"select entry.source, array_agg(entry.quarantine_id order by entry.quarantine_id) "
        f"from audit.quarantine as entry where {_SELECTED} group by entry.source order by 1".encode(),
        {**asdict(selection), "ids": list(selection.ids) or None},
    ).fetchall()
    if not rows:
        raise WrongParameters(
            "No entry of the quarantine is selected.", hint="`dwh quarantine list` lists those that wait."
        )
    return dict(rows)


def count_waiting(connection: psycopg.Connection, ids: Sequence[int]) -> int:
    """Count those of these entries that are unresolved, or were replaced by another entry of the same row."""
    row = connection.execute(
        """
        select count(*) from audit.quarantine as entry
        where entry.quarantine_id = any(%s) and (entry.resolved_at is null or entry.resolution = 'replaced')
        """,
        [list(ids)],
    ).fetchone()
    return int(row[0]) if row else 0


def still_waiting(connection: psycopg.Connection, ids: Sequence[int]) -> list[int]:
    """Return those of these entries that were not replayed, discarded or superseded meanwhile."""
    rows = connection.execute(
        "select quarantine_id from audit.quarantine where quarantine_id = any(%s) and resolved_at is null order by 1",
        [list(ids)],
    ).fetchall()
    return [quarantine_id for (quarantine_id,) in rows]


def run_ids_of(connection: psycopg.Connection, ids: Sequence[int]) -> list[int]:
    """Return the runs that put these entries into quarantine."""
    rows = connection.execute(
        "select distinct run_id from audit.quarantine where quarantine_id = any(%s) order by 1", [list(ids)]
    ).fetchall()
    return [run_id for (run_id,) in rows]


def edit_record(connection: psycopg.Connection, chosen: Mapping[str, Sequence[int]], edited: bytes) -> None:
    """Store a corrected record with its quarantine entry, which keeps the original, too.

    Call it while holding the source's lock, since a concurrent replay may already have read the original.

    Raises:
        WrongParameters: several entries are chosen, the entry is not a record of a file or is resolved, or the text is
            not UTF-8.
    """
    (ids,) = chosen.values() if len(chosen) == 1 else ([],)
    if len(ids) != 1:
        raise WrongParameters("Only one entry can be corrected at a time.", hint="Name it by its id.")
    try:
        text = edited.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise WrongParameters("The corrected record is not UTF-8.", hint="Save it as UTF-8.") from None
    changed = connection.execute(
        """
        update audit.quarantine set edited_text = %s, edited_by = %s, edited_at = clock_timestamp()
        where quarantine_id = %s and file_id is not null and source <> 'weblogs' and resolved_at is null
        """,
        [text, getpass.getuser(), ids[0]],
    ).rowcount
    if not changed and not still_waiting(connection, ids):
        raise WrongParameters(
            f"Entry {ids[0]} waits no more: it was replayed, discarded or superseded meanwhile.",
            hint="`dwh quarantine show ID` says what became of it.",
        )
    if not changed:
        raise WrongParameters(
            f"Entry {ids[0]} is no record of a file.",
            hint="Rows of a database are corrected there; lines of web logs by their format.",
        )


def read_groups(connection: psycopg.Connection, selection: Selection) -> Rows:
    """Return unresolved entries grouped by source, entity, rule and run.

    Each group has the id of its newest entry as an example, and the beginning of that line, record or row.
    """
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(
            f"""
            select listed.*, left(coalesce(newest.raw_text, newest.row_data::text), %(most)s) as record
            from (
                select
                    entry.source, entry.entity, rule, entry.run_id, count(*) as entries,
                    max(entry.quarantine_id) as example, min(entry.quarantined_at) as since
                from audit.quarantine as entry cross join unnest(entry.rules) as rule
                where {_SELECTED}
                group by entry.source, entry.entity, rule, entry.run_id
            ) as listed
            inner join audit.quarantine as newest on listed.example = newest.quarantine_id
            order by entries desc, 1, 2, 3, 4
            """.encode(),
            {**asdict(selection), "ids": list(selection.ids) or None, "most": _MOST_LISTED},
        ).fetchall()


_SELECTED = """
    entry.resolved_at is null
    and (%(ids)s::bigint[] is null or entry.quarantine_id = any(%(ids)s))
    and (%(source)s::text is null or entry.source = %(source)s)
    and (%(entity)s::text is null or entry.entity = %(entity)s)
    and (%(rule)s::text is null or %(rule)s = any(entry.rules))
    and (%(run_id)s::bigint is null or entry.run_id = %(run_id)s)
"""


def read_waiting(
    connection: psycopg.Connection,
    *,
    source: str | None = None,
    entity: str | None = None,
    rule: str | None = None,
    run_id: int | None = None,
    limit: int = 50,
) -> tuple[int, Rows]:
    """Return the number of unresolved entries, and the newest `limit` of them without the rows' values."""
    filters = {"source": source, "entity": entity, "rule": rule, "run_id": run_id, "limit": limit}
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(_WAITING, filters).fetchall()
    counts = [row.pop("waiting_count") for row in rows]
    return (counts[0] if counts else 0), rows


def read_entry(connection: psycopg.Connection, quarantine_id: int) -> dict[str, Any]:
    """Return an entry, resolved or not, with its row or line.

    Raises:
        WrongParameters: there is no entry with this id.
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
        entry.edited_text, entry.edited_by, entry.edited_at, entry.note, entry.row_data
    from audit.quarantine as entry
    left join audit.file as file on entry.file_id = file.file_id
    where entry.quarantine_id = %s
"""
