"""`dwh backfill`: days of the past loaded anew."""

from datetime import datetime
from typing import Annotated

import typer

from cli.run import perform

DAY = ["%Y-%m-%d"]


def backfill(
    from_day: Annotated[
        datetime, typer.Option("--from", metavar="DAY", formats=DAY, help="First day (UTC).")
    ],
    to_day: Annotated[datetime, typer.Option("--to", metavar="DAY", formats=DAY, help="Last day (UTC).")],
    only: Annotated[str | None, typer.Option(metavar="FEED", help="One feed, as weblogs or shop.")] = None,
    parallel: Annotated[int, typer.Option(min=1, max=16, help="How many days at once.")] = 1,
    missing: Annotated[
        bool, typer.Option("--missing", help="Only days that are missing or have failed.")
    ] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin again, even if the same days were interrupted.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")] = False,
) -> None:
    """Load days of the past anew, day by day and feed by feed, then the marts; nothing is doubled.

    Web logs: the files that tell of a day are loaded again from the landing folder. The shop: the day's facts are
    derived again from the mirrors. Asked for the same days again, one that was interrupted goes on where it was.

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
    rows = [{"day": str(d.day), "feed": d.feed, "rows": d.rows, "note": d.message} for d in done.days]
    show_table(f"backfill, run {done.run_id}", rows, empty="nothing to load")
    if done.skipped:
        out.print(f"{done.skipped} days were done before this backfill was interrupted.")
