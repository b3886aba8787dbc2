"""Publish a staged source: mirrors, dimensions, facts, quarantine and watermarks commit together or not at all."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from threading import Thread

import psycopg

from warehouse.archive.batch_files import Written
from warehouse.archive.capture_plan import outlive_merge
from warehouse.archive.captured import publish_batches
from warehouse.archive.changed_rows import archive_changed_rows, has_changed_rows
from warehouse.db import staying_session
from warehouse.extract.staged import Staged
from warehouse.feeds.staged import StagedFeed
from warehouse.load.contract import import_soda
from warehouse.load.followed import record_followed
from warehouse.load.judge import Judge
from warehouse.load.precedence import record_precedence
from warehouse.load.records import Records
from warehouse.load.star_load import StarLoad
from warehouse.load.transaction import begin_publishing
from warehouse.load.watermarks import move_watermarks, refuse_outdated
from warehouse.runs.audit import CheckResult, Load, Run, begin_batch, end_batch, ensure_alive, record_load
from warehouse.runs.definitions import Definitions, compare_definitions, record_definitions
from warehouse.runs.freshness import has_published, record_complete

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
    may_be_stale = definitions is None
    with run.session("publish") as connection:
        begin_publishing(connection, run, progress)
        staying_session.expect_rows(connection, staged.rows_read)
        refuse_outdated(connection, run.run_id, staged)

        archiving = _Archiving(connection, run, staged, written)
        archiving.archive_before_merge()
        batch_id = _begin_batch(connection, run, staged)

        records = None
        if isinstance(staged, StagedFeed):
            records = Records(connection, run, staged)
            staged = records.accept(checks)
            record_precedence(connection, run.run_id, staged.source)

        definitions = definitions or compare_definitions(connection, staged.source, staged.contracts)
        rejected = records.rejected if records is not None else None
        star = StarLoad(
            connection, run, staged, definitions, judge or Judge(run), progress, checks, rejected, batch_id
        )
        if may_be_stale:
            star.reconform()
        mirrors = star.load()
        if records is not None:
            mirrors = records.finish(mirrors)
            if summary := records.summarize_counts():
                progress(summary)

        if may_be_stale:
            _record_definitions(star)
        loads = _record_loads(connection, run, staged, mirrors, star.loads, batch_id)
        published = Published(tuple(loads), tuple(checks))
        archiving.archive_after_merge(published)
        # Commit only if the run has held its lock all the time.
        ensure_alive(run)
        staying_session.end(connection)
    return published


class _Archiving:
    """What of a publish is archived: the captured batches, before or after the merge, and then all changed rows."""

    def __init__(
        self, connection: psycopg.Connection, run: Run, staged: Staged, written: Callable[[], Written]
    ) -> None:
        self._connection, self._run, self._staged, self._written = connection, run, staged, written
        # An earlier attempt of this run may have committed and lost the reply.
        self._is_archived = run.is_archived and (
            staged.batch is not None or not has_published(connection, run.run_id, staged.source.name)
        )
        # A feed is archived by its files.
        self._archives_batches = self._is_archived and not isinstance(staged, StagedFeed)
        # Batches that still exist after the merge are archived then: their files are written during the merge.
        self._waits_for_merge = (
            self._archives_batches and staged.batch is None and outlive_merge(connection, staged)
        )
        self._has_batches = False

    def archive_before_merge(self) -> None:
        if self._archives_batches and not self._waits_for_merge:
            self._archive_batches()

    def archive_after_merge(self, published: Published) -> None:
        if not self._is_archived:
            return
        if self._waits_for_merge:
            self._archive_batches()
        has_changes = bool(published.rows_changed or published.rows_quarantined)
        if self._staged.batch is not None:
            # Changes of the audit trail alone can wait for the next batch of `dwh live`.
            has_changes = has_changes and has_changed_rows(self._connection)
        if isinstance(self._staged, StagedFeed):
            # A copy, or a record that a later one has superseded, changes the audit trail alone.
            has_changes = has_changes or bool(self._staged.files or self._staged.replayed)
        if self._staged.batch is None:
            has_changes = has_changes or self._has_recorded_declarations()
        if self._has_batches or has_changes:
            archive_changed_rows(self._connection, self._run.run_id)

    def _has_recorded_declarations(self) -> bool:
        """Whether the run has recorded what its source declares, which later runs do not archive."""
        return bool(
            self._connection.execute(
                "select from audit.precedence where run_id = %(run_id)s "
                "union all select from audit.definition where run_id = %(run_id)s limit 1",
                {"run_id": self._run.run_id},
            ).rowcount
        )

    def _archive_batches(self) -> None:
        self._has_batches = publish_batches(self._connection, self._run.run_id, self._staged, self._written())


def _begin_batch(connection: psycopg.Connection, run: Run, staged: Staged) -> int | None:
    """Begin a batch of `dwh live` and return its id. For a scheduled run, prepare for the contracts meanwhile."""
    if staged.batch is not None:
        return begin_batch(connection, run.run_id, staged.source.name, staged.batch)
    if staged.rows_read:
        Thread(target=import_soda, name="prepare contracts", daemon=True).start()
    return None


def _record_definitions(star: StarLoad) -> None:
    source = star.staged.source
    for name in record_definitions(star.connection, star.run.run_id, star.definitions, star.checked):
        star.progress(
            f"{name} keeps the rows of '{source.name}', which no longer declares what they are made of"
        )


def _record_loads(
    connection: psycopg.Connection,
    run: Run,
    staged: Staged,
    mirrors: Mapping[str, Load],
    targets: Mapping[str, Load],
    batch_id: int | None,
) -> Sequence[Load]:
    """Record how far the source was read and what was loaded; returns the loads of mirrors and targets."""
    highs = move_watermarks(connection, run.run_id, staged, mirrors)
    record_followed(connection, run.run_id, staged.source)
    record_complete(connection, run.run_id, staged.source.name, staged.complete_at)
    loads = [
        *(replace(load, window_high=highs.get(name, load.window_high)) for name, load in mirrors.items()),
        *targets.values(),
    ]
    if batch_id is None:
        record_load(connection, run.run_id, *loads)
    else:
        loads = [load for load in loads if load.rows_read or load.rows_updated]
        end_batch(connection, run.run_id, batch_id, loads)
    return loads
