"""`dwh reconcile`: recompute every table from the layer below and compare."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import Json
from cli.run import perform

if TYPE_CHECKING:
    from warehouse.reconcile.verdict import Verdict


def reconcile(
    repair: Annotated[bool, typer.Option("--repair", help="Repair what differs, and nothing else.")] = False,
    source: Annotated[
        list[str] | None,
        typer.Option(help="Source to compare, or weblogs; repeatable. Default: every source, and weblogs."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare sources, mirrors, star, web logs and stored marts, row by row; show and repair differences.

    Without --repair nothing is changed, and what is shown is what --repair would repair. Exit code 3: differences were
    found and not repaired.

    Examples: `dwh reconcile`, `dwh reconcile --source shop --repair`, `dwh reconcile --json | jq '.[].verdict'`
    """
    from warehouse.errors import DifferencesFound, StepsFailed

    try:
        verdicts: Sequence[Verdict] = perform("reconcile", repair=repair, sources=source or None).verdicts
    except (DifferencesFound, StepsFailed) as error:
        show_verdicts("Reconciled", error.verdicts, as_json)
        raise
    show_verdicts("Reconciled", verdicts, as_json)


def show_verdicts(title: str, verdicts: "Sequence[Verdict]", as_json: bool) -> None:
    """Print a verdict for each table, and the differences."""
    from cli.output import out, show_json, show_line, show_table

    rows = [
        {
            "layer": verdict.layer,
            "source": verdict.source,
            "table_name": verdict.table_name,
            "verdict": verdict.verdict,
            "rows_expected": verdict.rows_expected,
            "rows_found": verdict.rows_found,
            "rows_differing": verdict.rows_differing,
            "rows_repaired": verdict.rows_repaired,
            "rows_pending": verdict.rows_pending,
            "seconds": verdict.seconds,
        }
        for verdict in verdicts
    ]
    if as_json:
        for row, verdict in zip(rows, verdicts, strict=True):
            row |= {"amounts": verdict.amounts, "differences": verdict.differences}
        show_json(rows)
        return
    show_table(title, rows, empty="nothing is captured yet; run `dwh run daily`")
    for verdict in verdicts:
        for difference in verdict.differences:
            repaired = ", repaired" if difference.is_repaired else ""
            show_line(f"{difference}{repaired}")
        if (more := verdict.rows_differing - len(verdict.differences)) > 0:
            out.print(f"{verdict.table_name}: {more:,} more", markup=False)
        for column, sums in verdict.amounts.items():
            found, expected = ("empty" if one is None else one for one in (sums["found"], sums["expected"]))
            if found != expected:
                out.print(
                    f"{verdict.table_name}: the sum of {column} is {found} and should be {expected}",
                    markup=False,
                )
