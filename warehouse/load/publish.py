"""Publish a staged source: mirrors, dimensions, facts, quarantine and watermarks commit together or not at all."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC
from threading import Thread

import psycopg

from warehouse.archive.captured import Written, publish_batches
from warehouse.archive.changed_rows import archive_changed_rows, has_changed_rows
from warehouse.db import staying_session
from warehouse.errors import DeclarationError, SourceError
from warehouse.extract.staged import Staged
from warehouse.feeds.staged import StagedFeed
from warehouse.load import daily_snapshot, facts, quarantine, scd1, scd2
from warehouse.load.batch import Batch, DeferredDeletes
from warehouse.load.changed_keys import (
    create_all_keys_view,
    find_changed_keys,
    materialize_keys,
    take_all_keys,
)
from warehouse.load.conform import clear_stale_timestamps, conform, find_deleted_keys
from warehouse.load.contract import import_soda, stop_on_failure, verify
from warehouse.load.conversion import ROW_ERRORS
from warehouse.load.counts import Counts
from warehouse.load.followed import record_followed
from warehouse.load.judge import Judge
from warehouse.load.mirror import merge_mirrors, prepare_mirrors
from warehouse.load.orphans import (
    check_deleted_share,
    count_live_rows,
    defer_deletes,
    find_orphans,
    has_rows_of_source,
)
from warehouse.load.precedence import displace_lower, record_precedence
from warehouse.load.reads import check_reads, hash_reads
from warehouse.load.reconform import find_deferred, reconform_batches
from warehouse.load.records import Records
from warehouse.load.rekey import rekey_quarantined
from warehouse.load.transaction import begin_publishing
from warehouse.load.watermarks import move_watermarks, refuse_outdated
from warehouse.model.contracts import Contract
from warehouse.model.star import TARGETS, DailySnapshot, Dimension, Fact
from warehouse.runs.audit import (
    CheckResult,
    Load,
    Run,
    begin_batch,
    end_batch,
    ensure_alive,
    has_published,
    record_load,
)
from warehouse.runs.definitions import Definitions, compare_definitions, hash_objects, record_definitions
from warehouse.runs.freshness import record_complete
from warehouse.sources.declaration import Entity
from warehouse.sources.definition import Definition

Progress = Callable[[str], None]
Move = Callable[[Batch], int]
ANALYZE_ABOVE = 1000
ANALYZE_SHARE = 0.1


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
    written: Written | None = None,
    progress: Progress = lambda _: None,
) -> Published:
    """Publish what was staged, in one transaction; publishing the same batch again changes nothing.

    `judge` decides what the results of a contract's checks mean; else each stands for itself. `definitions` are given
    where they were compared before, and nothing is stale: so a batch of live conforms nothing again. `written` are the
    batches whose files for the archive are written.

    Raises:
        QualityGateStopped: a contract's dataset rule failed; its results are recorded, nothing else is.
        BatchOutdated: something else was published since the source was read.
        DeclarationError, SourceError: the source's declaration does not fit its data.
    """
    checks: list[CheckResult] = []
    judge = judge or Judge(run)
    with run.session("publish") as connection:
        begin_publishing(connection, run.run_id, progress)
        staying_session.expect_rows(connection, staged.rows_read)
        refuse_outdated(connection, run.run_id, staged)
        # An earlier try of this run may have committed, and not heard of it.
        is_archived = run.is_archived and (
            staged.batch is not None or not has_published(connection, run.run_id)
        )
        has_batches = (
            is_archived
            and not isinstance(staged, StagedFeed)
            and publish_batches(connection, run.run_id, staged, written or {})
        )
        batch_id = None
        if staged.batch is not None:
            batch_id = begin_batch(connection, run.run_id, staged.source.name, staged.batch)
        elif staged.rows_read:
            Thread(target=import_soda, name="prepare contracts", daemon=True).start()
        loads: dict[str, Load] = {}
        records = Records(connection, run, staged) if isinstance(staged, StagedFeed) else None
        if records is not None:
            staged = records.accept(checks)
            record_precedence(connection, run.run_id, staged.source)
        move = records.reject if records is not None else quarantine.move_failing

        are_compared = definitions is not None
        definitions = definitions or compare_definitions(connection, staged.source, staged.contracts)
        # By entity, what its SQL reads and this run has checked: a hash, and the views and functions on the way.
        checked: dict[str, tuple[str, Definition]] = {}

        def check_definition(entity: Entity) -> None:
            reads = hash_reads(entity, staged)
            if entity.name not in checked and not definitions.is_checked(entity, reads):
                checked[entity.name] = (
                    reads,
                    hash_objects(connection, check_reads(connection, entity).objects),
                )

        def load_batch(batch: Batch) -> None:
            with _explain_data_errors(batch), batch:
                check_definition(batch.entity)
                load = load_target(batch, judge, staged, checks, move, progress)
            if load is not None:
                progress(str(load))
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
        if records is not None:
            records.begin_merge()
        is_full_load = staged.full_refresh and not has_rows_of_source(connection, staged.source.name)
        mirrors = {
            load.table_name: load
            for load in merge_mirrors(connection, run.run_id, staged, is_full_load, progress, prepared)
        }
        # Where no mirror changed no row is checked otherwise, but by a rule that compares with the present day.
        # And one may name a member of another source, which has changed by itself.
        has_changes = staged.full_refresh or any(map(_has_changes, mirrors.values()))
        # What was conformed again may be members that facts have waited for.
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
            is_idle = not has_changes or is_left_out
            if is_idle and not daily_snapshot.is_pending(batch):
                continue
            load_batch(batch)
        if refreshed:
            conform_again(refreshed)
        if records is not None:
            mirrors = records.finish(mirrors)
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
        if is_archived and (
            has_batches
            # Rows of the audit trail alone can wait for the next batch of live.
            or (
                (published.rows_changed or published.rows_quarantined)
                and (staged.batch is None or has_changed_rows(connection))
            )
        ):
            archive_changed_rows(connection, run.run_id)
        # The batch belongs to this run only as long as its lock was held all along.
        ensure_alive(run)
        staying_session.end(connection)
    return published


def load_target(
    batch: Batch,
    judge: Judge,
    staged: Staged,
    checks: list[CheckResult],
    move: Move = quarantine.move_failing,
    progress: Progress = lambda _: None,
) -> Load | None:
    """Load one dimension or fact from the changed rows of its source; None where nothing changed.

    `move` moves the failing rows to quarantine, and returns how many it has moved.
    """
    started = time.monotonic()
    mirror = staged.table_of(batch.entity)
    if batch.is_full_load:
        changed = create_all_keys_view(batch, mirror.rows_read)
    elif batch.reconform_reason:
        changed = take_all_keys(batch)
    else:
        changed = find_changed_keys(batch, mirror)
    has_work = bool(changed or batch.deferred) or daily_snapshot.is_pending(batch)
    if not has_work and not batch.may_have_orphans:
        return None
    made = conform(batch, changed)
    conformed = made.rows
    if made.yielded:
        progress(
            f"{made.yielded:,} events of {batch.entity.name} are another source's, which takes precedence"
        )
    for dimension, count in made.ambiguous.items():
        progress(
            f"{count:,} rows of {batch.entity.name} name a {dimension} that several members may be: the unknown one"
        )
    if made.ambiguous:
        results = _ambiguity_warnings(batch, made.ambiguous)
        judge.record(results)
        checks.extend(results)
    clear_stale_timestamps(batch)
    find_deleted_keys(batch)
    if batch.deferred or (batch.reconform_reason and not batch.is_before_merge):
        check_deleted_share(batch, staged.threshold)
    orphans = find_orphans(batch, staged.threshold)
    deferred = defer_deletes(batch) if batch.is_before_merge else 0
    if not has_work and not orphans:
        return None
    counts, quarantined = merge_passing(
        batch, judge, staged.contracts[batch.entity.name], checks, conformed, move, progress
    )
    if batch.is_full_load:
        materialize_keys(batch)
    _analyze_target(batch, counts)
    return to_load(batch, counts, changed + orphans - deferred, conformed, quarantined, started)


def merge_passing(
    batch: Batch,
    judge: Judge,
    contract: Contract,
    checks: list[CheckResult],
    conformed: int,
    move: Move = quarantine.move_failing,
    progress: Progress = lambda _: None,
    *,
    every_key: bool = False,
) -> tuple[Counts, int]:
    """Check the batch's `conformed` rows, merge those that pass, and move the others to quarantine.

    Facts that other sources have of the same events go, and those whose row failed keep their last good state.
    Returns what was merged, and how many rows moved. See `check` and `merge`.
    """
    last_entry = quarantine.last_entry(batch.connection)
    quarantined = check(batch, judge, contract, checks, move) if conformed else 0
    try:
        with batch.connection.transaction():
            quarantine.resolve(batch, last_entry)
            counts = merge(batch, every_key=every_key)
    except ROW_ERRORS:
        # No rule foresaw what is calculated: the rows that it fails for wait, all others are loaded.
        if not isinstance(batch.target, Fact) or not facts.isolate_unfit(batch, batch.target):
            raise
        quarantine.add_isolated(batch)
        quarantined += move(batch)
        quarantine.resolve(batch, last_entry)
        counts = merge(batch, every_key=every_key)
    if isinstance(batch.target, Fact) and conformed:
        if displaced := displace_lower(batch):
            progress(
                f"{displaced:,} rows of {batch.entity.name} of other sources are the same events: those of "
                f"'{batch.source}' count"
            )
            counts = replace(counts, deleted=counts.deleted + displaced)
        counts = counts.with_rekeyed(rekey_quarantined(batch, batch.target))
    if not batch.is_full_load:
        quarantine.mark_rows(batch, last_entry=last_entry)
    return counts, quarantined


def _ambiguity_warnings(batch: Batch, ambiguous: Mapping[str, int]) -> list[CheckResult]:
    return [
        CheckResult(
            batch.source, batch.entity.name, f"{dimension} is ambiguous", "lookup", f"{dimension}_id", "warn", "warned",
            count, None, None,
        )
        for dimension, count in ambiguous.items()
    ]  # fmt: skip


def check(
    batch: Batch,
    judge: Judge,
    contract: Contract,
    checks: list[CheckResult],
    move: Move = quarantine.move_failing,
) -> int:
    """Verify the batch by its contract and move the rows that fail to quarantine; returns how many.

    The results are added to `checks`.

    Raises:
        QualityGateStopped: a dataset rule failed.
    """
    try:
        results = verify(batch.connection, contract, batch.source)
    except DeclarationError as error:
        try:
            isolated = quarantine.isolate_unjudgeable(batch, contract.row_rules)
        except psycopg.ProgrammingError:
            # The contract itself is wrong, whatever the rows hold.
            raise error from None
        if not isolated:
            raise
        results = verify(batch.connection, contract, batch.source)
    results = judge.judge(batch, contract, results)
    checks.extend(results)
    stop_on_failure(contract, results)
    failed = {result.check_name for result in results if result.outcome != "passed"}
    unfit = [
        CheckResult(
            batch.source, batch.entity.name, name, "fit", None, "quarantine", "failed", count, None, None
        )
        for name, count in quarantine.find_failing(
            batch, [rule for rule in contract.row_rules if rule.name in failed]
        ).items()
    ]
    judge.record(unfit)
    checks.extend(unfit)
    return move(batch)


def merge(batch: Batch, *, every_key: bool = False) -> Counts:
    """Merge conformed rows and deleted keys into the batch's dimension or fact; see `facts.merge` for `every_key`.

    Raises:
        DeclarationError: the source's SQL delivers a key more than once.
    """
    target = batch.target
    try:
        if isinstance(target, Fact):
            return facts.merge(batch, target, every_key=every_key or batch.reconform_reason is not None)
        if isinstance(target, DailySnapshot):
            return daily_snapshot.merge(batch, target)
        return scd2.merge(batch, target) if target.has_history else scd1.merge(batch, target)
    except (psycopg.errors.CardinalityViolation, psycopg.errors.UniqueViolation) as error:
        raise DeclarationError(
            f"conform/{batch.entity.name}.sql of source '{batch.source}' delivers a key of {target.table} more than "
            f"once: {error.diag.message_detail or error.diag.message_primary}.",
            hint="One row per key is its grain: look for a join that multiplies rows.",
        ) from None


def to_load(
    batch: Batch, counts: Counts, read: int, conformed: int, quarantined: int, started: float
) -> Load:
    """What the load of a target did, for the audit trail."""
    return Load(
        batch.source,
        f"dwh.{batch.target.table}",
        rows_read=read,
        rows_inserted=counts.inserted,
        rows_updated=counts.updated,
        rows_expired=counts.expired,
        rows_deleted=counts.deleted,
        rows_unchanged=max(conformed - quarantined - counts.changed, 0),
        rows_quarantined=quarantined,
        rows_rekeyed=counts.rekeyed,
        seconds=round(time.monotonic() - started, 3),
        reconform_reason=batch.reconform_reason,
    )


def _batches(
    connection: psycopg.Connection,
    run: Run,
    staged: Staged,
    loads: Mapping[str, Load],
    deferred: Mapping[str, DeferredDeletes],
    is_full_load: bool,
    batch_id: int | None,
) -> Iterator[Batch]:
    """One batch for each target that the source has an entity for, dimensions before facts."""
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
                # What a feed's records name, and what a lookup finds, may be another source's.
                rechecks_quarantine=isinstance(staged, StagedFeed)
                or bool(entity.lookups or entity.follows)
                or _begins_day(staged),
                batch_id=batch_id,
            )


def _begins_day(staged: Staged) -> bool:
    """Whether no earlier run has read the source on this day (UTC)."""
    today = staged.snapshot.taken_at.astimezone(UTC).date()
    return all(
        one.before is None or one.before.captured_at.astimezone(UTC).date() != today for one in staged.tables
    )


def _analyze_target(batch: Batch, counts: Counts) -> None:
    """Analyze a target that has grown: the same transaction joins it next, long before autovacuum looks at it."""
    if counts.changed <= ANALYZE_ABOVE:
        return
    row = batch.connection.execute(
        "select greatest(reltuples, 0) from pg_class where oid = to_regclass(%s)",
        [f"dwh.{batch.target.table}"],
    ).fetchone()
    if counts.changed > ANALYZE_SHARE * (row[0] if row else 0):
        batch.execute("analyze {target}")


def _is_touched(batch: Batch, mirrors: Mapping[str, Load], loads: Mapping[str, Load]) -> bool:
    """Whether a batch of live changed anything that the entity's SQL reads, or a member that its rows refer to."""
    # What these have followed of other sources is recorded with each batch.
    if batch.entity.lookups or batch.entity.follows:
        return True
    if any(_has_changes(mirrors[f"raw.{table.mirror}"]) for table in batch.entity.reads):
        return True
    return not isinstance(batch.target, Dimension) and bool(loads)


def _has_changes(load: Load) -> bool:
    return bool(load.rows_inserted or load.rows_updated or load.rows_deleted)


@contextmanager
def _explain_data_errors(batch: Batch) -> Iterator[None]:
    """Say of which entity a value does not fit the warehouse."""
    try:
        yield
    except (psycopg.DataError, psycopg.errors.ProgramLimitExceeded) as error:
        raise SourceError(
            f"Some {batch.entity.name} of source '{batch.source}' does not fit the warehouse: "
            f"{error.diag.message_primary}.",
            hint=f"Correct the row in the source, or its conversion in conform/{batch.entity.name}.sql.",
        ) from error
