"""Reconcile a source, a feed or the web logs down to the marts, in one transaction that is committed or rolled back."""

from collections.abc import Callable, Sequence

import psycopg

from warehouse.archive.changed_rows import archive_changed_rows
from warehouse.archive.mirrors import MirrorChanges
from warehouse.db.locks import session_lock, source_lock
from warehouse.errors import DifferencesFound, counted
from warehouse.extract.range_store import mark_table_verified, mark_verified
from warehouse.extract.snapshot import Snapshot, snapshot_of
from warehouse.extract.source_identity import captured_identity, check_same_source
from warehouse.extract.table_catalog import read_catalogs
from warehouse.extract.watermark import read_watermarks
from warehouse.load.transaction import PLANNER_FOR_WHOLE_TABLES, begin_publishing
from warehouse.reconcile.feed_files import reconcile_files
from warehouse.reconcile.marts import reconcile_marts
from warehouse.reconcile.mirror import check_same_server, reconcile_mirror, why_not_loaded
from warehouse.reconcile.star import reconcile_star
from warehouse.reconcile.verdict import Verdict, record
from warehouse.reconcile.weblogs import reconcile_weblogs
from warehouse.runs.audit import Load, Run, ensure_alive, record_load
from warehouse.sources.source import Source
from warehouse.weblogs.files.checkpoints import FEED

Progress = Callable[[str], None]


def reconcile_source(
    run: Run,
    source: Source,
    source_url: str,
    *,
    repair: bool,
    wait_seconds: float = 60,
    lock_wait_seconds: float = 60,
    progress: Progress = lambda _: None,
) -> tuple[Verdict, ...]:
    """Compare and repair mirrors, star and stored marts; the repair is committed with `repair`, else rolled back.

    So the reported differences are exactly those that a repair would change. The verdicts are recorded either way.

    Raises:
        LockHeld: the source is being loaded, and is still after `wait_seconds`.
        SourceLocked: somebody holds a lock on a table of the source, and still does after `lock_wait_seconds`.
        SourceChanged: the source is another database than the one that was captured.
        SourceError, SchemaDrift, DeclarationError: source and warehouse cannot be compared.
    """
    with (
        session_lock(run.connection, source_lock(source.name), wait_seconds=wait_seconds),
        snapshot_of(
            source.name, source_url, source.tables, lock_wait_seconds=lock_wait_seconds, progress=progress
        ) as (reader, snapshot),
        run.connect() as writer,
    ):
        check_same_source(source.name, captured_identity(writer, source.name), snapshot.identity)
        begin_publishing(writer, run, planner=PLANNER_FOR_WHOLE_TABLES)
        verdicts = []
        known = read_watermarks(writer, source.name, source.tables)
        watermarks = {table: known[table] for table in source.tables if table in known}
        check_same_server(watermarks, snapshot)
        catalogs = read_catalogs(reader, writer, list(watermarks))
        for table in source.tables:
            if table not in watermarks:
                progress(f"{source.name} → raw.{table.mirror}: {why_not_loaded(writer, table)}")
                continue
            verdict = reconcile_mirror(
                reader, writer, run.run_id, table, catalogs[table], watermarks[table], snapshot
            )
            verdicts.append(verdict)
            progress(str(verdict))
        verdicts += reconcile_star(writer, run.run_id, source, progress=progress)
        for verdict in reconcile_marts(writer, repair=repair):
            verdicts.append(verdict)
            progress(str(verdict))
        ended = _end(writer, run, verdicts, repair)
        _mark_verified(run, source, snapshot, ended)
        return ended


def reconcile_feed(
    run: Run,
    source: Source,
    *,
    repair: bool,
    wait_seconds: float = 60,
    progress: Progress = lambda _: None,
) -> tuple[Verdict, ...]:
    """Compare the counts of a feed's files, star and stored marts, as `reconcile_source` does.

    Raises:
        LockHeld: the feed is being loaded, and is still after `wait_seconds`.
    """
    with (
        session_lock(run.connection, source_lock(source.name), wait_seconds=wait_seconds),
        run.connect() as writer,
    ):
        begin_publishing(writer, run, planner=PLANNER_FOR_WHOLE_TABLES)
        verdicts = reconcile_files(writer, source)
        verdicts += reconcile_star(writer, run.run_id, source, progress=progress)
        verdicts += reconcile_marts(writer, repair=repair)
        for verdict in verdicts:
            progress(str(verdict))
        return _end(writer, run, verdicts, repair)


def reconcile_weblog_files(
    run: Run, *, repair: bool, wait_seconds: float = 60, progress: Progress = lambda _: None
) -> tuple[Verdict, ...]:
    """Compare the web logs' files, fact and aggregates, as `reconcile_source` does.

    Raises:
        LockHeld: web logs are being loaded, and are still after `wait_seconds`.
    """
    with (
        session_lock(run.connection, FEED, wait_seconds=wait_seconds),
        run.connect() as writer,
    ):
        begin_publishing(writer, run, planner=PLANNER_FOR_WHOLE_TABLES)
        verdicts = reconcile_weblogs(writer, run.run_id)
        for verdict in verdicts:
            progress(str(verdict))
        return _end(writer, run, verdicts, repair)


def stop_on_differences(verdicts: Sequence[Verdict]) -> None:
    """Fail a run that has found differences and not repaired them.

    Raises:
        DifferencesFound: names each table and its first row, without values, which may be personal data.
    """
    different = [verdict for verdict in verdicts if verdict.verdict == "different"]
    if not different:
        return
    tables = "; ".join(
        f"{verdict.table_name} in {counted(verdict.rows_differing - verdict.rows_repaired, 'row')} "
        f"(as {verdict.differences[0].without_values})" + (f"; {verdict.note}" if verdict.note else "")
        for verdict in different
    )
    raise DifferencesFound(
        f"{len(different)} of {len(verdicts)} tables differ: {tables}.",
        verdicts=verdicts,
        hint=_hint(different),
    )


def _hint(different: Sequence[Verdict]) -> str:
    if redefined := sorted({verdict.source for verdict in different if verdict.is_redefined}):
        runs = " and ".join(f"`dwh run {source}`" for source in redefined)
        return f"Load them by {runs}, which conforms what has changed again; then ask `dwh reconcile` what is left."
    if any(d.problem != "unrepairable" and not d.is_repaired for v in different for d in v.differences):
        return "Repair them by `dwh reconcile --repair`; audit.difference keeps their old values."
    return "These cannot be repaired from the warehouse: see docs/runbook.md, 'Reconcile found differences'."


def _end(
    writer: psycopg.Connection, run: Run, verdicts: Sequence[Verdict], repair: bool
) -> tuple[Verdict, ...]:
    if not repair:
        writer.rollback()
        # The verdicts are recorded on the run's own connection, which is not rolled back.
        record(run.connection, run.run_id, verdicts)
        return tuple(verdicts)
    repaired = tuple(verdict.repaired() if verdict.rows_differing else verdict for verdict in verdicts)
    record(writer, run.run_id, repaired)
    for verdict in repaired:
        if verdict.rows_repaired:
            record_load(writer, run.run_id, _load(verdict))
    if run.is_archived:
        for source in sorted({one.source for one in repaired if one.layer == "mirror" and one.rows_repaired}):
            mirrors = MirrorChanges(writer, source)
            mirrors.note_rows_of([run.run_id])
            mirrors.note_images_of(run.run_id)
            mirrors.archive(run.run_id, "repair")
        if any(one.rows_repaired for one in repaired):
            archive_changed_rows(writer, run.run_id)
    ensure_alive(run)
    writer.commit()
    return repaired


def _mark_verified(run: Run, source: Source, snapshot: Snapshot, verdicts: Sequence[Verdict]) -> None:
    """Record mirrors that are equal now, or their equal key ranges, as verified, so that runs verify others first."""
    equal = {one.table_name: one for one in verdicts if one.layer == "mirror" and one.verdict != "different"}
    with run.connection.transaction():
        run.connection.execute("select set_config('dwh.run_id', %s, true)", [str(run.run_id)])
        for table in source.tables:
            if found := equal.get(table.name):
                mark_verified(
                    run.connection,
                    run.run_id,
                    table,
                    snapshot,
                    pending=found.pending_ranges,
                    missed=found.missed_ranges,
                )
                if not found.rows_missed:
                    mark_table_verified(run.connection, table, snapshot, is_equal=not found.rows_pending)


def _load(verdict: Verdict) -> Load:
    name = verdict.table_name if verdict.layer != "mirror" else f"raw.{verdict.source}_{verdict.table_name}"
    return Load(
        verdict.load_source,
        name,
        rows_read=verdict.rows_expected,
        rows_updated=verdict.rows_repaired,
        seconds=verdict.seconds,
    )
