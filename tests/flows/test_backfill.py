"""Flow backfill under a real Prefect server: a task for each day and source, distinguished by their names."""

from collections.abc import Callable
from datetime import date

import pytest

from tests.flows.conftest import Tracked
from tests.pipeline import Pipeline
from warehouse.errors import WrongParameters


def test_days_are_tasks_and_the_run_says_what_it_covers(
    place: Pipeline, tracked: Callable[[object], Tracked]
) -> None:
    from flows.backfill import backfill

    done = backfill(date(2024, 3, 9), date(2024, 3, 10), only="shop", parallel=2)

    assert [(day.source, day.day, day.rows) for day in done.days] == [
        ("shop", date(2024, 3, 9), 0),
        ("shop", date(2024, 3, 10), 1),
    ]
    ((prefect_run_id,),) = place.rows("select prefect_run_id from audit.run where flow = 'backfill'")
    seen = tracked(prefect_run_id)
    assert seen.name.startswith("backfill shop 2024-03-09 to 2024-03-10 20")
    assert seen.state == "Completed"
    # Nothing had been captured: that came first.
    assert place.rows(
        "select flow, status from audit.run where parent_run_id is not null order by run_id"
    ) == [
        ("ingest-shop", "succeeded"),
        ("refresh-marts", "succeeded"),
    ]
    with pytest.raises(WrongParameters, match="2024-03-10 is after 2024-03-09"):
        backfill(date(2024, 3, 10), date(2024, 3, 9))
