"""Flow maintain-archive: archive pending batches, compact the Delta tables, and remove files that are not in use."""

from flows.databases import with_urls
from flows.engine import flow, log
from flows.run_locked import run_locked
from warehouse.archive import maintain
from warehouse.archive.maintain import Maintained
from warehouse.archive.place import Archive
from warehouse.db.schema_version import ensure_migrated
from warehouse.runs.audit import Run
from warehouse.settings import Settings

NAME = "maintain-archive"


@flow(NAME)
def maintain_archive() -> Maintained:
    """Archive pending batches, merge small files, and remove files that no table version or batch uses."""
    settings = with_urls(Settings.load())

    def work(run: Run) -> Maintained:
        if not settings.archive:
            log("DWH_ARCHIVE=false: there is nothing to maintain")
            return Maintained()
        done = maintain.maintain(run.warehouse_url, Archive.of(settings), log)
        log(f"archive: {done}")
        return done

    return run_locked(settings.warehouse, NAME, work, lock=NAME)


def restart_archive() -> None:
    """Start a new archive with the next run of each source."""
    settings = with_urls(Settings.load())
    ensure_migrated(settings.warehouse)
    maintain.restart(settings.warehouse)
