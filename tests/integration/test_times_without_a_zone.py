"""Times and dates without a zone, in files of feeds and in tables of databases, are meant in the company's zone."""

import json
import os
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pandas as pd
import psycopg
import pytest

from tests.integration.test_feed_changes import declared
from tests.integration.test_feeds import FeedPipeline, an_order
from tests.integration.test_foreign_schemas import MARKET_PRODUCT, MARKET_SQL, MARKET_TOML, MARKETPLACE
from tests.integration.test_foreign_schemas import declared as declared_database
from tests.integration.test_rebuild_feeds import Lake, open_lake
from tests.integration.test_table_feeds import workbook
from tests.pipeline import Pipeline, Row
from tests.real.northwind_source import csv_folder, load_northwind
from warehouse.feeds import second_reader
from warehouse.load.replace_day import rederive
from warehouse.migrations.revisions import upgrade
from warehouse.rebuild.as_of import rebuild_as_of
from warehouse.reconcile.reconcile import reconcile_feed, reconcile_source
from warehouse.runs.audit import start_run
from warehouse.sources.registry import read_source

BUENOS_AIRES, NEW_YORK = "America/Argentina/Buenos_Aires", "America/New_York"
CREATED = "select lead_id, created_at::text from raw.leads_lead order by 1"
DAYS = "select lead_id, created_date::text from mart.leads order by 1"
HEADER = "lead_id,name,email,country,interest,source,created\n"


def a_lead(number: object, created: str, source: str = "Fair") -> str:
    return f"L-{number},Ana,{number}@example.com,AR,Toys,{source},{created}\n"


@pytest.fixture
def lake(shop_url: str, warehouse_url: str, tmp_path: Path) -> Lake:
    return open_lake(shop_url, warehouse_url, tmp_path / "lake")


def test_leads_are_of_the_day_that_their_list_says_however_it_writes_it(lake: Lake) -> None:
    upgrade(lake.leads.warehouse_url, time_zone=BUENOS_AIRES)
    written = ("2026-10-17", "17/10/2026", "17.10.2026", "2026/10/17", "17 Oct 2026", "17 October 2026",
               "17/10/2026 23:30", "2026-10-17T23:30:00", "2026-10-17T23:30:00Z", "2026-10-17 23:30:00+09:00",
               "2026-10-17T23:30:00-03:00")  # fmt: skip
    lake.leads.land("leads.csv", HEADER + "".join(map(a_lead, range(10, 21), written)))
    row = ("x@example.com", "AR", "Toys", "Fair")
    lake.leads.land(
        "leads.xlsx",
        workbook(
            Leads=[["lead_id", "name", "email", "country", "interest", "source", "created"],
                   ["L-30", "Ana", *row, date(2026, 10, 17)], ["L-31", "Ana", *row, pd.Timestamp("2026-10-17")],
                   ["L-32", "Ana", *row, pd.Timestamp("2026-10-17 23:30")], ["L-33", "Ana", *row, "17/10/2026"]],
        ),
    )  # fmt: skip
    lake.leads.run()
    midnight, night = "2026-10-17 03:00:00+00", "2026-10-18 02:30:00+00"
    moments = [midnight] * 6 + [night] * 2 + ["2026-10-17 23:30:00+00", "2026-10-17 14:30:00+00", night]
    assert lake.leads.rows(CREATED) == [
        *((f"L-{number}", moment) for number, moment in enumerate(moments, start=10)),
        ("L-30", midnight), ("L-31", midnight), ("L-32", night), ("L-33", midnight),
    ]  # fmt: skip
    assert {day for _, day in lake.leads.rows(DAYS)} == {"2026-10-17"}
    assert lake.leads.rows("select distinct created_date_key from dwh.fact_lead") == [(20261017,)]
    with start_run(lake.leads.warehouse_url, flow="reconcile") as run:
        verdicts = reconcile_feed(run, lake.leads.source, repair=False)
    assert [str(one) for verdict in verdicts for one in verdict.differences] == []
    lake.close()


def test_every_way_into_the_mirror_reads_a_time_alike(lake: Lake) -> None:
    """Loaded, corrected by hand in what the quarantine shows or anew, rebuilt from files, and built as of a run."""
    upgrade(lake.leads.warehouse_url, time_zone=BUENOS_AIRES)
    lake.leads.land(
        "a.csv", HEADER + a_lead(1, "17/10/2026") + a_lead(2, "17/10/2026", source="") + a_lead(3, "soon")
    )
    lake.leads.run()
    assert lake.leads.rows(CREATED) == [("L-1", "2026-10-17 03:00:00+00")]
    refused = lake.leads.rows("select quarantine_id, row_data from audit.quarantine order by row_key")
    for (entry, record), corrected in zip(
        refused, ({"lead_source": "Fair"}, {"created_at": "2026-10-17"}), strict=True
    ):
        lake.leads.edit(entry, {**record, **corrected})
    waiting, run_id = lake.leads.replay(*(entry for entry, _ in refused))
    same = [(f"L-{number}", "2026-10-17 03:00:00+00") for number in (1, 2, 3)]
    assert (waiting, lake.leads.rows(CREATED)) == (0, same)
    lake.leads.warehouse.execute("drop table raw.leads_lead cascade")
    lake.rebuild()
    assert lake.leads.rows(CREATED) == same
    with start_run(lake.leads.warehouse_url, flow="rebuild", archive=True) as run:
        rebuild_as_of(run, lake.archive, [lake.leads.source], run_id, ["raw.leads_lead"])
    assert lake.leads.rows(CREATED.replace("raw.", f"rebuild_{run_id}.")) == same
    lake.close()


def test_a_list_that_was_read_in_another_zone_is_read_again_by_a_rebuild(lake: Lake) -> None:
    lake.leads.land("a.csv", HEADER + a_lead(1, "17/10/2026"))
    lake.leads.run()
    upgrade(lake.leads.warehouse_url, time_zone=BUENOS_AIRES)
    lake.leads.run()
    assert lake.leads.rows(DAYS) == [("L-1", "2026-10-16")]
    lake.rebuild("raw.leads_lead", "dwh.fact_lead")
    assert lake.leads.rows(DAYS) == [("L-1", "2026-10-17")]
    lake.leads.run()
    assert lake.leads.rows("select created_date_key from dwh.fact_lead") == [(20261017,)]
    lake.close()


# Clocks of New York skip 02:30 on 10 March 2024, and show 01:30 twice on 3 November: the first time is meant.
MOMENTS = {
    "2024-03-10T01:59:59": "2024-03-10 06:59:59+00",
    "2024-03-10T02:30:00": "2024-03-10 07:30:00+00",
    "2024-03-10T03:00:00": "2024-03-10 07:00:00+00",
    "2024-11-03T01:30:00": "2024-11-03 05:30:00+00",
    "2024-11-03T02:00:00": "2024-11-03 07:00:00+00",
    "2024-11-03": "2024-11-03 04:00:00+00",
    "2024-11-03T01:30:00-05:00": "2024-11-03 06:30:00+00",
}


@pytest.mark.parametrize("zone", [None, NEW_YORK])
def test_both_processes_read_times_in_the_zone_of_the_feed_or_else_the_company(
    warehouse_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zone: str | None
) -> None:
    monkeypatch.setattr("warehouse.feeds.json_records._BLOCK", 1000)
    monkeypatch.setattr(second_reader, "WORTH_A_PROCESS", 0)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    upgrade(warehouse_url, time_zone=BUENOS_AIRES if zone else NEW_YORK)
    orders = FeedPipeline(warehouse_url, tmp_path / "lake")
    if zone:
        orders.source = declared(tmp_path, f'time_zone = "{zone}"')
    orders.land(
        "a.json", [an_order(f"P-{number:03}-{at}", order_dt=at) for number in range(9) for at in MOMENTS]
    )
    orders.run()
    assert orders.rows("select split_part(order_id, '-', 2), substr(order_id, 7), order_dt::text "
                       "from raw.orders_order order by order_id") == sorted(
        (f"{number:03}", at, moment) for number in range(9) for at, moment in MOMENTS.items()
    )  # fmt: skip
    assert orders.rows("select count(*)::int from audit.quarantine") == [(0,)]
    orders.warehouse.close()


@pytest.mark.parametrize(
    ("zone", "times", "dates"),
    [
        (BUENOS_AIRES, ("2024-03-11 01:30:00+00", "2024-03-10 05:30:00+00"), "2024-03-10 03:00:00+00"),
        # New York's clocks go forward at 02:00.
        (NEW_YORK, ("2024-03-11 02:30:00+00", "2024-03-10 07:30:00+00"), "2024-03-10 05:00:00+00"),
    ],
)
def test_a_time_or_date_of_a_database_is_of_the_companys_day(
    pipeline: Pipeline, tmp_path: Path, zone: str, times: tuple[str, str], dates: str
) -> None:
    """Also in a backfill, which looks for the lines of a UTC day."""
    pipeline.do(
        "drop schema public cascade", "create schema public", MARKETPLACE,
        "alter table orders add ordered date",
        "update orders set order_purchase_timestamp = '2024-03-10 22:30', ordered = '2024-03-10'",
        "update orders set order_purchase_timestamp = '2024-03-10 02:30' where order_id = 'o2'",
    )  # fmt: skip
    upgrade(pipeline.warehouse_url, time_zone=zone)
    ordered = "select distinct order_id, ordered_at::text, ordered_date::text from mart.sales order by 1"
    for column, moments in (("order_purchase_timestamp", times), ("ordered", (dates, dates))):
        utc = "orders.order_purchase_timestamp at time zone 'UTC'"
        assert utc in MARKET_SQL
        files = {"source.toml": MARKET_TOML, "conform/order_item.sql": MARKET_SQL.replace(utc, f"orders.{column}"),
                 "conform/product.sql": MARKET_PRODUCT}  # fmt: skip
        source = declared_database(tmp_path / column, "olist", files)
        pipeline.capture(source=source)
        expected = [(order, at, "2024-03-10") for order, at in zip(("o1", "o2"), moments, strict=True)]
        assert pipeline.rows(ordered) == expected
        pipeline.warehouse.execute("delete from dwh.fact_order_item where order_id = 'o1'")
        with start_run(pipeline.warehouse_url, flow="backfill") as run:
            rederive(run, source, date.fromisoformat(moments[0][:10]))
        assert pipeline.rows(ordered) == expected
    with start_run(pipeline.warehouse_url, flow="reconcile") as reconciling:
        verdicts = reconcile_source(reconciling, source, pipeline.shop_url, repair=False)
    assert [str(one) for verdict in verdicts for one in verdict.differences] == []


def test_orders_of_northwind_are_of_their_date(
    empty_database_url: Callable[[], str], database: Callable[[str], str], warehouse_template: str
) -> None:
    northwind = Pipeline(empty_database_url(), database(warehouse_template), read_source("northwind"))
    load_northwind(northwind.shop_url, csv_folder())
    upgrade(northwind.warehouse_url, time_zone=BUENOS_AIRES)
    northwind.capture()
    days: list[Row] = northwind.rows(
        "select distinct order_id, ordered_date::text from mart.sales where order_id <= '10252' order by 1"
    )
    with psycopg.connect(northwind.shop_url) as shop:
        dates = shop.execute(
            "select order_id::text, order_date::text from orders where order_id <= 10252 order by 1"
        ).fetchall()
    assert days == dates != []
    northwind.close()


def test_a_feed_names_a_zone_that_there_is(tmp_path: Path) -> None:
    from warehouse.errors import DeclarationError

    for zone in ("Mars/Base", "../x", ""):
        with pytest.raises(DeclarationError) as refused:
            declared(tmp_path, f"time_zone = {json.dumps(zone)}")
        assert refused.value.what.endswith(f"source.toml [feed]: There is no time zone '{zone}'.")
        assert refused.value.hint == "As in the tz database: Europe/Berlin, UTC."
