"""Reconcile the star: conform a whole source again, check it, and compare dimensions, facts and quarantine with it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import psycopg

from warehouse.errors import counted
from warehouse.extract.catalog import columns_of_each
from warehouse.extract.watermark import read_watermarks
from warehouse.load.batch import Batch
from warehouse.load.changed_keys import create_all_keys_view, materialize_keys
from warehouse.load.conform import conform
from warehouse.model.star import TARGETS, DailySnapshot, Dimension, Fact
from warehouse.reconcile.accounting import reconcile_marks, reconcile_quarantine
from warehouse.reconcile.facts import reconcile_calendar, reconcile_facts
from warehouse.reconcile.members import reconcile_members
from warehouse.reconcile.mirror import why_not_loaded
from warehouse.reconcile.snapshots import reconcile_snapshot
from warehouse.reconcile.unknown import reconcile_unknown
from warehouse.reconcile.verdict import Verdict
from warehouse.reconcile.versions import reconcile_versions
from warehouse.runs.definitions import find_stale_targets, read_contracts
from warehouse.sources.source import Source, Table


def reconcile_star(
    connection: psycopg.Connection,
    run_id: int,
    source: Source,
    *,
    has_dimensions: bool = True,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Verdict]:
    """Repair dimensions, facts and quarantine of `source` from its mirrors, in the connection's transaction.

    Without `has_dimensions`, dimensions are not compared.

    Raises:
        DeclarationError: the source's SQL does not fit its mirrors.
    """
    batches = list(_comparable(connection, run_id, source, progress))
    for batch in batches:
        progress(
            f"{source.name}: {counted(_conform_all(batch), 'row')} of {batch.entity.name} conformed again"
        )
    changed = {
        one.table_name: one.reason for one in find_stale_targets(connection, source, read_contracts(source))
    }
    verdicts: dict[str, Verdict] = {}
    for verdict in _reconcile(connection, run_id, source.name, batches, has_dimensions):
        name = verdict.table_name
        verdict = verdicts[name].joined(verdict) if name in verdicts else verdict
        if verdict.rows_differing and name in changed:
            note = f"what it is made by has changed since ({changed[name]}): load it first, `dwh run {source.name}`"
            verdict = replace(verdict, note=note, is_redefined=True)
        verdicts[name] = verdict
        progress(str(verdict))
    return list(verdicts.values())


def _comparable(
    connection: psycopg.Connection, run_id: int, source: Source, progress: Callable[[str], None]
) -> Iterator[Batch]:
    """Yield a batch for each target of the source for which all mirrors that its SQL reads are loaded."""
    loaded = _loaded_tables(connection, source)
    for target in TARGETS:
        if entity := source.entities.get(target.entity):
            if missing := [table for table in entity.reads if table not in loaded]:
                reason = why_not_loaded(connection, missing[0])
                progress(
                    f"{source.name} → dwh.{target.table}: not compared, raw.{missing[0].mirror} is {reason}"
                )
            else:
                yield Batch(connection, run_id, entity, target)


def _reconcile(
    connection: psycopg.Connection, run_id: int, source: str, batches: Sequence[Batch], has_dimensions: bool
) -> Iterator[Verdict]:
    """Compare and repair all targets, and yield the verdicts: several for some targets, which belong together."""
    # Failing rows are not published: remove them from all batches before the first is compared.
    for batch in batches:
        with batch:
            yield reconcile_quarantine(batch)
            materialize_keys(batch)
    for batch in batches:
        if isinstance(batch.target, Dimension) and has_dimensions:
            reconcile = reconcile_versions if batch.target.has_history else reconcile_members
            members = reconcile(batch, batch.target)
            yield members.joined(reconcile_unknown(connection, source, batch.target))
    others = [batch for batch in batches if not isinstance(batch.target, Dimension)]
    for batch in others:
        with batch:
            if isinstance(batch.target, Fact):
                yield from reconcile_facts(batch, batch.target)
            elif isinstance(batch.target, DailySnapshot):
                yield from reconcile_snapshot(batch, batch.target)
    for batch in batches:
        with batch:
            yield reconcile_marks(batch)
    if others:
        yield reconcile_calendar(connection, run_id)


def _loaded_tables(connection: psycopg.Connection, source: Source) -> set[Table]:
    """Tables that entities of the source read and that have a mirror and a watermark."""
    tables = list({table: None for entity in source.entities.values() for table in entity.reads})
    watermarks = read_watermarks(connection, source.name, tables)
    mirrors = columns_of_each(connection, *(("raw", table.mirror) for table in tables))
    return {table for table, columns in zip(tables, mirrors, strict=True) if columns and table in watermarks}


def _conform_all(batch: Batch) -> int:
    """Conform all rows of the mirror; returns their number."""
    (rows,) = batch.execute("select count(*) from {mirror} where not _is_deleted").fetchone() or (0,)
    create_all_keys_view(batch)
    return conform(batch, rows).rows
