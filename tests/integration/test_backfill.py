"""Backfill: days loaded anew are replaced, never doubled; an interrupted one goes on; the calendar tells."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from stack.postgres import EmbeddedPostgres
from tests import command
from tests.pipeline import LOCK_AWAITED, Pipeline, content
from tests.weblog_lake import WeblogLake, lake_in, make_lake
from warehouse.backfill import Partition, daily_loads, read_calendar
from warehouse.db.connections import connect
from warehouse.db.locks import session_lock, transaction_lock
from warehouse.history.change_log import STAR_LOCK
from warehouse.load.replace_day import rederive
from warehouse.runs.audit import start_run

ROOT = Path(__file__).parents[2]
MONDAY, TUESDAY, WEDNESDAY = date(2024, 3, 11), date(2024, 3, 12), date(2024, 3, 13)


def log(day: date, count: int = 3, first: int = 0) -> bytes:
    """Good lines of a day, one a minute."""
    return b"".join(
        f'181.0.7.9 - ana [{day:%d/%b/%Y}:10:{number:02}:00 +0000] "GET /product/{number} HTTP/1.1" 200 {100 + number} '
        '"-" "curl/8"\n'.encode()
        for number in range(first, first + count)
    )


class Place:
    """A shop with an order a day, a landing folder with a file a day, and `dwh` on both."""

    def __init__(self, pipeline: Pipeline, lake: WeblogLake, folder: Path) -> None:
        self.pipeline, self.lake, self.folder = pipeline, lake, folder
        self.environment = {n: v for n, v in os.environ.items() if not n.startswith(("PREFECT_", "DWH_"))} | {
            "DWH_HOME": str(folder / "home"),
            "DWH_LAKE": str(folder / "lake"),
            "DWH_SHOP_URL": pipeline.shop_url,
            "DWH_WAREHOUSE_URL": pipeline.warehouse_url,
        }

    def start(self, *arguments: str) -> command.Command:
        return command.start(*arguments, environment=self.environment)

    def dwh(self, *arguments: str) -> tuple[int, str, str]:
        done = command.run(*arguments, environment=self.environment)
        return done.returncode, done.stdout, done.stderr

    def backfill(self, first: date, last: date, *arguments: str) -> tuple[int, str]:
        code, _, told = self.dwh("backfill", "--from", str(first), "--to", str(last), *arguments)
        return code, told

    def calendar(self, first: date = MONDAY, last: date = WEDNESDAY) -> dict[str, list[str]]:
        """Status and rows of each day, by source."""
        told: dict[str, list[str]] = {}
        for one in self.partitions(first, last):
            told.setdefault(one.source, []).append(
                one.status if one.rows is None else f"{one.status} {one.rows}"
            )
        return told

    def partitions(self, first: date, last: date) -> list[Partition]:
        settings = self.lake.settings.with_source_url("shop", self.pipeline.shop_url)
        return read_calendar(self.pipeline.warehouse, daily_loads(settings), first, last)

    def everything(self) -> dict[str, Any]:
        """Mirrors, star and web logs, but for the runs that wrote them."""
        web = self.lake.content()
        return {**content(self.pipeline.warehouse), "logs": web["weblog"], "lines": web["file_part"]}

    def tries(self) -> list[tuple[Any, ...]]:
        return self.pipeline.rows(
            "select feed, partition_date, status, rows_loaded from audit.partition_load order by run_id, 2, 1"
        )


def open_days(shop_url: str) -> None:
    """An order a day."""
    # It only sells: nothing is loaded.
    pipeline = Pipeline(shop_url, shop_url)
    pipeline.open_shop()
    for number, day in enumerate((MONDAY, TUESDAY, WEDNESDAY), start=1):
        pipeline.order(number, f"{day} 12:00+00")
    pipeline.close()


def open_lake(folder: Path, warehouse_url: str) -> WeblogLake:
    """A file a day."""
    lake = make_lake(folder, warehouse_url)
    for day in (MONDAY, TUESDAY, WEDNESDAY):
        lake.put(f"access-{day}.log", log(day))
    return lake


@pytest.fixture
def place(pipeline: Pipeline, tmp_path: Path) -> Place:
    open_days(pipeline.shop_url)
    return Place(pipeline, open_lake(tmp_path, pipeline.warehouse_url), tmp_path)


@pytest.fixture(scope="session")
def loaded_days(
    postgres: EmbeddedPostgres, template: Callable[..., str], shop_template: str, warehouse_template: str
) -> tuple[str, str, Path]:
    """Names of a shop and of a warehouse that the daily flow has loaded it into, and the folder of its files."""
    folder = postgres.folder / "loaded days"
    shop = template("template_days_shop", open_days, shop_template)

    def load(url: str) -> None:
        place = Place(Pipeline(postgres.url(shop), url), open_lake(folder, url), folder)
        assert place.dwh("run", "daily")[0] == 0
        place.pipeline.close()

    return shop, template("template_days_warehouse", load, warehouse_template), folder


@pytest.fixture
def loaded(
    database: Callable[[str], str], loaded_days: tuple[str, str, Path], tmp_path: Path
) -> Iterator[Place]:
    """A place that the daily flow has loaded: copies of its databases and files."""
    shop, warehouse, folder = loaded_days
    pipeline = Pipeline(database(shop), database(warehouse))
    pipeline.adopt()
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    place = Place(pipeline, lake_in(tmp_path, pipeline.warehouse_url), tmp_path)
    assert place.calendar() == {
        "shop": ["loaded 1"] * 3,
        "weblogs": ["loaded 3"] * 3,
        "marts": ["loaded"] * 3,
    }
    yield place
    pipeline.close()


def test_loading_days_again_changes_nothing(loaded: Place) -> None:
    before = loaded.everything()
    code, told = loaded.backfill(MONDAY, WEDNESDAY, "--parallel", "2")
    assert code == 0, told
    assert loaded.everything() == before
    loaded.lake.assert_consistent()
    assert loaded.tries() == [
        (feed, day, "loaded", rows)
        for day in (MONDAY, TUESDAY, WEDNESDAY)
        for feed, rows in (("shop", 1), ("weblogs", 3))
    ]
    assert "[6/6]" in told and "weblogs 2024-03-12 → 3 rows" in told


def test_a_day_is_replaced_by_what_is_there_now(loaded: Place) -> None:
    """A corrected file in place of a loaded one; facts that were lost, bent, or moved to another day."""
    whole = loaded.everything()
    loaded.lake.put(f"access-{TUESDAY}.log", log(TUESDAY, 4, first=2))
    warehouse = loaded.pipeline.warehouse
    warehouse.execute("delete from dwh.fact_order_item where order_id = '1'")
    warehouse.execute("update dwh.fact_order_item set quantity = 77 where order_id = '2'")
    warehouse.execute(
        "update dwh.fact_order_item set ordered_at = ordered_at - interval '1 day' where order_id = '3'"
    )
    assert loaded.calendar()["weblogs"] == ["loaded 3", "stale 3", "loaded 3"]

    assert loaded.backfill(MONDAY, TUESDAY)[0] == 0
    now = loaded.everything()
    assert now["dwh.fact_order_item"] == whole["dwh.fact_order_item"]
    assert loaded.calendar() == {
        "shop": ["loaded 1"] * 3,
        "weblogs": ["loaded 3", "loaded 4", "loaded 3"],
        "marts": ["loaded"] * 3,
    }
    loaded.lake.assert_consistent()
    sizes = loaded.pipeline.rows(
        f"select response_bytes from dwh.fact_weblog where requested_at::date = '{TUESDAY}' order by 1"
    )
    assert sizes == [(102,), (103,), (104,), (105,)]


def test_a_correction_that_was_ingested_beside_the_old_lines_is_put_right(loaded: Place) -> None:
    loaded.lake.put(f"access-{TUESDAY}.log", log(TUESDAY, 4, first=2))
    assert loaded.dwh("run", "weblogs")[0] == 0
    assert loaded.calendar()["weblogs"][1] == "loaded 7", (
        "another content is another file, as after a rotation"
    )
    assert loaded.backfill(TUESDAY, TUESDAY, "--only", "weblogs")[0] == 0
    assert loaded.calendar()["weblogs"] == ["loaded 3", "loaded 4", "loaded 3"]
    loaded.lake.assert_consistent()


def test_facts_that_get_another_member_are_counted_by_the_day_that_gave_it(shop: Pipeline) -> None:
    shop.order(1, "2024-03-10", {}, {})
    shop.order(2, "2024-03-11")
    shop.capture()
    shop.warehouse.execute("update dwh.fact_order_item set customer_key = 0 where order_id = '1'")
    shop.warehouse.execute("update dwh.fact_order_item set quantity = 9 where order_id = '2'")
    with start_run(shop.warehouse_url, flow="backfill") as run:
        loads = [
            load for day in (date(2024, 3, 10), date(2024, 3, 11)) for load in rederive(run, shop.source, day)
        ]
    assert [
        (load.table_name, load.rows_updated, load.rows_rekeyed) for load in loads if load.rows_updated
    ] == [
        ("dwh.fact_order_item", 2, 2),
        ("dwh.fact_order_item", 1, 0),
    ]


def test_what_the_landing_folder_no_longer_has_stays(loaded: Place) -> None:
    (loaded.lake.landing / f"access-{MONDAY}.log").unlink()
    code, told = loaded.backfill(MONDAY, TUESDAY, "--only", "weblogs")
    assert code == 0
    assert f"the file is gone from the landing folder: access-{MONDAY}.log" in told
    assert loaded.calendar()["weblogs"] == ["loaded 3"] * 3


def test_only_what_is_missing(place: Place) -> None:
    for name in (MONDAY, WEDNESDAY):
        (place.lake.landing / f"access-{name}.log").rename(place.folder / f"{name}")
    assert place.dwh("run", "daily")[0] == 0
    for name in (MONDAY, WEDNESDAY):
        (place.folder / f"{name}").rename(place.lake.landing / f"access-{name}.log")
    assert place.calendar()["weblogs"] == ["missing 0", "loaded 3", "missing 0"]
    assert place.backfill(MONDAY, WEDNESDAY, "--missing")[0] == 0
    assert place.tries() == [("weblogs", MONDAY, "loaded", 3), ("weblogs", WEDNESDAY, "loaded", 3)]
    assert place.calendar()["weblogs"] == ["loaded 3"] * 3
    code, told = place.backfill(MONDAY, WEDNESDAY, "--missing")
    assert (code, "0 days to load" in told) == (0, True)


def test_a_backfill_that_was_killed_goes_on_where_it_was(loaded: Place) -> None:
    before = loaded.everything()
    with session_lock(loaded.pipeline.warehouse, "weblogs"):
        killed = loaded.start("backfill", "--from", str(MONDAY), "--to", str(WEDNESDAY), "--parallel", "2")
        loaded.pipeline.wait_for("select from audit.partition_load having count(*) = 2")
        loaded.pipeline.wait_for(LOCK_AWAITED)
        # Two at once: the second one leaves the first alone.
        code, told = loaded.backfill(MONDAY, MONDAY)
        assert (code, "'backfill' is being loaded by dwh backfill" in told) == (1, True)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    code, told = loaded.backfill(MONDAY, WEDNESDAY)
    assert code == 0, told
    assert "4 days to load, 2 already done up to run" in told
    assert [(feed, day) for feed, day, *_ in loaded.tries()] == [
        *(("shop", day) for day in (MONDAY, TUESDAY)),
        *(("weblogs", day) for day in (MONDAY, TUESDAY)),
        ("shop", WEDNESDAY),
        ("weblogs", WEDNESDAY),
    ]
    assert loaded.everything() == before
    loaded.lake.assert_consistent()
    states = loaded.pipeline.rows(
        "select status, resumes_run_id is not null from audit.run where flow = 'backfill' order by run_id"
    )
    assert states == [("crashed", False), ("skipped", False), ("succeeded", True)]


def test_a_day_that_fails_is_reported_and_keeps_no_other_from_being_loaded(loaded: Place) -> None:
    before = loaded.everything()
    warehouse = loaded.pipeline.warehouse
    warehouse.execute(
        f"alter table dwh.fact_weblog add constraint no_tuesday check (requested_at::date <> '{TUESDAY}') not valid"
    )
    code, told = loaded.backfill(MONDAY, WEDNESDAY)
    assert (code, "weblogs 2024-03-12 failed: " in told, "no_tuesday" in told) == (1, True, True), told
    assert loaded.calendar() == {
        "shop": ["loaded 1"] * 3,
        "weblogs": ["loaded 3", "failed 3", "loaded 3"],
        "marts": ["loaded"] * 3,
    }
    assert loaded.everything() == before
    warehouse.execute("alter table dwh.fact_weblog drop constraint no_tuesday")
    code, told = loaded.backfill(MONDAY, WEDNESDAY, "--missing")
    assert (code, loaded.calendar()["weblogs"]) == (0, ["loaded 3"] * 3)
    assert loaded.tries()[6:] == [("weblogs", TUESDAY, "loaded", 3)]


def test_a_file_of_several_days_is_loaded_once(loaded: Place) -> None:
    for day in (MONDAY, TUESDAY, WEDNESDAY):
        (loaded.lake.landing / f"access-{day}.log").unlink()
    sunday = MONDAY - timedelta(days=1)
    loaded.lake.put("rest.log", log(sunday, 2) + b"bad line\n" + log(sunday - timedelta(days=1), 2))
    assert loaded.backfill(sunday - timedelta(days=1), sunday)[0] == 0
    assert loaded.calendar(sunday - timedelta(days=1), sunday)["weblogs"] == ["loaded 2", "loaded 2"]
    parts = loaded.pipeline.rows(
        "select count(*), count(distinct run_id) from audit.load where table_name = 'dwh.fact_weblog' and run_id > 4"
    )
    assert parts == [(1, 1)]
    loaded.lake.assert_consistent()


def test_a_day_of_the_star_waits_for_whoever_writes_the_star(loaded: Place) -> None:
    url = loaded.pipeline.warehouse_url
    with ThreadPoolExecutor() as pool, connect(url) as publishing, start_run(url, flow="backfill") as run:
        transaction_lock(publishing, STAR_LOCK)
        waiting = pool.submit(rederive, run, loaded.pipeline.source, date(2024, 3, 11))
        loaded.pipeline.wait_for(LOCK_AWAITED)
        assert not waiting.done()
        publishing.rollback()
        assert waiting.result(120)


def test_the_calendar_of_today_and_of_a_capture_that_fails(loaded: Place) -> None:
    warehouse = loaded.pipeline.warehouse
    ((today,),) = warehouse.execute(
        "select distinct (captured_at at time zone 'UTC')::date from audit.watermark"
    ).fetchall()
    days = [today - timedelta(days=1), today]
    assert loaded.calendar(*days)["shop"] == ["loaded 0", "partial 0"]
    assert loaded.dwh("run", "shop", "--dry-run")[0] == 0
    assert loaded.calendar(*days)["shop"] == ["loaded 0", "partial 0"]
    warehouse.execute("update audit.watermark set captured_at = captured_at - interval '1 day'")
    assert loaded.calendar(*days)["shop"] == ["partial 0", "missing 0"]
    loaded.pipeline.shop.execute("alter table order_item rename to gone")
    assert loaded.dwh("run", "shop")[0] == 1
    assert loaded.calendar(*days)["shop"] == ["failed 0", "failed 0"]
    warehouse.execute(
        "update dwh.fact_order_item set run_id = (select max(run_id) from audit.run) where order_id = '1'"
    )
    warehouse.execute(
        """
        insert into audit.load (run_id, source, table_name, rows_read, rows_inserted, rows_updated, rows_expired,
            rows_deleted, rows_unchanged, rows_quarantined, rows_cursor_missed, seconds)
        select max(run_id), 'shop', 'dwh.fact_order_item', 0, 0, 1, 0, 0, 0, 0, 0, 0 from audit.run
        """
    )
    assert loaded.calendar()["marts"] == ["stale", "loaded", "loaded"]
    code, output, _ = loaded.dwh("status", "--days")
    assert code == 0
    assert f"{today:%Y-%m-%d %a}" in output and output.count("missing") >= 14
    assert "weblogs" in output
    # One message for all days that a failure keeps from being complete.
    assert output.count(f"shop 2 days from {days[0]} to {days[1]}: run ") == 1


@pytest.mark.parametrize(
    ("first", "last", "more", "said"),
    [
        ("2024-03-12", "2024-03-11", [], "2024-03-12 is after 2024-03-11."),
        ("2024-03-12", "2999-01-01", [], "2999-01-01 is in the future."),
        ("1900-01-01", "2024-03-11", [], "more than 3,660 days"),
        ("2024-02-30", "2024-03-11", [], "2024-02-30"),
        ("yesterday", "2024-03-11", [], "yesterday"),
        ("2024-03-11", "2024-03-11", ["--only", "breakfast"], "There is no source 'breakfast'."),
        ("2024-03-11", "2024-03-11", ["--only", "orders"], "Feed 'orders' has no files"),
        ("2024-03-11", "2024-03-11", ["--only", "northwind"], "DWH_NORTHWIND_URL is not set."),
        ("2024-03-11", "2024-03-11", ["--parallel", "0"], "--parallel"),
    ],
)
def test_days_that_make_no_sense_are_wrong_usage(
    place: Place, first: str, last: str, more: list[str], said: str
) -> None:
    code, _, told = place.dwh("backfill", "--from", first, "--to", last, *more)
    assert (code, said in told, "Traceback" in told) == (2, True, False), told
    assert place.pipeline.run_states() == []
