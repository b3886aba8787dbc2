"""Flow daily-warehouse under a real Prefect server: its steps are flows of their own, and fail on their own."""

import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import make_conninfo

from generators import geoip
from tests.flows.conftest import Tracked
from tests.flows.test_ingest_source import BY_PREFECT, lines_of
from tests.pipeline import Pipeline, Row, copy_of_shop
from tests.weblog_lake import lines
from warehouse.errors import StepsFailed

Ask = Callable[..., Tracked]


@pytest.fixture
def landing(place: Pipeline, tmp_path: Path) -> Path:
    return make_landing(tmp_path)


def make_landing(folder: Path) -> Path:
    """Where web logs arrive, with one file of ten lines of which one is bad; and a file that knows their addresses."""
    geoip.write(folder / "home" / "geoip" / "demo.mmdb")
    landing = folder / "lake" / "landing" / "weblogs"
    landing.mkdir(parents=True)
    (landing / "access-1.log").write_bytes(lines(1, 9) + b"rubbish\n")
    return landing


@dataclass(frozen=True)
class ThreeDays:
    """A first day, one without a change, and one with a few: their outcomes, and the rows of each day's runs."""

    place: Pipeline
    outcomes: list[Any]
    # Flow, status, id in Prefect, and run id.
    runs: list[list[Row]]


@pytest.fixture(scope="module")
def days(module_place: Callable[[], AbstractContextManager[Pipeline]]) -> ThreeDays:
    runs: list[list[Row]] = []
    with module_place() as place:
        landing = make_landing(Path(os.environ["DWH_HOME"]).parent)

        def run_next_day() -> Any:
            outcome = run_day()
            known = sum(map(len, runs))
            runs.append(
                place.rows(
                    "select flow, status, prefect_run_id, run_id from audit.run where run_id > %s order by run_id",
                    known,
                )
            )
            return outcome

        outcomes = [run_next_day(), run_next_day()]
        place.shop.execute("update customer set name = 'Ana María', updated_at = now()")
        (landing / "access-2.log").write_bytes(lines(20, 24))
        outcomes.append(run_next_day())
    return ThreeDays(place, outcomes, runs)


def test_steps_are_subflows_of_the_day_in_their_order(days: ThreeDays, tracked: Ask) -> None:
    assert [step.flow for step in days.outcomes[0].steps] == [
        "ingest-shop",
        "ingest-weblogs",
        "refresh-marts",
    ]
    runs = days.runs[0]
    assert [(flow, status) for flow, status, *_ in runs] == [
        ("daily-warehouse", "succeeded"),
        ("ingest-shop", "succeeded"),
        ("ingest-weblogs", "succeeded"),
        ("refresh-marts", "succeeded"),
    ]
    tasks = [
        [],
        ["publish-batch", "stage-source", "verify-source"],
        ["load-files"],
        ["refresh-views"],
    ]
    (day, *steps) = [
        tracked(prefect_run_id, names) for (*_, prefect_run_id, _), names in zip(runs, tasks, strict=True)
    ]
    assert day.state == "Completed"
    assert day.name.startswith("daily-warehouse 20")
    assert {step.parent for step in steps} == {runs[0][2]}
    assert [sorted(step.tasks) for step in steps] == tasks[1:]
    # Lines of web logs are shown, loaded and in quarantine.
    (load,) = json.loads(steps[1].artifacts["ingest-weblogs-loads"])
    assert (load["rows_read"], load["rows_inserted"], load["rows_quarantined"]) == (10, 9, 1)
    first = "select count(*) from dwh.fact_weblog where run_id <= %s"
    assert days.place.rows(first, runs[-1][3]) == [(9,)]


def test_a_day_without_a_change_is_a_line_for_each_step_without_artifacts_and_tables(
    days: ThreeDays, tracked: Ask
) -> None:
    marts = "select table_name from audit.load where source = 'mart' and rows_inserted > 0 and run_id <= 4"
    assert ("mart.customer_rfm",) in days.place.rows(marts)
    assert [flow for flow, *_ in days.runs[1]] == [
        "daily-warehouse",
        "ingest-shop",
        "ingest-weblogs",
        "refresh-marts",
    ]
    for *_, prefect_run_id, run_id in days.runs[1]:
        seen = tracked(prefect_run_id)
        assert (seen.state, seen.artifacts, seen.tables) == ("Completed", {}, {})
        ours = [line for line in lines_of(prefect_run_id) if not line.startswith(BY_PREFECT)]
        assert ours == [f"Run {run_id}: no change."]


def test_next_day_loads_only_what_changed(days: ThreeDays) -> None:
    changed = {
        load.table_name: (load.rows_inserted, load.rows_updated, load.rows_expired)
        for load in days.outcomes[2].every_load
        if (load.rows_inserted or load.rows_updated) and not load.table_name.startswith("mart.")
    }
    assert changed == {
        "raw.shop_customer": (0, 1, 0),
        "dwh.dim_customer": (1, 0, 1),
        "dwh.fact_weblog": (5, 0, 0),
    }


def test_steps_that_fail_do_not_keep_the_others_from_running(
    place: Pipeline, landing: Path, tracked: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_of_shop("mall", tmp_path / "sources")
    monkeypatch.setenv("DWH_SOURCES", str(tmp_path / "sources"))
    monkeypatch.setenv("DWH_MALL_URL", make_conninfo(place.shop_url, password="s3cret"))
    (tmp_path / "home" / "geoip" / "demo.mmdb").unlink()
    with pytest.raises(StepsFailed) as failed:
        run_day()

    assert failed.value.failed.keys() == {"ingest-mall", "ingest-weblogs"}
    assert failed.value.what.startswith("2 of 4 steps failed: ingest-mall (Source 'mall': Cannot connect to")
    assert "GeoIP" in failed.value.what
    seen = {flow: (status, tracked(prefect_run_id)) for flow, status, prefect_run_id in place.rows(
        "select flow, status, prefect_run_id from audit.run"
    )}  # fmt: skip
    assert {flow: (status, run.state) for flow, (status, run) in seen.items()} == {
        "daily-warehouse": ("failed", "Failed"),
        "ingest-mall": ("failed", "Failed"),
        "ingest-shop": ("succeeded", "Completed"),
        "ingest-weblogs": ("failed", "Failed"),
        "refresh-marts": ("succeeded", "Completed"),
    }
    assert all(run.name.startswith(f"{flow} ") for flow, (_, run) in seen.items())
    assert "s3cret" not in str(seen)
    assert place.facts() == [("1", "1")]


def test_day_is_stopped_rather_than_failed_where_only_a_delete_threshold_was_exceeded(
    place: Pipeline, landing: Path, tracked: Ask
) -> None:
    from flows.engine import launching_deployment

    run_day()
    place.shop.execute("delete from order_item")
    token = launching_deployment.set("daily-warehouse")
    with pytest.raises(StepsFailed) as failed:
        run_day()
    launching_deployment.reset(token)
    assert failed.value.exit_code == 3
    assert place.run_states()[4][:2] == ("daily-warehouse", "stopped")
    stopped = place.rows("select prefect_run_id from audit.run where status = 'stopped' order by run_id")
    assert [tracked(run_id).state for (run_id,) in stopped] == ["Delete threshold exceeded"] * 2
    # The day and its step say alike what to switch on where the day was started.
    steps = "In Prefect: deployment ingest-shop, Run, Custom run, switch on `confirm_deletes`."
    hints = place.rows("select hint from audit.run where status = 'stopped' order by run_id")
    assert [hint.endswith(steps) and hint.count("In Prefect") for (hint,) in hints] == [1, 1]
    assert run_day(confirm_deletes=True).steps[0].verifications[-1].rows_mirror == 0


def run_day(**parameters: Any) -> Any:
    # Imported late: Prefect reads its server's address when it is imported.
    from flows.daily_warehouse import daily_warehouse

    return daily_warehouse(**parameters)
