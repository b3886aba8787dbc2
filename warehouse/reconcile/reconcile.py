"""Reconcile a source down to the marts: mend everything in one transaction, then keep it, or only what was found."""

from collections.abc import Callable, Sequence

import psycopg

from warehouse.db.connections import connect
from warehouse.db.locks import session_lock, transaction_lock
from warehouse.errors import DifferencesFound
from warehouse.extract.snapshot import snapshot_of
from warehouse.history.change_log import STAR_LOCK
from warehouse.reconcile.marts import reconcile_marts
from warehouse.reconcile.mirror import reconcile_mirror
from warehouse.reconcile.star import reconcile_star
from warehouse.reconcile.verdict import Verdict, record
from warehouse.reconcile.weblogs import reconcile_weblogs
from warehouse.runs.audit import Load, Run, ensure_alive, record_load
from warehouse.sources.declaration import Source
from warehouse.weblogs.files.checkpoints import FEED

Progress = Callable[[str], None]
# Whole tables are joined: hashes that fit in memory, and no compiler that costs more than it saves.
_PLANNER = "set local work_mem = '96MB'; set local jit = off"


def reconcile_source(
    run: Run,
    source: Source,
    source_url: str,
    *,
    repair: bool,
    wait_seconds: float = 60,
    progress: Progress = lambda _: None,
) -> tuple[Verdict, ...]:
    """Compare source, mirrors, star and stored marts; `repair` keeps what was mended, else all of it is rolled back.

    What is told is so what would be mended, to the row. The verdicts are kept either way.

    Raises:
        LockHeld: the source is being loaded, and is still after `wait_seconds`.
        SourceError, SchemaDrift, DeclarationError: source and warehouse cannot be compared.
    """
    with (
        session_lock(run.connection, f"source {source.name}", wait_seconds=wait_seconds),
        snapshot_of(source_url) as (reader, snapshot),
        connect(run.warehouse_url, application_name=f"dwh {run.flow}") as writer,
    ):
        _begin(writer, run)
        verdicts = []
        for table in source.tables:
            verdict = reconcile_mirror(reader, writer, run.run_id, table, snapshot)
            if verdict is None:
                progress(f"{source.name} → raw.{table.mirror}: not captured yet")
                continue
            verdicts.append(verdict)
            progress(str(verdict))
        verdicts += reconcile_star(writer, run.run_id, source, progress=progress)
        for verdict in reconcile_marts(writer):
            verdicts.append(verdict)
            progress(str(verdict))
        return _end(writer, run, verdicts, repair)


def reconcile_feed(
    run: Run, *, repair: bool, wait_seconds: float = 60, progress: Progress = lambda _: None
) -> tuple[Verdict, ...]:
    """Compare the files of the web logs, their fact, and what is counted of it; as `reconcile_source` does.

    Raises:
        LockHeld: web logs are being loaded, and are still after `wait_seconds`.
    """
    with (
        session_lock(run.connection, FEED, wait_seconds=wait_seconds),
        connect(run.warehouse_url, application_name=f"dwh {run.flow}") as writer,
    ):
        _begin(writer, run)
        verdicts = reconcile_weblogs(writer, run.run_id)
        for verdict in verdicts:
            progress(str(verdict))
        return _end(writer, run, verdicts, repair)


def stop_on_differences(verdicts: Sequence[Verdict]) -> None:
    """End a run that has found differences and not mended them.

    Raises:
        DifferencesFound: naming each table, and the first row of it, whose values may be nobody's business.
    """
    wrong = [verdict for verdict in verdicts if verdict.verdict == "different"]
    if not wrong:
        return
    mendable = any(d.problem != "unrepairable" and not d.is_repaired for v in wrong for d in v.differences)
    said = "; ".join(
        f"{verdict.table_name} in {verdict.rows_differing - verdict.rows_repaired:,} rows "
        f"(as {verdict.differences[0].without_values})"
        for verdict in wrong
    )
    raise DifferencesFound(
        f"{len(wrong)} of {len(verdicts)} tables are not as they should be: {said}.",
        verdicts=verdicts,
        hint="Mend them by `dwh reconcile --repair`; audit.difference keeps what they said."
        if mendable
        else "These cannot be mended from what the warehouse has: see the runbook, 'A reconcile found differences'.",
    )


def _begin(writer: psycopg.Connection, run: Run) -> None:
    transaction_lock(writer, STAR_LOCK)
    writer.execute("select set_config('dwh.run_id', %s, true)", [str(run.run_id)])
    writer.execute(_PLANNER)


def _end(
    writer: psycopg.Connection, run: Run, verdicts: Sequence[Verdict], repair: bool
) -> tuple[Verdict, ...]:
    if not repair:
        writer.rollback()
        # On the run's own connection: nothing of what was tried is left but what it found.
        record(run.connection, run.run_id, verdicts)
        return tuple(verdicts)
    mended = tuple(verdict.repaired() if verdict.rows_differing else verdict for verdict in verdicts)
    record(writer, run.run_id, mended)
    for verdict in mended:
        if verdict.rows_repaired:
            record_load(writer, run.run_id, _load(verdict))
    ensure_alive(run)
    writer.commit()
    return mended


def _load(verdict: Verdict) -> Load:
    name = verdict.table_name if verdict.layer != "mirror" else f"raw.{verdict.source}_{verdict.table_name}"
    return Load(
        verdict.source,
        name,
        rows_read=verdict.rows_expected,
        rows_updated=verdict.rows_repaired,
        seconds=verdict.seconds,
    )
