"""Flow publish-report: write the HTML report, and link it as an artifact of the run in Prefect."""

from pathlib import Path

from flows.artifacts import link_file
from flows.databases import with_urls
from flows.engine import flow, log, task
from flows.result import FlowResult
from flows.run_locked import run_locked
from warehouse.report.write import write
from warehouse.runs.audit import Run, ensure_alive
from warehouse.settings import Settings

NAME = "publish-report"


@flow(NAME)
def publish_report(path: str | None = None) -> FlowResult:
    """Write the report; readers see the old one until the new one is complete.

    Args:
        path: File to write; by default report.html in DWH_HOME.
    """
    settings = with_urls(Settings.load())
    target = Path(path) if path else settings.home / "report.html"

    def publish(run: Run) -> FlowResult:
        write_report(run, target)
        return FlowResult(NAME, run.run_id, ())

    return run_locked(settings.warehouse, NAME, publish, lock="report", parameters={"path": str(target)})


@task
def write_report(run: Run, path: Path) -> None:
    """Write the report's file."""
    ensure_alive(run)
    written = write(run.warehouse_url, path)
    log(f"Report: {written}")
    link_file("report", written, "The warehouse's report")
