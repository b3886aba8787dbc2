"""Replay quarantined rows of a database: check them again without reading the source."""

from collections.abc import Sequence
from datetime import UTC, datetime

from psycopg import sql

from warehouse.archive.changed_rows import archive_changed_rows
from warehouse.extract.catalog import mirror_exists
from warehouse.load.batch import Batch
from warehouse.load.judge import Judge
from warehouse.load.natural_keys import natural_array
from warehouse.load.target import load_keys
from warehouse.load.transaction import begin_publishing
from warehouse.model.star import TARGETS
from warehouse.runs.audit import Load, Run, ensure_alive, record_load
from warehouse.sources.source import Source


def rejudge(run: Run, source: Source, quarantine_ids: Sequence[int]) -> tuple[Load, ...]:
    """Conform the rows of these entries again, and load those that pass, in one transaction."""
    loads = []
    with run.session("replay") as connection:
        begin_publishing(connection, run)
        for target in TARGETS:
            entity = source.entities.get(target.entity)
            if entity is None or not mirror_exists(connection, entity.table):
                continue
            taken_at = datetime.now(UTC)
            with Batch(connection, run.run_id, entity, target, taken_at=taken_at) as batch:
                if (load := _rejudge(batch, run, quarantine_ids)) is not None:
                    loads.append(load)
                    record_load(connection, run.run_id, load)
        if run.is_archived and loads:
            archive_changed_rows(connection, run.run_id)
        ensure_alive(run)
    return tuple(loads)


def _rejudge(batch: Batch, run: Run, quarantine_ids: Sequence[int]) -> Load | None:
    """Load the rows of a target that pass; for a fact, also rows that refer to members which pass now."""
    waiting = batch.format(
        """
        select {source_key}, 0 as _flags from {mirror} as mirror where {key} in (
            select row_key from audit.quarantine
            where quarantine_id = any({ids}) and source = {source} and entity = {entity} and resolved_at is null
        )
        """,
        key=natural_array(batch.entity, "mirror"),
        ids=sql.Literal(list(quarantine_ids)),
    )
    return load_keys(batch, [waiting], Judge(run), batch.entity.contract(), [])
