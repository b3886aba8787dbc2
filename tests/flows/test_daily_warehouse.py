"""Flow daily-warehouse under a real Prefect server: its steps are flows of their own, and fail on their own."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import make_conninfo

from generators import geoip
from tests.flows.conftest import Tracked
from tests.flows.test_ingest_source import BY_PREFECT, lines_of
from tests.pipeline import Pipeline, copy_of_shop
from tests.weblog_lake import lines
from warehouse.errors import StepsFailed

Ask = Callable[[object], Tracked]


@pytest.fixture
def landing(place: Pipeline, tmp_path: Path) -> Path:
    """Where web logs arrive, with one file of ten lines of which one is bad; and a file that knows their addresses."""
    geoip.write(tmp_path / "home" / "geoip" / "demo.mmdb")
    folder = tmp_path / "lake" / "landing" / "weblogs"
    folder.mkdir(parents=True)
    (folder / "access-1.log").write_bytes(lines(1, 9) + b"rubbish\n")
    return folder


def test_steps_are_subflows_of_the_day_in_their_order(place: Pipeline, landing: Path, tracked: Ask) -> None:
    outcome = run_day()

    assert [step.flow for step in outcome.steps] == ["ingest-shop", "ingest-weblogs", "refresh-marts"]
    runs = place.rows("select flow, status, prefect_run_id from audit.run order by run_id")
    assert [(flow, status) for flow, status, _ in runs] == [
        ("daily-warehouse", "succeeded"),
        ("ingest-shop", "succeeded"),
        ("ingest-weblogs", "succeeded"),
        ("refresh-marts", "succeeded"),
    ]
    (day, *steps) = [tracked(prefect_run_id) for *_, prefect_run_id in runs]
    assert day.state == "Completed"
    assert day.name.startswith("daily-warehouse 20")
    assert {step.parent for step in steps} == {runs[0][2]}
    assert [sorted(step.tasks) for step in steps] == [
        ["publish-batch", "stage-source", "verify-source"],
        ["load-files"],
        ["refresh-views"],
    ]


def test_lines_of_web_logs_are_shown_loaded_and_quarantined(
    place: Pipeline, landing: Path, tracked: Ask
) -> None:
    run_day()

    ((prefect_run_id,),) = place.rows("select prefect_run_id from audit.run where flow = 'ingest-weblogs'")
    seen = tracked(prefect_run_id)
    (load,) = json.loads(seen.artifacts["ingest-weblogs-loads"])
    assert (load["rows_read"], load["rows_inserted"], load["rows_quarantined"]) == (10, 9, 1)
    assert place.rows("select count(*) from dwh.fact_weblog") == [(9,)]


def test_next_day_loads_only_what_changed(place: Pipeline, landing: Path) -> None:
    run_day()
    place.shop.execute("update customer set name = 'Ana María', updated_at = now()")
    (landing / "access-2.log").write_bytes(lines(20, 24))
    second = run_day()

    changed = {
        load.table_name: (load.rows_inserted, load.rows_updated, load.rows_expired)
        for load in second.every_load
        if (load.rows_inserted or load.rows_updated) and not load.table_name.startswith("mart.")
    }
    assert changed == {
        "raw.shop_customer": (0, 1, 0),
        "dwh.dim_customer": (1, 0, 1),
        "dwh.fact_weblog": (5, 0, 0),
    }


def test_a_day_without_a_change_is_a_line_for_each_step_without_artifacts_and_tables(
    place: Pipeline, landing: Path, tracked: Ask
) -> None:
    run_day()
    marts = "select table_name from audit.load where source = 'mart' and rows_inserted > 0"
    assert ("mart.customer_rfm",) in place.rows(marts)
    run_day()
    runs = place.rows("select flow, prefect_run_id, run_id from audit.run where run_id > 4 order by run_id")
    assert [flow for flow, *_ in runs] == [
        "daily-warehouse",
        "ingest-shop",
        "ingest-weblogs",
        "refresh-marts",
    ]
    for _, prefect_run_id, run_id in runs:
        seen = tracked(prefect_run_id)
        assert (seen.state, seen.artifacts, seen.tables) == ("Completed", {}, {})
        ours = [line for line in lines_of(prefect_run_id) if not line.startswith(BY_PREFECT)]
        assert ours == [f"Run {run_id}: no change."]


def test_step_that_fails_does_not_keep_the_others_from_running(
    place: Pipeline, landing: Path, tracked: Ask, tmp_path: Path
) -> None:
    (tmp_path / "home" / "geoip" / "demo.mmdb").unlink()
    with pytest.raises(StepsFailed) as failed:
        run_day()

    assert failed.value.failed.keys() == {"ingest-weblogs"}
    assert "GeoIP" in failed.value.what
    states = {flow: (status, tracked(seen).state) for flow, status, seen in place.rows(
        "select flow, status, prefect_run_id from audit.run"
    )}  # fmt: skip
    assert states == {
        "daily-warehouse": ("failed", "Failed"),
        "ingest-shop": ("succeeded", "Completed"),
        "ingest-weblogs": ("failed", "Failed"),
        "refresh-marts": ("succeeded", "Completed"),
    }
    assert place.facts() == [("1", "1")]


def test_a_source_that_fails_does_not_stop_the_other_sources(
    place: Pipeline, landing: Path, tracked: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_of_shop("mall", tmp_path / "sources")
    monkeypatch.setenv("DWH_SOURCES", str(tmp_path / "sources"))
    monkeypatch.setenv("DWH_MALL_URL", make_conninfo(place.shop_url, password="s3cret"))
    with pytest.raises(StepsFailed) as failed:
        run_day()

    assert failed.value.failed.keys() == {"ingest-mall"}
    assert failed.value.what.startswith("1 of 4 steps failed: ingest-mall (Source 'mall': Cannot connect to")
    seen = {flow: tracked(prefect_run_id) for flow, prefect_run_id in place.rows(
        "select flow, prefect_run_id from audit.run where parent_run_id is not null"
    )}  # fmt: skip
    assert {flow: run.state for flow, run in seen.items()} == {
        "ingest-mall": "Failed",
        "ingest-shop": "Completed",
        "ingest-weblogs": "Completed",
        "refresh-marts": "Completed",
    }
    assert all(run.name.startswith(f"{flow} ") for flow, run in seen.items())
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
