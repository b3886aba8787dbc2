"""Publish a staged source: mirrors, dimensions, facts, quarantine and watermarks commit together or not at all."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC
from threading import Thread

import psycopg
from psycopg import sql

from warehouse.archive.captured import Written, outlive_merge, publish_batches
from warehouse.archive.changed_rows import archive_changed_rows, has_changed_rows
from warehouse.db import staying_session
from warehouse.errors import SourceError
from warehouse.extract.staged import Staged
from warehouse.feeds.staged import StagedFeed
from warehouse.load import daily_snapshot, quarantine
from warehouse.load.batch import Batch, DeferredDeletes
from warehouse.load.contract import import_soda
from warehouse.load.followed import record_followed
from warehouse.load.judge import Judge
from warehouse.load.mirror import merge_mirrors, prepare_mirrors
from warehouse.load.orphans import count_live_rows, has_rows_of_source
from warehouse.load.precedence import may_return, record_precedence
from warehouse.load.reads import check_reads, hash_reads
from warehouse.load.reconform import find_deferred, reconform_batches
from warehouse.load.records import Records
from warehouse.load.target import load_keys, load_target
from warehouse.load.transaction import begin_publishing
from warehouse.load.watermarks import move_watermarks, refuse_outdated
from warehouse.model.star import TARGETS, Dimension
from warehouse.runs.audit import (
    CheckResult,
    Load,
    Run,
    begin_batch,
    end_batch,
    ensure_alive,
    record_load,
)
from warehouse.runs.definitions import Definitions, compare_definitions, hash_objects, record_definitions
from warehouse.runs.freshness import has_published, record_complete
from warehouse.sources.definition import Definition
from warehouse.sources.source import Entity

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Published:
    """What a run published: loads of mirrors, dimensions and facts, and the results of the contracts' checks."""

    loads: tuple[Load, ...]
    checks: tuple[CheckResult, ...]

    @property
    def rows_changed(self) -> int:
        return sum(
            load.rows_inserted + load.rows_updated + load.rows_expired + load.rows_deleted
            for load in self.loads
        )

    @property
    def rows_quarantined(self) -> int:
        return sum(load.rows_quarantined for load in self.loads)


def publish(
    run: Run,
    staged: Staged,
    *,
    judge: Judge | None = None,
    definitions: Definitions | None = None,
    written: Callable[[], Written] = dict,
    progress: Progress = lambda _: None,
) -> Published:
    """Publish what was staged, in one transaction; publishing the same batch again changes nothing.

    `judge` decides what the results of a contract's checks mean; by default each batch is judged by itself.
    `definitions` are passed by `dwh live`, which has compared them before and found nothing stale, so that no target is
    conformed again. `written` waits for the archive files of large batches, and returns them.

    Raises:
        QualityGateStopped: a contract's dataset rule failed; its results are recorded, nothing else is.
        BatchOutdated: another run has published since the source was read.
        DeclarationError, SourceError: the source's declaration does not fit its data.
    """
    checks: list[CheckResult] = []
    judge = judge or Judge(run)
    with run.session("publish") as connection:
        begin_publishing(connection, run.run_id, progress)
        staying_session.expect_rows(connection, staged.rows_read)
        refuse_outdated(connection, run.run_id, staged)
        # An earlier attempt of this run may have committed and lost the reply.
        is_archived = run.is_archived and (
            staged.batch is not None or not has_published(connection, run.run_id, staged.source.name)
        )
        has_batches = False
        are_batches_archived = is_archived and not isinstance(staged, StagedFeed)
        # Batches that still exist after the merge are archived last: their files are written during the merge.
        is_archived_last = are_batches_archived and staged.batch is None and outlive_merge(connection, staged)
        if are_batches_archived and not is_archived_last:
            has_batches = publish_batches(connection, run.run_id, staged, written())
        batch_id = None
        if staged.batch is not None:
            batch_id = begin_batch(connection, run.run_id, staged.source.name, staged.batch)
        elif staged.rows_read:
            Thread(target=import_soda, name="prepare contracts", daemon=True).start()
        loads: dict[str, Load] = {}
        records = Records(connection, run, staged) if isinstance(staged, StagedFeed) else None
        rejected = records.rejected if records is not None else None
        if records is not None:
            staged = records.accept(checks)
            record_precedence(connection, run.run_id, staged.source)
        move = rejected.reject if rejected is not None else quarantine.move_failing

        are_compared = definitions is not None
        definitions = definitions or compare_definitions(connection, staged.source, staged.contracts)
        # By entity, what this run has checked of its conform SQL: hash of its reads, hashes of views and functions.
        checked: dict[str, tuple[str, Definition]] = {}

        def check_definition(entity: Entity) -> None:
            reads = hash_reads(entity, staged)
            if entity.name not in checked and not definitions.is_checked(entity, reads):
                checked[entity.name] = (
                    reads,
                    hash_objects(connection, check_reads(connection, entity).objects),
                )

        def load_batch(batch: Batch, keys: sql.Composable | None = None) -> None:
            with _explain_data_errors(batch), batch:
                check_definition(batch.entity)
                if keys is None:
                    load = load_target(batch, judge, staged, checks, move, progress)
                else:
                    contract = staged.contracts[batch.entity.name]
                    load = load_keys(batch, [keys], judge, contract, checks, move)
            if load is not None:
                progress(str(load))
                if rejected is not None:
                    rejected.note_loaded()
                earlier = loads.get(load.table_name)
                loads[load.table_name] = earlier.joined(load) if earlier else load

        def conform_again(batches: Sequence[Batch]) -> None:
            for batch in batches:
                progress(f"dwh.{batch.target.table} is conformed again as a whole: {batch.reconform_reason}")
                load_batch(batch)

        stale, refreshed = (
            ([], []) if are_compared else reconform_batches(connection, run.run_id, staged, definitions)
        )
        prepared = prepare_mirrors(connection, run.run_id, staged) if stale else None
        rows_held = {batch.entity.name: count_live_rows(batch) for batch in stale}
        conform_again(stale)
        deferred = find_deferred(stale, rows_held)
        reconformed = loads

        def merge_and_load() -> dict[str, Load]:
            """Merge the mirrors and load the targets; returns the loads of the mirrors."""
            nonlocal loads
            loads = dict(reconformed)
            if rejected is not None:
                rejected.begin_merge()
            is_full_load = staged.full_refresh and not has_rows_of_source(connection, staged.source.name)
            mirrors = {
                load.table_name: load
                for load in merge_mirrors(connection, run.run_id, staged, is_full_load, progress, prepared)
            }
            if rejected is not None:
                rejected.end_merge()
            # If no mirror changed, rows are conformed only for these reasons: targets were conformed again, which may
            # have added members that facts wait for; a new day began, which rules may compare with; or the entity
            # reads rows of other sources, which change by themselves.
            has_changes = staged.full_refresh or any(map(_has_changes, mirrors.values()))
            has_changes = has_changes or bool(stale) or _begins_day(staged)
            has_changes = has_changes or any(
                entity.lookups or entity.follows for entity in staged.source.entities.values()
            )
            for batch in _batches(connection, run, staged, mirrors, deferred, is_full_load, batch_id):
                is_left_out = (
                    staged.batch is not None
                    and not _begins_day(staged)
                    and not _is_touched(batch, mirrors, loads)
                )
                is_idle = (not has_changes or is_left_out) and not may_return(batch)
                if is_idle and not daily_snapshot.is_pending(batch):
                    continue
                load_batch(batch)
            if refreshed:
                conform_again(refreshed)
            if rejected is not None:
                for batch, keys in rejected.withdrawn():
                    load_batch(batch, keys)
            return mirrors

        if records is None or rejected is None:
            mirrors = merge_and_load()
        else:
            first = len(checks)
            while (attempted := rejected.attempt(merge_and_load)) is None:
                progress(
                    f"{staged.source.name}: records were rejected after rows of theirs had been loaded; "
                    "all others are loaded again"
                )
                # The check results for all records are recorded already, and not repeated.
                judge.recorded = {one.identity for one in checks[first:]}
            mirrors = records.finish(attempted)
            if summary := records.summarize_counts():
                progress(summary)
        removed = () if are_compared else record_definitions(connection, run.run_id, definitions, checked)
        for name in removed:
            progress(
                f"{name} keeps the rows of '{staged.source.name}', which no longer declares what they are made of"
            )
        for name, high in move_watermarks(connection, run.run_id, staged, mirrors).items():
            mirrors[name] = replace(mirrors[name], window_high=high)
        loads = mirrors | loads
        record_followed(connection, run.run_id, staged.source)
        record_complete(connection, run.run_id, staged.source.name, staged.complete_at)
        if batch_id is not None:
            loads = {name: load for name, load in loads.items() if load.rows_read or load.rows_updated}
            end_batch(connection, run.run_id, batch_id, tuple(loads.values()))
        else:
            record_load(connection, run.run_id, *loads.values())
        published = Published(tuple(loads.values()), tuple(checks))
        if is_archived_last:
            has_batches = publish_batches(connection, run.run_id, staged, written())
        if is_archived and (
            has_batches
            # Changes of the audit trail alone can wait for the next batch of `dwh live`.
            or (
                (published.rows_changed or published.rows_quarantined)
                and (staged.batch is None or has_changed_rows(connection))
            )
        ):
            archive_changed_rows(connection, run.run_id)
        # Commit only if the run has held its lock all the time.
        ensure_alive(run)
        staying_session.end(connection)
    return published


def _batches(
    connection: psycopg.Connection,
    run: Run,
    staged: Staged,
    loads: Mapping[str, Load],
    deferred: Mapping[str, DeferredDeletes],
    is_full_load: bool,
    batch_id: int | None,
) -> Iterator[Batch]:
    """Yield a batch for each target that the source has an entity for, dimensions before facts."""
    for target in TARGETS:
        if entity := staged.source.entities.get(target.entity):
            mirror, load = staged.table_of(entity), loads[f"raw.{entity.table.mirror}"]
            all_inserted = load.rows_inserted == load.rows_read and load.rows_deleted == 0
            yield Batch(
                connection,
                run.run_id,
                entity,
                target,
                taken_at=staged.snapshot.taken_at,
                is_full_load=is_full_load and mirror.full_refresh and all_inserted,
                may_have_orphans=mirror.full_refresh and not is_full_load,
                deferred=deferred.get(entity.name),
                # Rows of these may refer to another source's, which this run does not see change.
                rechecks_quarantine=isinstance(staged, StagedFeed)
                or bool(entity.lookups or entity.follows)
                or _begins_day(staged),
                batch_id=batch_id,
            )


def _begins_day(staged: Staged) -> bool:
    """Return whether this is the first run that has read the source on this day (UTC)."""
    today = staged.snapshot.taken_at.astimezone(UTC).date()
    return all(
        one.before is None or one.before.captured_at.astimezone(UTC).date() != today for one in staged.tables
    )


def _is_touched(batch: Batch, mirrors: Mapping[str, Load], loads: Mapping[str, Load]) -> bool:
    """Return whether a batch of `dwh live` changed a table that the entity's SQL reads, or a member it may refer to."""
    # `record_followed` records after each batch that other sources' changes were followed, so these must be loaded.
    if batch.entity.lookups or batch.entity.follows:
        return True
    if any(_has_changes(mirrors[f"raw.{table.mirror}"]) for table in batch.entity.reads):
        return True
    return not isinstance(batch.target, Dimension) and bool(loads)


def _has_changes(load: Load) -> bool:
    return bool(load.rows_inserted or load.rows_updated or load.rows_deleted)


@contextmanager
def _explain_data_errors(batch: Batch) -> Iterator[None]:
    """Turn errors about a value into a SourceError that names the entity."""
    try:
        yield
    except (psycopg.DataError, psycopg.errors.ProgramLimitExceeded) as error:
        raise SourceError(
            f"Some {batch.entity.name} of source '{batch.source}' does not fit the warehouse: "
            f"{error.diag.message_primary}.",
            hint=f"Correct the row in the source, or its conversion in conform/{batch.entity.name}.sql.",
        ) from error
