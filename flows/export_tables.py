"""Flow export-tables: dimensions, facts and marts as Parquet and reports as CSV in the lake, or into a PostgreSQL."""

from flows.databases import with_urls
from flows.engine import flow, log, task
from flows.result import FlowResult
from flows.run_locked import run_locked
from warehouse.db.connections import without_password
from warehouse.errors import counted
from warehouse.export.export import export
from warehouse.export.reports_database import export_reports
from warehouse.runs.audit import Load, Run, ensure_alive
from warehouse.settings import Settings

NAME = "export-tables"


@flow(NAME)
def export_tables(files: bool = True) -> FlowResult:
    """Export what has changed since the last export to DWH_LAKE, and the reports to DWH_EXPORT_URL where that is set.

    Args:
        files: Write files into the lake; without, only the reports to DWH_EXPORT_URL.
    """
    settings = with_urls(Settings.load())
    url = settings.export_url.get_secret_value() if settings.export_url else None
    parameters = {
        "lake": settings.lake if files else None,
        "database": without_password(url) if url else None,
    }

    def work(run: Run) -> FlowResult:
        loads = write_files(run, settings.lake) if files else ()
        if url:
            loads += write_reports(run)
        return FlowResult(NAME, run.run_id, loads)

    return run_locked(settings.warehouse, NAME, work, lock="export", parameters=parameters)


@task
def write_files(run: Run, lake: str) -> tuple[Load, ...]:
    """Write Parquet and CSV; readers see the previous export until the new one is complete."""
    ensure_alive(run)
    return _logged(export(run, lake, log))


@task
def write_reports(run: Run) -> tuple[Load, ...]:
    """Replace the reports in the other database, in one transaction."""
    ensure_alive(run)
    settings = Settings.load()
    # Read the URL here, since Prefect shows the parameters of tasks, and it may hold a password.
    assert settings.export_url is not None
    return _logged(export_reports(run, settings.export_url.get_secret_value(), log))


def _logged(loads: tuple[Load, ...]) -> tuple[Load, ...]:
    rows = sum(load.rows_read for load in loads)
    log(f"{counted(rows, 'row')} of {len(loads)} tables and reports were exported.")
    return loads
