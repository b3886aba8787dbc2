"""Replay a feed's quarantined records: stage them again, in their original or corrected form."""

from collections.abc import Mapping, Sequence
from typing import Any

from psycopg.rows import dict_row

from warehouse.extract.delete_threshold import DeleteThreshold
from warehouse.feeds.bad_records import BadRecords
from warehouse.feeds.json_parse import parse
from warehouse.feeds.record import Problem, Record
from warehouse.feeds.rows import MEMBER
from warehouse.feeds.sender import Sender
from warehouse.feeds.stage import Stager, place_of, snapshot
from warehouse.feeds.staged import StagedFeed
from warehouse.runs.audit import Run, ensure_alive
from warehouse.runs.definitions import read_contracts
from warehouse.sources.source import Source


def stage_entries(run: Run, source: Source, quarantine_ids: Sequence[int], lake_url: str) -> StagedFeed:
    """Stage the records of these quarantine entries of a feed. Records that cannot be parsed are skipped."""
    contracts = dict(read_contracts(source))
    if contract := source.record_contract():
        contracts[source.record.mirror] = contract
    staged = []
    with run.session("stage") as writer:
        with writer.cursor(row_factory=dict_row) as cursor:
            entries = cursor.execute(_ENTRIES, [list(quarantine_ids), source.name]).fetchall()
        sender = Sender(writer)
        stager = Stager(writer, sender, source, lambda _: None)
        stager.create_tables()
        with sender, BadRecords(writer, sender, source, lake_url, is_dry_run=True):
            for entry in entries:
                record = record_of(entry, source)
                if record is None:
                    continue
                place = place_of(entry["file_id"], entry["path"], entry["modified_ns"])
                if not stager.add([record], place):
                    staged.append(entry["quarantine_id"])
            stager.finish()
        ensure_alive(run)
        run.commit(writer)
        tables = stager.tables()
    return StagedFeed(
        source,
        snapshot(source),
        tables,
        contracts,
        DeleteThreshold(),
        replayed=tuple(staged),
        columns=stager.columns,
    )


def record_of(entry: Mapping[str, Any], source: Source) -> Record | None:
    """Parse the corrected or original record of a quarantine entry; None if it cannot be parsed."""
    fields = parse((entry["edited_text"] or entry["row_text"] or entry["raw_text"] or "").encode(), {})
    if isinstance(fields, Problem):
        return None
    if entry["edited_text"] is None:
        for table in source.tables:
            if isinstance(members := fields.get(table.items or ""), list):
                # The quarantine wraps list members that are not objects as {MEMBER: value}: unwrap them.
                fields[table.items or ""] = [
                    one[MEMBER] if isinstance(one, dict) and one.keys() == {MEMBER} else one
                    for one in members
                ]
    return Record(entry["line_number"], 0, b"", fields)


_ENTRIES = """
    select
        entry.quarantine_id, entry.file_id, entry.line_number, entry.edited_text, entry.row_data::text as row_text,
        entry.raw_text, file.path, file.modified_ns
    from audit.quarantine as entry inner join audit.file as file on entry.file_id = file.file_id
    where entry.quarantine_id = any(%s) and entry.source = %s and entry.resolved_at is null
    order by entry.file_id, entry.line_number
"""
