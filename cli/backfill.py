"""`dwh backfill`: load days of the past again."""

from datetime import datetime
from typing import Annotated

import typer

from cli.options import Json
from cli.run import perform

DAY = ["%Y-%m-%d"]


def backfill(
    from_day: Annotated[
        datetime, typer.Option("--from", metavar="DAY", formats=DAY, help="First day (UTC).")
    ],
    to_day: Annotated[datetime, typer.Option("--to", metavar="DAY", formats=DAY, help="Last day (UTC).")],
    only: Annotated[str | None, typer.Option(metavar="SOURCE", help="One source, or weblogs.")] = None,
    parallel: Annotated[int, typer.Option(min=1, max=16, help="How many days to load at once.")] = 1,
    missing: Annotated[
        bool, typer.Option("--missing", help="Load only days that are missing or have failed.")
    ] = False,
    restart: Annotated[
        bool,
        typer.Option("--restart", help="Start over, even if a backfill of the same days was interrupted."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Load days of the past again, day by day and source by source, then refresh the marts; rows are replaced.

    Web logs: the files with requests of a day are loaded again from the landing folder. Sources: the day's facts are
    derived again from the mirrors. Days are those of UTC, whatever DWH_TIME_ZONE says. An interrupted backfill is
    resumed if the same days are asked for again.

    Examples: `dwh backfill --from 2026-11-01 --to 2026-11-07`, `dwh backfill --from 2026-11-01 --to 2026-11-07 --only
    weblogs --missing`
    """
    from cli.output import out, show_json, show_table

    done = perform(
        "backfill",
        from_date=from_day.date(),
        to_date=to_day.date(),
        only=only,
        parallel=parallel,
        missing=missing,
        restart=restart,
    )
    if as_json:
        show_json(done)
        return
    rows = [{"day": str(d.day), "source": d.source, "rows": d.rows, "note": d.message} for d in done.days]
    show_table(f"backfill, run {done.run_id}", rows, empty="nothing to load")
    if done.skipped:
        out.print(f"{done.skipped} days were already loaded before this backfill was interrupted.")
