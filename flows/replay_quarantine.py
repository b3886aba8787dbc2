"""Replay or discard entries of the quarantine: a run of its own for each source, under that source's lock."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flows.databases import with_urls
from flows.engine import log
from flows.ingest_source import ensure_undamaged
from flows.run_locked import run_locked
from warehouse.archive.changed_rows import archive_changed_rows
from warehouse.db.connections import connect
from warehouse.db.locks import source_lock, transaction_lock
from warehouse.db.schema_version import ensure_migrated
from warehouse.errors import WrongParameters
from warehouse.feeds.json_parse import parse
from warehouse.feeds.record import Problem
from warehouse.feeds.replay import stage_entries
from warehouse.history.change_log import STAR_LOCK
from warehouse.load.publish import publish
from warehouse.load.rejudge import rejudge
from warehouse.runs.audit import Load, Run
from warehouse.runs.discard import discard
from warehouse.runs.quarantine import (
    Selection,
    count_waiting,
    edit_record,
    find_waiting,
    run_ids_of,
    still_waiting,
)
from warehouse.settings import Settings
from warehouse.sources.registry import declared_sources, read_source
from warehouse.weblogs import loader
from warehouse.weblogs.files.checkpoints import FEED
from warehouse.weblogs.maintenance.retention import retained
from warehouse.weblogs.rejudge import find_readable

REPLAY, DISCARD = "replay-quarantine", "discard-quarantine"


@dataclass(frozen=True)
class Replayed:
    """Result of a replay, or its dry run, for one source: how many entries it judged again, and how many passed."""

    source: str
    run_id: int
    judged: int
    passed: int
    loads: Sequence[Load] = ()
    dry_run: bool = False


def replay(selection: Selection, *, edited: bytes | None = None, dry_run: bool = False) -> list[Replayed]:
    """Judge the selected entries once more and load those that pass, one run for each source.

    `edited` is the corrected record of the selected entry, of which there may be only one.

    Raises:
        WrongParameters: nothing is selected, or the selected entry cannot be corrected here or by this record.
    """
    settings = with_urls(Settings.load())
    ensure_migrated(settings.warehouse)
    with connect(settings.warehouse, autocommit=True) as connection:
        chosen = find_waiting(connection, selection)
        if edited is None and selection.source is None and not selection.ids:
            chosen = _declared(settings, chosen)
        if edited is not None:
            _ensure_readable(edited)
            # Check early that the entry can be corrected, and roll back: _replay corrects it under the source's lock.
            with connection.transaction(force_rollback=True):
                edit_record(connection, chosen, edited)
        runs = {source: run_ids_of(connection, ids) for source, ids in chosen.items()}
    return [_replay(settings, source, ids, runs[source], dry_run, edited) for source, ids in chosen.items()]


def _declared(settings: Settings, chosen: Mapping[str, Sequence[int]]) -> Mapping[str, Sequence[int]]:
    """Drop the entries of sources that are no longer declared: without a declaration they cannot be checked again."""
    gone = chosen.keys() - declared_sources(settings.sources).keys() - {FEED}
    for source in sorted(gone):
        log(
            f"{source}: {len(chosen[source]):,} entries wait on, since no such source is declared any more: put its "
            "folder back into DWH_SOURCES to replay them"
        )
    return {source: ids for source, ids in chosen.items() if source not in gone}


def _ensure_readable(edited: bytes) -> None:
    problem = parse(
        edited.decode("utf-8-sig", "surrogateescape").strip().encode("utf-8", "surrogateescape"), {}
    )
    if isinstance(problem, Problem):
        raise WrongParameters(
            f"The corrected record cannot be read: {problem.rule}. {problem.reason}",
            hint="`dwh quarantine show ID --json` shows the record as it came. A row of a list is corrected as JSON, "
            "too: an object with a field for each column.",
        )


def _replay(
    settings: Settings,
    source: str,
    chosen: Sequence[int],
    of_runs: Sequence[int],
    dry_run: bool,
    edited: bytes | None,
) -> Replayed:
    def work(run: Run) -> Replayed:
        loads: Sequence[Load] = ()
        # Another run may have judged them since they were chosen.
        ids = still_waiting(run.dry_run_connection or run.connection, chosen)
        if edited is not None:
            with run.session("edit") as connection:
                edit_record(connection, {source: chosen}, edited)
        if source == FEED:
            with connect(run.warehouse_url, autocommit=True) as connection:
                paths, passed = find_readable(settings, connection, ids, log)
            if paths and not dry_run:
                with retained(settings, run, progress=log):
                    loader.load(settings, run, restart=paths)
            return Replayed(source, run.run_id, len(ids), passed, loads, dry_run)
        declared = read_source(source, settings.sources)
        # What is loaded into an emptied mirror would hide from the next run that its other rows are lost.
        ensure_undamaged(run, declared, "", settings)
        if declared.feed is None:
            loads = rejudge(run, declared, ids)
        else:
            staged = stage_entries(run, declared, ids, settings.lake)
            loads = publish(run, staged, progress=log).loads
        still = count_waiting(run.dry_run_connection or run.connection, ids)
        return Replayed(source, run.run_id, len(ids), len(ids) - still, loads, dry_run)

    return run_locked(
        settings.warehouse,
        REPLAY,
        work,
        lock=source_lock(source),
        shared=source == FEED,
        parameters={"source": source, "replays_runs": list(of_runs)},
        dry_run=dry_run,
    )


def discard_entries(selection: Selection, reason: str) -> int:
    """Discard the selected records and lines of files; returns how many.

    Raises:
        WrongParameters: nothing is selected, or rows of a database are.
    """
    settings = with_urls(Settings.load())
    ensure_migrated(settings.warehouse)
    with connect(settings.warehouse, autocommit=True) as connection:
        chosen = find_waiting(connection, selection)
    count = 0
    for source, ids in chosen.items():

        def work(run: Run, ids: Sequence[int] = ids) -> int:
            with run.session("discard") as writer:
                # Lock the star before the entries' rows, in the order in which publishing locks, to avoid deadlocks.
                transaction_lock(writer, STAR_LOCK, log)
                discarded = discard(writer, run.run_id, ids, reason)
                if run.is_archived:
                    archive_changed_rows(writer, run.run_id)
                return discarded

        count += run_locked(
            settings.warehouse,
            DISCARD,
            work,
            lock=source_lock(source),
            parameters={"source": source, "reason": reason},
        )
    return count
