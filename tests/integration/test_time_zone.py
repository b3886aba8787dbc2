"""Days and months in the company's own time zone: marts, date keys and counts of requests, daylight saving included."""

import os
import subprocess
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest
from psycopg import sql

from tests import command
from tests.marts import refresh
from tests.pipeline import Pipeline, Row, content
from tests.weblog_lake import ARGENTINA, make_lake
from warehouse.db.connections import connect
from warehouse.db.schema_version import ensure_migrated
from warehouse.errors import SchemaOutdated, SettingsError
from warehouse.migrations.revisions import upgrade
from warehouse.reconcile.reconcile import reconcile_source
from warehouse.runs.audit import start_run
from warehouse.settings import Settings

NEW_YORK, MADRID, KOLKATA = "America/New_York", "Europe/Madrid", "Asia/Kolkata"
# Clocks of New York go forward on 10 March 2024 at 07:00 UTC and back on 3 November at 06:00 UTC, those of Madrid on 31
# March and 27 October at 01:00 UTC. By moment, the day there, and in Kolkata, which is half an hour off.
ORDERS = {
    "2024-03-10 04:59:59.999999+00": ("2024-03-09", "2024-03-10", "2024-03-10"),
    "2024-03-10 05:00:00+00": ("2024-03-10", "2024-03-10", "2024-03-10"),
    "2024-03-11 03:59:59+00": ("2024-03-10", "2024-03-11", "2024-03-11"),
    "2024-03-11 04:00:00+00": ("2024-03-11", "2024-03-11", "2024-03-11"),
    "2024-03-30 22:59:59+00": ("2024-03-30", "2024-03-30", "2024-03-31"),
    "2024-03-30 23:00:00+00": ("2024-03-30", "2024-03-31", "2024-03-31"),
    "2024-03-31 21:59:59+00": ("2024-03-31", "2024-03-31", "2024-04-01"),
    "2024-03-31 22:00:00+00": ("2024-03-31", "2024-04-01", "2024-04-01"),
    "2024-10-27 22:59:59+00": ("2024-10-27", "2024-10-27", "2024-10-28"),
    "2024-10-27 23:00:00+00": ("2024-10-27", "2024-10-28", "2024-10-28"),
    "2024-11-03 03:59:59+00": ("2024-11-02", "2024-11-03", "2024-11-03"),
    "2024-11-03 04:00:00+00": ("2024-11-03", "2024-11-03", "2024-11-03"),
    "2024-11-04 04:59:59+00": ("2024-11-03", "2024-11-04", "2024-11-04"),
    "2024-11-04 05:00:00+00": ("2024-11-04", "2024-11-04", "2024-11-04"),
    "2024-12-31 18:29:59+00": ("2024-12-31", "2024-12-31", "2024-12-31"),
    "2024-12-31 18:30:00+00": ("2024-12-31", "2024-12-31", "2025-01-01"),
}
ZONES = (NEW_YORK, MADRID, KOLKATA)
OTHERS = [pytest.param(zone, marks=pytest.mark.slow) for zone in (MADRID, KOLKATA)]


def days(zone: str) -> list[date]:
    """The day of each order in a zone."""
    return [date.fromisoformat(there[ZONES.index(zone)]) for there in ORDERS.values()]


def take_orders(shop: Pipeline) -> None:
    for number, moment in enumerate(ORDERS, start=1):
        shop.order(number, moment)


def sold(shop: Pipeline) -> list[Row]:
    """Every sale: day, month and date key."""
    return shop.rows(
        """
        select sales.ordered_date, sales.ordered_month, fact.ordered_date_key, calendar.date
        from mart.sales inner join dwh.fact_order_item as fact using (source_system, order_id, line_id)
        left join dwh.dim_date as calendar on fact.ordered_date_key = calendar.date_key
        order by sales.ordered_at
        """
    )


def expected(zone: str) -> list[Row]:
    return [(day, day.replace(day=1), int(f"{day:%Y%m%d}"), day) for day in days(zone)]


@pytest.mark.parametrize("zone", [NEW_YORK, *OTHERS])
def test_sales_are_of_the_days_and_months_of_the_zone(shop: Pipeline, zone: str) -> None:
    upgrade(shop.warehouse_url, time_zone=zone)
    take_orders(shop)
    shop.capture()
    assert sold(shop) == expected(zone)
    months = sorted({day.replace(day=1) for day in days(zone)})
    counted = [(month, sum(day.replace(day=1) == month for day in days(zone))) for month in months]
    refresh(shop.warehouse_url)
    assert shop.rows("select month, order_count from mart.sales_by_month order by month") == counted
    last = months[-1]
    twelve = [pair for pair in counted if last.replace(year=last.year - 1) <= pair[0] < last]
    assert (
        shop.rows("select month, order_count from mart.monthly_sales where order_count > 0 order by 1")
        == twelve
    )
    # Whatever the session's own zone.
    shop.warehouse.execute("set timezone = 'Pacific/Auckland'")
    assert shop.rows("select ordered_date from mart.sales order by ordered_at") == [
        (day,) for day in days(zone)
    ]


def test_another_zone_reaches_what_was_loaded_and_back(
    shop: Pipeline, database: Callable[[str], str], warehouse_template: str
) -> None:
    take_orders(shop)
    shop.capture()
    refresh(shop.warehouse_url)
    in_utc, before = (
        content(shop.warehouse),
        shop.rows("select month, order_count from mart.monthly_sales order by 1"),
    )
    assert upgrade(shop.warehouse_url, time_zone=KOLKATA)[0] == (
        f"days were counted in time zone UTC, and are in {KOLKATA} now"
    )
    # Marts follow at once, stored ones too; facts with the next run, and nothing else.
    assert shop.rows("select ordered_date from mart.sales order by ordered_at") == [
        (day,) for day in days(KOLKATA)
    ]
    assert shop.rows("select month, order_count from mart.monthly_sales order by 1") != before
    run = shop.capture()
    assert {name: load.reconform_reason for name, load in run.loads.items() if load.reconform_reason} == {
        "dwh.fact_order_item": "time zone is new"
    }
    moved = sum(
        day != date.fromisoformat(moment[:10]) for moment, day in zip(ORDERS, days(KOLKATA), strict=True)
    )
    assert run.counts("dwh.fact_order_item") == {"read": 16, "updated": moved, "unchanged": 16 - moved}
    assert sold(shop) == expected(KOLKATA)
    fresh = Pipeline(shop.shop_url, database(warehouse_template))
    upgrade(fresh.warehouse_url, time_zone=KOLKATA)
    fresh.capture()
    assert sold(fresh) == sold(shop)
    fresh.close()
    with start_run(shop.warehouse_url, flow="reconcile") as reconciling:
        verdicts = reconcile_source(reconciling, shop.source, shop.shop_url, repair=False)
    assert {one.verdict for one in verdicts} == {"equal"}
    # An upgrade without a zone keeps it.
    assert upgrade(shop.warehouse_url) == []
    assert shop.rows("select mart.time_zone()") == [(KOLKATA,)]
    upgrade(shop.warehouse_url, time_zone="UTC")
    shop.capture()
    assert {name: rows for name, rows in content(shop.warehouse).items() if name != "dwh.dim_date"} == {
        name: rows for name, rows in in_utc.items() if name != "dwh.dim_date"
    }


@pytest.mark.parametrize("zone", [NEW_YORK, *OTHERS])
def test_requests_are_of_the_days_of_the_zone(tmp_path: Path, warehouse_url: str, zone: str) -> None:
    lake = make_lake(tmp_path, warehouse_url)
    lines = [
        f"{ARGENTINA} - - [{moment[8:10]}/{month(moment)}/{moment[:4]}:{moment[11:19]} +0000] "
        f'"GET /products/{number} HTTP/1.1" 200 5 "-" "-"\n'
        for number, moment in enumerate(ORDERS)
    ]
    lake.put("access.log", "".join(lines).encode())
    lake.load()
    lake.assert_consistent()
    refresh(warehouse_url)
    by_day = "select request_date, action, interaction_count from mart.interactions_by_day order by 1"
    # Loaded in UTC: a zone that comes later needs nothing to be loaded again.
    utc = [date.fromisoformat(moment[:10]) for moment in ORDERS]
    assert lake.rows(by_day) == [(day, "view", utc.count(day)) for day in sorted(set(utc))]
    upgrade(warehouse_url, time_zone=zone)
    there = days(zone)
    assert lake.rows(by_day) == [(day, "view", there.count(day)) for day in sorted(set(there))]
    assert lake.rows("select year, count(*) from mart.weblog group by 1 order by 1") == [
        (year, sum(day.year == year for day in there)) for year in sorted({day.year for day in there})
    ]
    # Backfills go by UTC days.
    assert lake.rows("select request_date, request_count from dwh.agg_weblog_day order by 1") == [
        (day, utc.count(day)) for day in sorted(set(utc))
    ]


def test_readers_ask_the_same_functions(shop: Pipeline) -> None:
    upgrade(shop.warehouse_url, time_zone=NEW_YORK)
    with connect(shop.warehouse_url) as connection:
        for role in ("dwh_reader", "dwh_loader", "dwh_marketing"):
            connection.execute(sql.SQL("set local role {}").format(sql.Identifier(role)))
            row = connection.execute(
                "select mart.time_zone(), mart.local_date('2024-03-10 04:59+00'), "
                "mart.local_time('2024-07-01 12:00+00')::text"
            ).fetchone()
            assert row == (NEW_YORK, date(2024, 3, 9), "2024-07-01 08:00:00")


def test_zone_that_nobody_knows_is_refused(
    shop: Pipeline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DWH_TIME_ZONE", "Europe/Madird")
    with pytest.raises(
        SettingsError, match=r"DWH_TIME_ZONE: 'Europe/Madird' is no time zone.*Europe/Madrid\?"
    ):
        Settings.load()
    with pytest.raises(SettingsError, match="knows no time zone 'Mars/Base'"):
        upgrade(shop.warehouse_url, time_zone="Mars/Base")
    assert shop.rows("select mart.time_zone()") == [("UTC",)]


def test_run_with_another_zone_than_the_warehouse_says_what_to_do(shop: Pipeline, tmp_path: Path) -> None:
    with pytest.raises(SchemaOutdated, match=f"time zone UTC, and DWH_TIME_ZONE is {MADRID}.*`dwh migrate`"):
        ensure_migrated(shop.warehouse_url, MADRID)
    ensure_migrated(shop.warehouse_url, None)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DWH_")}
    environment |= {
        "DWH_HOME": str(tmp_path),
        "DWH_SHOP_URL": shop.shop_url,
        "DWH_WAREHOUSE_URL": shop.warehouse_url,
        "DWH_TIME_ZONE": MADRID,
    }

    def dwh(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return command.run(*arguments, environment=environment, timeout=300)

    stopped = dwh("run", "shop")
    assert stopped.returncode == 2 and "`dwh migrate`" in stopped.stderr
    assert shop.run_states() == []
    assert dwh("migrate").returncode == 0
    assert dwh("run", "shop").returncode == 0
    assert "Days are those of UTC" in " ".join(dwh("backfill", "--help").stdout.replace("│", " ").split())


def month(moment: str) -> str:
    return date.fromisoformat(moment[:10]).strftime("%b")
