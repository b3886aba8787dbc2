"""Reconcile the star: conform a whole source again, check it, and compare dimensions, facts and quarantine with it."""

from collections.abc import Callable
from dataclasses import replace

import psycopg

from warehouse.errors import counted
from warehouse.extract.catalog import mirror_exists
from warehouse.extract.watermark import read_watermark
from warehouse.load.batch import Batch
from warehouse.load.changed_keys import create_all_keys_view, materialize_keys
from warehouse.load.conform import conform
from warehouse.model.star import TARGETS, Dimension, Fact
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
    batches = []
    for target in TARGETS:
        if entity := source.entities.get(target.entity):
            if missing := [table for table in entity.reads if not _is_loaded(connection, table)]:
                reason = why_not_loaded(connection, missing[0])
                progress(
                    f"{source.name} → dwh.{target.table}: not compared, raw.{missing[0].mirror} is {reason}"
                )
            else:
                batches.append(Batch(connection, run_id, entity, target))
    for batch in batches:
        progress(
            f"{source.name}: {counted(_conform_all(batch), 'row')} of {batch.entity.name} conformed again"
        )
    verdicts: dict[str, Verdict] = {}
    changed = {
        one.table_name: one.reason for one in find_stale_targets(connection, source, read_contracts(source))
    }

    def add(*more: Verdict) -> None:
        for verdict in more:
            name = verdict.table_name
            verdict = verdicts[name].joined(verdict) if name in verdicts else verdict
            if verdict.rows_differing and name in changed:
                note = f"what it is made by has changed since ({changed[name]}): load it first, `dwh run {source.name}`"
                verdict = replace(verdict, note=note)
            verdicts[name] = verdict
            progress(str(verdict))

    # Failing rows are not published: remove them from all batches before the first is compared.
    for batch in batches:
        with batch:
            add(reconcile_quarantine(batch))
            materialize_keys(batch)
    for batch in batches:
        if isinstance(batch.target, Dimension) and has_dimensions:
            reconcile = reconcile_versions if batch.target.has_history else reconcile_members
            members = reconcile(batch, batch.target)
            add(members.joined(reconcile_unknown(connection, source.name, batch.target)))
    has_facts = False
    for batch in batches:
        if not isinstance(batch.target, Dimension):
            has_facts = True
            with batch:
                add(
                    *reconcile_facts(batch, batch.target)
                    if isinstance(batch.target, Fact)
                    else reconcile_snapshot(batch, batch.target)
                )
    for batch in batches:
        with batch:
            add(reconcile_marks(batch))
    if has_facts:
        add(reconcile_calendar(connection, run_id))
    return list(verdicts.values())


def _is_loaded(connection: psycopg.Connection, table: Table) -> bool:
    return mirror_exists(connection, table) and read_watermark(connection, table) is not None


def _conform_all(batch: Batch) -> int:
    """Conform all rows of the mirror; returns their number."""
    (rows,) = batch.execute("select count(*) from {mirror} where not _is_deleted").fetchone() or (0,)
    create_all_keys_view(batch)
    return conform(batch, rows).rows
