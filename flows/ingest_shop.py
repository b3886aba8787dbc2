"""Flow ingest-shop: what changed in the source since the last run becomes part of the warehouse."""

from flows.acquire import acquired
from flows.databases import located
from flows.engine import flow, say, task
from flows.outcome import Outcome
from warehouse.extract import stage, verification
from warehouse.extract.staged import Staged
from warehouse.extract.verification import Verification
from warehouse.history import change_log
from warehouse.history.dry_run import examples
from warehouse.load import publish
from warehouse.load.publish import Published
from warehouse.runs.audit import Run, ensure_alive
from warehouse.settings import Settings
from warehouse.sources.declaration import Source, read_source

NAME = "ingest-shop"


@flow(NAME, covers=lambda: Settings.load().source)
def ingest_shop(whole: bool = False, confirm_deletes: bool = False, dry_run: bool = False) -> Outcome:
    """Capture the source, check it, and publish it to the warehouse in one transaction.

    Args:
        whole: Read every row again, as after a restore or failover of the source.
        confirm_deletes: Publish deletes even where more than DWH_MAX_DELETE_SHARE of a table is gone.
        dry_run: Do all of it and roll it back.
    """
    settings = located(Settings.load())
    source = read_source(settings.source)

    def ingest(run: Run) -> Outcome:
        staged = stage_source(run, source, settings, whole, confirm_deletes)
        published = publish_batch(run, staged)
        proofs = prove_source(run, staged)
        if not dry_run:
            change_log.prune(run.connection, settings.change_log_days)
        found = examples(run, published.loads)
        return Outcome(
            NAME, run.run_id, published.loads, published.checks, proofs, examples=found, dry_run=dry_run
        )

    return acquired(
        settings.warehouse,
        NAME,
        ingest,
        lock=f"source {source.name}",
        parameters={"source": source.name, "whole": whole, "confirm_deletes": confirm_deletes},
        dry_run=dry_run,
    )


@task
def stage_source(run: Run, source: Source, settings: Settings, whole: bool, confirm_deletes: bool) -> Staged:
    """Copy what may have changed into schema staging."""
    ensure_alive(run)
    say(f"reading source {source.name}")
    return stage.stage(
        run,
        source,
        settings.captured,
        max_delete_share=settings.max_delete_share,
        xmin_scan=settings.xid_net,
        confirm_deletes=confirm_deletes,
        full_refresh=whole,
        progress=say,
    )


@task
def publish_batch(run: Run, staged: Staged) -> Published:
    """Check the batch against its contracts and publish it, all or nothing."""
    ensure_alive(run)
    return publish.publish(run, staged, progress=say)


@task
def prove_source(run: Run, staged: Staged) -> tuple[Verification, ...]:
    """Compare source and mirror, chunk by chunk."""
    ensure_alive(run)
    proofs = verification.verify(run, staged)
    rows = sum(proved.rows_source for proved in proofs)
    say(f"proved: {len(proofs)} tables, {rows:,} rows, equal in source and mirror")
    return proofs
