"""Load one dimension or fact: conform and check changed rows, merge those that pass, move the others to quarantine."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import psycopg
from psycopg import sql

from warehouse.errors import DeclarationError
from warehouse.extract.catalog import mirrored_columns
from warehouse.extract.staged import Staged
from warehouse.feeds.staged import StagedFeed
from warehouse.load import daily_snapshot, facts, quarantine, scd1, scd2
from warehouse.load.batch import Batch
from warehouse.load.changed_keys import (
    create_all_keys_view,
    create_from_flags,
    find_changed_keys,
    keys_of_changed_members,
    materialize_keys,
    take_all_keys,
)
from warehouse.load.conform import Conformed, clear_stale_timestamps, conform, find_deleted_keys
from warehouse.load.contract import stop_on_failure, verify
from warehouse.load.conversion import ROW_ERRORS
from warehouse.load.counts import Counts
from warehouse.load.judge import Judge
from warehouse.load.orphans import check_deleted_share, defer_deletes, find_orphans
from warehouse.load.precedence import displace_lower
from warehouse.load.rekey import rekey_quarantined
from warehouse.model.contracts import Contract
from warehouse.model.star import DailySnapshot, Fact
from warehouse.runs.audit import CheckResult, Load

Progress = Callable[[str], None]
Move = Callable[[Batch], quarantine.Moved]
ANALYZE_ABOVE = 1000
ANALYZE_SHARE = 0.1


def load_target(
    batch: Batch,
    judge: Judge,
    staged: Staged,
    checks: list[CheckResult],
    move: Move = quarantine.move_failing,
    progress: Progress = lambda _: None,
) -> Load | None:
    """Load one dimension or fact from the changed rows of its source; returns None if nothing changed.

    `move` moves the batch's failing rows to quarantine and returns their number. Check results are added to `checks`.
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
    _report_conformed(batch, made, changed if isinstance(staged, StagedFeed) else 0, progress)
    if made.ambiguous:
        results = _ambiguity_warnings(batch, made.ambiguous)
        judge.record(results)
        checks.extend(judge.news(results))
    clear_stale_timestamps(batch)
    find_deleted_keys(batch)
    if batch.deferred or (batch.reconform_reason and not batch.is_before_merge):
        check_deleted_share(batch, staged.threshold)
    orphans = find_orphans(batch, staged.threshold)
    deferred = defer_deletes(batch) if batch.is_before_merge else 0
    if not has_work and not orphans:
        return None
    counts, moved = merge_passing(
        batch, judge, staged.contracts[batch.entity.name], checks, made.rows, move, progress
    )
    if batch.is_full_load:
        materialize_keys(batch)
    _analyze_target(batch, counts)
    return to_load(batch, counts, changed + orphans - deferred, made.rows, moved, started)


def _report_conformed(batch: Batch, made: Conformed, expected: int, progress: Progress) -> None:
    """Report what became of the keys that were read, of which `expected` should have a row."""
    if made.rows < expected:
        progress(
            f"conform/{batch.entity.name}.sql makes no row of {expected - made.rows:,} of the {expected:,} keys read"
        )
    if made.yielded:
        progress(
            f"{made.yielded:,} events of {batch.entity.name} are another source's, which takes precedence"
        )
    for dimension, count in made.ambiguous.items():
        progress(
            f"{count:,} rows of {batch.entity.name} name a {dimension} that several members may be: the unknown one"
        )


def load_keys(
    batch: Batch,
    keys: Sequence[sql.Composable],
    judge: Judge,
    contract: Contract,
    checks: list[CheckResult],
    move: Move = quarantine.move_failing,
) -> Load | None:
    """Load a dimension or fact again for `keys`; for a fact, also rows whose members this transaction has changed.

    `keys` are queries of source keys and flags. Returns None if there are no rows. See `load_target`.
    """
    started = time.monotonic()
    types = mirrored_columns(batch.connection, batch.entity.table)
    read = create_from_flags(batch, [*keys, *keys_of_changed_members(batch, types)])
    if not read:
        return None
    conformed = conform(batch, read).rows
    clear_stale_timestamps(batch)
    find_deleted_keys(batch)
    counts, moved = merge_passing(batch, judge, contract, checks, conformed, move)
    return to_load(batch, counts, read, conformed, moved, started)


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
) -> tuple[Counts, quarantine.Moved]:
    """Check the batch's `conformed` rows, merge those that pass, and move the others to quarantine.

    Facts that lower-precedence sources have of the same events are deleted. Facts whose row failed keep their last good
    state. Returns what was merged, and what was moved. See `check` and `merge`.
    """
    last_entry = quarantine.last_entry(batch.connection)
    moved = check(batch, judge, contract, checks, move) if conformed else quarantine.Moved()
    try:
        with batch.connection.transaction():
            quarantine.resolve(batch, last_entry)
            counts = merge(batch, every_key=every_key)
    except ROW_ERRORS:
        # A calculation in the fact's SQL fails, which no rule covers: quarantine its rows and load all others.
        if not isinstance(batch.target, Fact) or not facts.isolate_unfit(batch, batch.target):
            raise
        quarantine.add_isolated(batch)
        isolated = move(batch)
        moved = quarantine.Moved(moved.rows + isolated.rows, moved.entries + isolated.entries)
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
    return counts, moved


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
) -> quarantine.Moved:
    """Verify the batch by its contract and move failing rows to quarantine.

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
    checks.extend(judge.news(results))
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
    checks.extend(judge.news(unfit))
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
    batch: Batch, counts: Counts, read: int, conformed: int, moved: quarantine.Moved, started: float
) -> Load:
    """Create the audit trail's record of a target's load."""
    return Load(
        batch.source,
        f"dwh.{batch.target.table}",
        rows_read=read,
        rows_inserted=counts.inserted,
        rows_updated=counts.updated,
        rows_expired=counts.expired,
        rows_deleted=counts.deleted,
        rows_unchanged=max(conformed - moved.rows - counts.changed, 0),
        rows_quarantined=moved.entries,
        rows_rekeyed=counts.rekeyed,
        seconds=round(time.monotonic() - started, 3),
        reconform_reason=batch.reconform_reason,
    )


def _analyze_target(batch: Batch, counts: Counts) -> None:
    """Analyze a target that has grown, since the same transaction joins it next, long before autovacuum analyzes it."""
    if counts.changed <= ANALYZE_ABOVE:
        return
    row = batch.connection.execute(
        "select greatest(reltuples, 0) from pg_class where oid = to_regclass(%s)",
        [f"dwh.{batch.target.table}"],
    ).fetchone()
    if counts.changed > ANALYZE_SHARE * (row[0] if row else 0):
        batch.execute("analyze {target}")
