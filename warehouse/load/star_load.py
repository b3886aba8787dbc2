"""Load a staged source: reconform redefined targets, merge the mirrors, and load each target that may have changed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC

import psycopg
from psycopg import sql

from warehouse.errors import SourceError
from warehouse.extract.staged import Staged
from warehouse.feeds.staged import StagedFeed
from warehouse.load import daily_snapshot, quarantine
from warehouse.load.batch import Batch, DeferredDeletes
from warehouse.load.judge import Judge
from warehouse.load.mirror import Prepared, merge_mirrors, prepare_mirrors
from warehouse.load.orphans import count_live_rows, has_rows_of_source
from warehouse.load.precedence import may_return
from warehouse.load.reads import check_reads, hash_reads
from warehouse.load.reconform import find_deferred, reconform_batches
from warehouse.load.rejected_records import RejectedRecords
from warehouse.load.target import load_keys, load_target
from warehouse.model.star import TARGETS, Dimension
from warehouse.runs.audit import CheckResult, Load, Run
from warehouse.runs.definitions import Definitions, hash_objects
from warehouse.sources.definition import Definition

Progress = Callable[[str], None]


@dataclass
class StarLoad:
    """What one publish loads into mirrors and star: first `reconform` if definitions may be stale, then `load`."""

    connection: psycopg.Connection
    run: Run
    staged: Staged
    definitions: Definitions
    judge: Judge
    progress: Progress
    # Results of the contracts' checks; those of the loads are added.
    checks: list[CheckResult]
    # For a feed, the records that entities reject: each with all of its rows, or none.
    rejected: RejectedRecords | None = None
    # Id in audit.batch of a batch of `dwh live`.
    batch_id: int | None = None
    # Loads of dimensions and facts, by table.
    loads: dict[str, Load] = field(default_factory=dict)
    # By entity, what was checked of its conform SQL: hash of its reads, hashes of views and functions.
    checked: dict[str, tuple[str, Definition]] = field(default_factory=dict)
    # What `reconform` leaves for `load`.
    _reconformed: Mapping[str, Load] = field(default_factory=dict)
    _refreshed: Sequence[Batch] = ()
    _prepared: Prepared | None = None
    _deferred: Mapping[str, DeferredDeletes] = field(default_factory=dict)

    def reconform(self) -> None:
        """Conform all rows of the targets whose definition has changed again, before this run's changes are merged."""
        connection, run_id, staged = self.connection, self.run.run_id, self.staged
        stale, self._refreshed = reconform_batches(connection, run_id, staged, self.definitions)
        if not stale:
            return
        self._prepared = prepare_mirrors(connection, run_id, staged)
        rows_held = {batch.entity.name: count_live_rows(batch) for batch in stale}
        self._load_whole(stale)
        self._deferred = find_deferred(stale, rows_held)
        self._reconformed = self.loads

    def load(self) -> dict[str, Load]:
        """Merge the mirrors and load the targets, again if records of a feed are rejected when rows of theirs have been
        loaded. Returns the loads of the mirrors."""
        if self.rejected is None:
            return self._merge_and_load()
        first = len(self.checks)
        while (mirrors := self.rejected.attempt(self._merge_and_load)) is None:
            self.progress(
                f"{self.staged.source.name}: records were rejected after rows of theirs had been loaded; "
                "all others are loaded again"
            )
            # The check results for all records are recorded already, and not repeated.
            self.judge.recorded = {one.identity for one in self.checks[first:]}
        return mirrors

    def _merge_and_load(self) -> dict[str, Load]:
        # An earlier attempt was rolled back to here.
        self.loads = dict(self._reconformed)
        is_full_load = self.staged.full_refresh and not has_rows_of_source(
            self.connection, self.staged.source.name
        )
        mirrors = self._merge(is_full_load)
        has_changes = self._has_changes(mirrors)
        for batch in self._batches(mirrors, is_full_load):
            may_change = has_changes and self._is_touched(batch, mirrors)
            if may_change or may_return(batch) or daily_snapshot.is_pending(batch):
                self._load_batch(batch)
            elif self.staged.batch is None:
                # The source may have dropped a column that the SQL reads, without a changed row.
                self._check_definition(batch)
        self._load_whole(self._refreshed)
        if self.rejected is not None:
            for batch, keys in self.rejected.withdrawn():
                self._load_batch(batch, keys)
        return mirrors

    def _merge(self, is_full_load: bool) -> dict[str, Load]:
        if self.rejected is not None:
            self.rejected.begin_merge()
        loads = merge_mirrors(
            self.connection, self.run.run_id, self.staged, is_full_load, self.progress, self._prepared
        )
        if self.rejected is not None:
            self.rejected.end_merge()
        return {load.table_name: load for load in loads}

    def _batches(self, mirrors: Mapping[str, Load], is_full_load: bool) -> Iterator[Batch]:
        """Yield a batch for each target that the source has an entity for, dimensions before facts."""
        staged = self.staged
        for target in TARGETS:
            if entity := staged.source.entities.get(target.entity):
                mirror, load = staged.table_of(entity), mirrors[f"raw.{entity.table.mirror}"]
                all_inserted = load.rows_inserted == load.rows_read and load.rows_deleted == 0
                yield Batch(
                    self.connection,
                    self.run.run_id,
                    entity,
                    target,
                    taken_at=staged.snapshot.taken_at,
                    is_full_load=is_full_load and mirror.full_refresh and all_inserted,
                    may_have_orphans=mirror.full_refresh and not is_full_load,
                    deferred=self._deferred.get(entity.name),
                    # Rows of these may refer to another source's, which this run does not see change.
                    rechecks_quarantine=isinstance(staged, StagedFeed)
                    or bool(entity.lookups or entity.follows)
                    or _begins_day(staged),
                    batch_id=self.batch_id,
                )

    def _has_changes(self, mirrors: Mapping[str, Load]) -> bool:
        """Return whether any target may change: without a changed mirror, only for the other reasons here."""
        return (
            self.staged.full_refresh
            or any(map(_has_changes, mirrors.values()))
            # Targets that were conformed again may have added members that facts wait for.
            or self._prepared is not None
            # Rules may compare with the day.
            or _begins_day(self.staged)
            # Rows of other sources change by themselves.
            or any(entity.lookups or entity.follows for entity in self.staged.source.entities.values())
        )

    def _is_touched(self, batch: Batch, mirrors: Mapping[str, Load]) -> bool:
        """Return whether a table that the entity's SQL reads, or a member it may refer to, may have changed. Only
        `dwh live` leaves out entities, since its batches change few tables."""
        if self.staged.batch is None or _begins_day(self.staged):
            return True
        # `record_followed` records after each batch that other sources' changes were followed, so load them.
        if batch.entity.lookups or batch.entity.follows:
            return True
        if any(_has_changes(mirrors[f"raw.{table.mirror}"]) for table in batch.entity.reads):
            return True
        return not isinstance(batch.target, Dimension) and bool(self.loads)

    def _load_whole(self, batches: Sequence[Batch]) -> None:
        for batch in batches:
            self.progress(f"dwh.{batch.target.table} is conformed again as a whole: {batch.reconform_reason}")
            self._load_batch(batch)

    def _load_batch(self, batch: Batch, keys: sql.Composable | None = None) -> None:
        """Load a target for the rows that have changed, or for `keys`, and add the counts to `loads`."""
        move = quarantine.move_failing if self.rejected is None else self.rejected.reject
        with _explain_data_errors(batch), batch:
            self._check_definition(batch)
            if keys is None:
                load = load_target(batch, self.judge, self.staged, self.checks, move, self.progress)
            else:
                contract = self.staged.contracts[batch.entity.name]
                load = load_keys(batch, [keys], self.judge, contract, self.checks, move)
        if load is None:
            return
        self.progress(str(load))
        if self.rejected is not None:
            self.rejected.note_loaded()
        earlier = self.loads.get(load.table_name)
        self.loads[load.table_name] = earlier.joined(load) if earlier else load

    def _check_definition(self, batch: Batch) -> None:
        """Check once per definition that the tables which an entity's SQL reads are declared."""
        entity = batch.entity
        reads = hash_reads(entity, self.staged)
        if entity.name not in self.checked and not self.definitions.is_checked(entity, reads):
            objects = check_reads(self.connection, entity).objects
            self.checked[entity.name] = reads, hash_objects(self.connection, objects)


def _begins_day(staged: Staged) -> bool:
    """Return whether this is the first run that has read the source on this day (UTC)."""
    today = staged.snapshot.taken_at.astimezone(UTC).date()
    return all(
        one.before is None or one.before.captured_at.astimezone(UTC).date() != today for one in staged.tables
    )


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
