"""A day that failed at a step goes on from that step; what had committed is not done twice. Without Prefect."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from generators import geoip
from tests import command
from tests.pipeline import LOCK_AWAITED, Pipeline
from tests.weblog_lake import lines
from warehouse.db.locks import session_lock

ALL = ["ingest-shop", "ingest-weblogs", "refresh-marts"]


class Day:
    """`dwh run daily` on a shop, a landing folder and a warehouse of one test."""

    def __init__(self, pipeline: Pipeline, folder: Path) -> None:
        self.pipeline, self.folder = pipeline, folder
        self.environment = {n: v for n, v in os.environ.items() if not n.startswith(("PREFECT_", "DWH_"))} | {
            "DWH_HOME": str(folder / "home"),
            "DWH_LAKE": str(folder / "lake"),
            "DWH_SHOP_URL": pipeline.shop_url,
            "DWH_WAREHOUSE_URL": pipeline.warehouse_url,
        }
        landing = folder / "lake" / "landing" / "weblogs"
        landing.mkdir(parents=True)
        (landing / "access.log").write_bytes(lines(1, 10))

    def start(self, *arguments: str) -> command.Command:
        return command.start("run", "daily", *arguments, environment=self.environment)

    def run(self, *arguments: str) -> tuple[int, str]:
        """Exit code and what was told."""
        process = self.start(*arguments)
        _, stderr = process.communicate()
        return process.wait(), stderr

    def mend(self) -> None:
        """What the web logs lacked: a file that knows addresses' countries."""
        geoip.write(self.folder / "home" / "geoip" / "demo.mmdb")

    def days(self) -> list[tuple[str, list[str]]]:
        """How each day ended, and its steps in their order."""
        return [
            (status, list(steps))
            for status, steps in self.pipeline.rows(
                """
                select day.status, coalesce(array_agg(step.flow || ' ' || step.status order by step.run_id)
                    filter (where step.run_id is not null), '{}')
                from audit.run as day left join audit.run as step on step.parent_run_id = day.run_id
                where day.flow = 'daily-warehouse' group by day.run_id order by day.run_id
                """
            )
        ]


@pytest.fixture
def day(pipeline: Pipeline, tmp_path: Path) -> Iterator[Day]:
    pipeline.open_shop()
    pipeline.order(1, "2024-03-10")
    yield Day(pipeline, tmp_path)


def succeeded(*names: str) -> list[str]:
    return [f"{name} succeeded" for name in names]


def test_a_day_goes_on_from_the_step_that_failed(day: Day) -> None:
    assert day.run()[0] == 1
    day.mend()
    code, told = day.run()
    assert (code, day.days()) == (
        0,
        [
            ("failed", ["ingest-shop succeeded", "ingest-weblogs failed", "refresh-marts succeeded"]),
            ("succeeded", succeeded("ingest-weblogs", "refresh-marts")),
        ],
    )
    assert "Resuming run 1 with ingest-weblogs, refresh-marts; already done: ingest-shop (run 2)" in told
    assert day.run("--from", "ingest-weblogs")[0] == 0
    assert day.days()[2] == ("succeeded", succeeded("ingest-weblogs", "refresh-marts"))
    rows = day.pipeline.rows(
        "select status, rows_read, rows_inserted from mart.job_run where flow = 'daily-warehouse' order by run_id"
    )
    assert [row[0] for row in rows] == ["failed", "succeeded", "succeeded"]
    assert rows[1][1:] == (10, 10), "a day shows what its steps have done"
    assert rows[0][2] == 6


def test_a_day_that_was_killed_goes_on_and_what_it_had_published_stays(day: Day) -> None:
    day.mend()
    with session_lock(day.pipeline.warehouse, "feed weblogs"):
        process = day.start()
        day.pipeline.wait_for(LOCK_AWAITED)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert day.run()[0] == 0
    assert day.days() == [
        ("crashed", ["ingest-shop succeeded", "ingest-weblogs crashed"]),
        ("succeeded", succeeded("ingest-weblogs", "refresh-marts")),
    ]
    assert len(day.pipeline.facts()) == 1
    assert day.pipeline.rows("select count(*) from dwh.fact_weblog") == [(10,)]


def test_what_failed_long_ago_is_another_day(day: Day) -> None:
    day.run()
    day.pipeline.warehouse.execute("update audit.run set started_at = started_at - interval '13 hours'")
    day.mend()
    code, told = day.run("--log-format", "json")
    assert (code, day.days()[1]) == (0, ("succeeded", succeeded(*ALL)))
    # A line for each load, that names the run which the audit trail knows.
    lines = [json.loads(line) for line in told.splitlines()]
    assert all(line.keys() >= {"at", "level", "message"} for line in lines)
    told_by = {line["run_id"] for line in lines if " → dwh.fact_weblog" in line["message"]}
    assert [(run_id,) for run_id in told_by] == day.pipeline.rows(
        "select run_id from audit.load where table_name = 'dwh.fact_weblog'"
    )


def test_a_step_that_is_none_is_wrong_usage(day: Day) -> None:
    code, told = day.run("--from", "breakfast")
    assert (code, day.days()) == (2, [])
    assert (
        "daily-warehouse has no step 'breakfast'.\nWhat to do: Its steps are: ingest-shop, ingest-weblogs"
        in told
    )
    assert "Traceback" not in told
