"""Publish a staged source: mirrors, dimensions, facts, quarantine and watermarks commit together or not at all."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from threading import Thread

import psycopg
from psycopg import sql

from warehouse.db.locks import transaction_lock
from warehouse.errors import DeclarationError, SourceError
from warehouse.extract.mirror import batch_of
from warehouse.extract.stage import Staged, StagedTable
from warehouse.history.change_log import STAR_LOCK
from warehouse.load import quarantine, scd1, scd2
from warehouse.load.conform import (
    conform,
    fill_removed,
    find_affected,
    forget_stale_stamps,
    known_keys,
    outdated_keys,
)
from warehouse.load.contract import prepare, stop_on_failure, verify
from warehouse.load.facts import merge_fact
from warehouse.load.full_load import affect_all, conform_anew, forget_affected
from warehouse.load.mirror import mark_all_inserted, merge_table
from warehouse.load.orphans import holds_anything, remove_orphans
from warehouse.load.rekey import rekey_waiting
from warehouse.model.contracts import Contract
from warehouse.model.star import TARGETS, Dimension, Fact
from warehouse.runs.audit import CheckResult, Load, Run, ensure_alive, record_checks, record_load
from warehouse.sources.declaration import Entity, fitted

Progress = Callable[[str], None]
ANALYZE_ABOVE = 1000
ANALYZE_SHARE = 0.1
# Affected keys from which on it pays to make the batch as a new table, which PostgreSQL computes in parallel.
PARALLEL_ABOVE = 10_000
# Set-based statements over whole batches: hashes that fit in memory, no compiler that costs more than it saves, and
# cheap pages and comparisons, for what changed lately is in memory: where few rows changed, indexes find their like,
# not scans of all. The keys of a batch differ: to remember what was looked up for each costs more than it saves.
PLANNER = (
    "set local work_mem = '96MB'; set local maintenance_work_mem = '256MB'; set local jit = off; "
    "set local seq_page_cost = 0.1; set local random_page_cost = 0.11; set local cpu_operator_cost = 0.0005; "
    "set local enable_memoize = off; "
    "set local parallel_setup_cost = 100; set local parallel_tuple_cost = 0.001; "
    "set local min_parallel_table_scan_size = '1MB'"
)


@dataclass(frozen=True)
class Published:
    """What a run published: loads of mirrors, dimensions and facts, and what the contracts said."""

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


def publish(run: Run, staged: Staged, *, progress: Progress = lambda _: None) -> Published:
    """Publish what was staged, in one transaction; publishing the same batch again changes nothing.

    Raises:
        QualityGateStopped: a contract's dataset rule failed; its results are kept, nothing else is.
        DeclarationError, SourceError: the source's declaration does not fit its data.
    """
    checks: list[CheckResult] = []
    with run.session("publish") as connection:
        transaction_lock(connection, STAR_LOCK, progress)
        connection.execute("select set_config('dwh.run_id', %s, true)", [str(run.run_id)])
        connection.execute(PLANNER)
        if staged.rows_read:
            Thread(target=prepare, name="prepare contracts", daemon=True).start()
        is_whole = any(table.whole for table in staged.tables)
        is_first = is_whole and not holds_anything(connection, staged.source.name)
        loads = _merge(connection, run.run_id, staged, is_first, progress)
        # Where no mirror changed no verdict can have changed either, not even on what waits in quarantine.
        for target in TARGETS if is_whole or any(map(_changed, loads.values())) else ():
            entity = staged.source.entities.get(target.entity)
            if entity is None:
                continue
            try:
                load = _load(connection, run, staged, entity, target, loads, checks, is_first)
            except (psycopg.DataError, psycopg.errors.ProgramLimitExceeded) as error:
                raise SourceError(
                    f"Some {entity.name} of source '{entity.source}' does not fit the warehouse: "
                    f"{error.diag.message_primary}.",
                    hint=f"Mend the row in the source, or its conversion in conform/{entity.name}.sql.",
                ) from error
            if load is not None:
                loads[load.table_name] = load
                progress(str(load))
        for name, high in _move_watermarks(connection, run.run_id, staged).items():
            loads[name] = replace(loads[name], window_high=high)
        for load in loads.values():
            record_load(connection, run.run_id, load)
        # The batch is this run's only as long as its lock was held all along.
        ensure_alive(run)
    return Published(tuple(loads.values()), tuple(checks))


def _merge(
    connection: psycopg.Connection, run_id: int, staged: Staged, is_first: bool, progress: Progress
) -> dict[str, Load]:
    loads: dict[str, Load] = {}
    for table in staged.tables:
        load = merge_table(connection, run_id, table)
        loads[load.table_name] = load
        progress(str(load))
    # What was there before may refer to what is new.
    for table in () if is_first else staged.tables:
        if batch_of(connection, table.table) is None:
            mark_all_inserted(connection, table)
    _index_parents(connection, staged)
    return loads


def _load(
    connection: psycopg.Connection,
    run: Run,
    staged: Staged,
    entity: Entity,
    target: Dimension | Fact,
    loads: Mapping[str, Load],
    checks: list[CheckResult],
    is_first: bool,
) -> Load | None:
    started = time.monotonic()
    driving = _staged(staged.tables, entity)
    all_new = is_first and _all_new(driving, loads[f"raw.{entity.table.mirror}"])
    may_stray = driving.whole and not is_first
    if all_new:
        affected = affect_all(connection, entity, driving.rows_read)
    else:
        affected = find_affected(connection, run.run_id, entity, target, driving.columns)
    if not affected and not may_stray:
        return None
    rows = conform_anew(connection, entity) if affected > PARALLEL_ABOVE else conform(connection, entity)
    if isinstance(target, Dimension) and target.has_history and not all_new:
        forget_stale_stamps(connection, entity, target)
    _removed(connection, entity, target, all_new)
    strays = remove_orphans(connection, entity, target, staged.max_delete_share) if may_stray else 0
    if not affected and not strays:
        return None
    quarantined = 0
    if rows:
        contract = staged.contracts[entity.name]
        quarantined = check(connection, run, staged.source.name, target, contract, checks)
    if not all_new:
        quarantine.resolve(connection, run.run_id, staged.source.name, target)
    try:
        counts = _merge_target(connection, run.run_id, staged, entity, target, all_new)
    except (psycopg.errors.CardinalityViolation, psycopg.errors.UniqueViolation) as error:
        raise DeclarationError(
            f"conform/{entity.name}.sql of source '{entity.source}' delivers a key of {target.table} more than once: "
            f"{error.diag.message_detail or error.diag.message_primary}.",
            hint="One row per key is its grain: look for a join that multiplies rows.",
        ) from None
    if isinstance(target, Fact) and rows and not all_new:
        rekeyed = rekey_waiting(
            connection, run.run_id, staged.source.name, target, outdated_keys(entity, target)
        )
        counts["updated"] += rekeyed
        counts["rekeyed"] += rekeyed
    if all_new:
        forget_affected(connection, entity)
    changed = counts.get("inserted", 0) + counts.get("updated", 0)
    if changed > ANALYZE_ABOVE and changed > ANALYZE_SHARE * _rows(connection, target):
        # The same transaction joins it next, long before autovacuum looks at it.
        connection.execute(sql.SQL("analyze {}").format(sql.Identifier("dwh", target.table)))
    return Load(
        staged.source.name,
        f"dwh.{target.table}",
        rows_read=affected + strays,
        rows_inserted=counts.get("inserted", 0),
        rows_updated=counts.get("updated", 0),
        rows_expired=counts.get("closed", 0),
        rows_deleted=counts.get("deleted", 0),
        rows_unchanged=max(rows - quarantined - changed, 0),
        rows_quarantined=quarantined,
        rows_rekeyed=counts.get("rekeyed", 0),
        seconds=round(time.monotonic() - started, 3),
    )


def check(
    connection: psycopg.Connection,
    run: Run,
    source: str,
    target: Dimension | Fact,
    contract: Contract,
    checks: list[CheckResult],
) -> int:
    """Judge the batch by its contract and move the rows that fail to quarantine; how many. Results join `checks`.

    Raises:
        QualityGateStopped: a dataset rule failed.
    """
    results = verify(connection, contract, source)
    # Not on this connection: what stopped a run must be known after it was rolled back.
    record_checks(run.audit_connection, run.run_id, results)
    checks.extend(results)
    stop_on_failure(contract, results)
    broken = {result.check_name for result in results if result.outcome != "passed"}
    rules = [rule for rule in contract.row_rules if rule.name in broken]
    unfit = [
        CheckResult(source, target.entity, name, "fit", None, "quarantine", "failed", count, None, None)
        for name, count in quarantine.find_failing(connection, target, rules).items()
    ]
    record_checks(run.audit_connection, run.run_id, unfit)
    checks.extend(unfit)
    return quarantine.move_failing(connection, run.run_id, source, target)


def _merge_target(
    connection: psycopg.Connection,
    run_id: int,
    staged: Staged,
    entity: Entity,
    target: Dimension | Fact,
    all_new: bool,
) -> dict[str, int]:
    source = staged.source.name
    if isinstance(target, Fact):
        known = None if all_new else known_keys(entity, target)
        return merge_fact(connection, run_id, source, target, all_new=all_new, known=known)
    if target.has_history:
        return scd2.merge_history(connection, run_id, source, staged.snapshot.taken_at, target)
    return scd1.overwrite(connection, run_id, source, target)


def _removed(connection: psycopg.Connection, entity: Entity, target: Dimension | Fact, all_new: bool) -> None:
    if not all_new:
        fill_removed(connection, entity, target)
        return
    connection.execute("drop table if exists pg_temp.removed")
    connection.execute(
        sql.SQL("create temp table removed ({}) on commit drop").format(
            sql.SQL(", ").join(sql.SQL("{} text").format(sql.Identifier(name)) for name in target.natural_key)
        )
    )


def _rows(connection: psycopg.Connection, target: Dimension | Fact) -> float:
    """About how many rows the target had when it was analyzed last."""
    row = connection.execute(
        "select greatest(reltuples, 0) from pg_class where oid = to_regclass(%s)", [f"dwh.{target.table}"]
    ).fetchone()
    return float(row[0]) if row else 0.0


def _changed(load: Load) -> bool:
    return bool(load.rows_inserted or load.rows_updated or load.rows_deleted)


def _staged(tables: Sequence[StagedTable], entity: Entity) -> StagedTable:
    return next(staged for staged in tables if staged.table == entity.table)


def _all_new(staged: StagedTable, load: Load) -> bool:
    """Whether every row of the table came in with this run: a first load."""
    return staged.whole and load.rows_inserted == load.rows_read and load.rows_deleted == 0


def _index_parents(connection: psycopg.Connection, staged: Staged) -> None:
    """An index on each mirror's references to parents: a parent's change must not cost a scan of its children."""
    for entity in staged.source.entities.values():
        table = entity.table
        known = {column.name for column in _staged(staged.tables, entity).columns}
        for columns in entity.parents.values():
            if missing := sorted(set(columns) - known):
                raise DeclarationError(
                    f"Source '{table.source}' declares '{missing[0]}' of {table} as reference to a parent of "
                    f"{entity.name}, which is not there.",
                    hint=f"Its columns are: {', '.join(sorted(known))}.",
                )
            if table.key[: len(columns)] == columns:
                continue
            connection.execute(
                sql.SQL("create index if not exists {} on {} ({})").format(
                    sql.Identifier(fitted(f"ix_{table.mirror}_{'_'.join(columns)}")),
                    sql.Identifier("raw", table.mirror),
                    sql.SQL(", ").join(map(sql.Identifier, columns)),
                )
            )


def _move_watermarks(connection: psycopg.Connection, run_id: int, staged: Staged) -> dict[str, str | None]:
    highs = {}
    for one in staged.tables:
        high = one.window_low
        if one.table.cursor is not None and one.rows_read:
            (cursor_type,) = (column.type for column in one.columns if column.name == one.table.cursor)
            row = connection.execute(
                sql.SQL(
                    """
                    select cursor::text from (
                        select {cursor} as cursor from {batch} union all select {low}::{type}
                    ) as seen
                    where cursor is not null order by cursor desc limit 1
                    """
                ).format(
                    cursor=sql.Identifier(one.table.cursor),
                    batch=batch_of(connection, one.table) or sql.Identifier("raw", one.table.mirror),
                    low=sql.Literal(one.window_low),
                    type=sql.SQL(cursor_type),
                )
            ).fetchone()
            high = row[0] if row else None
        highs[f"raw.{one.table.mirror}"] = high
        connection.execute(
            """
            insert into audit.watermark
                (source, table_name, cursor_value, snapshot_xmin, no_open_transactions, system_identifier, timeline,
                    captured_at, run_id)
            values (%s, %s, %s, %s, %s, %s, %s, %s, %s)
            on conflict (source, table_name) do update set
                cursor_value = excluded.cursor_value, snapshot_xmin = excluded.snapshot_xmin,
                no_open_transactions = excluded.no_open_transactions, system_identifier = excluded.system_identifier,
                timeline = excluded.timeline, captured_at = excluded.captured_at, run_id = excluded.run_id
            """,
            [
                one.table.source,
                one.table.name,
                high,
                staged.snapshot.xmin,
                staged.snapshot.is_quiet,
                staged.snapshot.system_identifier,
                staged.snapshot.timeline,
                staged.snapshot.taken_at,
                run_id,
            ],
        )
    return highs
