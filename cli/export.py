"""`dwh export`: tables as Parquet and reports as CSV, or reports into another PostgreSQL."""

import os
from typing import Annotated

import typer

from cli.options import Json
from cli.run import perform


def export(
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="URL",
            help="Write the reports into schema dwh_report of this PostgreSQL instead of files; without --to, files, "
            "and the reports to DWH_EXPORT_URL if that is set.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write every dimension, fact and mart as Parquet and every report as CSV to `export` in the lake (DWH_LAKE).

    Facts are written by day, and only days that changed since the last export. Readers see the export before until all
    of the new one is there.

    Examples: `dwh export`, `dwh export --to postgresql://loader@reports.example/reports`
    """
    from cli.output import out, show_json, show_table
    from warehouse.export.reports_database import SETTING

    if to is not None:
        # The URL may hold a password, and Prefect shows the parameters of flows: pass it in the environment.
        os.environ[SETTING] = to
    result = perform("export-tables", files=to is None)
    if as_json:
        show_json(result)
        return
    rows = [
        {"table": load.table_name, "rows": load.rows_read, "seconds": load.seconds} for load in result.loads
    ]
    show_table(f"{result.flow}, run {result.run_id}", rows)
    out.print(f"{sum(load.rows_read for load in result.loads):,} rows were written.")
