"""Several sources in one warehouse, loaded side by side: the shop, Northwind, and a declaration of the user's own."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from generators import geoip
from tests import command
from tests.pipeline import LOCK_AWAITED, Pipeline, copy_of_shop
from tests.weblog_lake import lines
from warehouse.db.connections import connect
from warehouse.db.locks import session_lock
from warehouse.sources.registry import read_source

SECRET = "s3cret-of-the-mall"
ROOT = Path(__file__).parents[2]
NORTHWIND = ROOT / "tests" / "real" / "northwind.sql"
NORTHWIND_ROWS = """
    insert into suppliers (supplier_id, company_name, country) values (1, 'Exotic Liquids', 'UK');
    insert into categories (category_id, category_name) values (1, 'Beverages');
    insert into products (product_id, product_name, supplier_id, category_id, unit_price, discontinued)
    values (1, 'Chai', 1, 1, 18, 0), (2, 'Chang', 1, 1, 19, 0);
    insert into customers (customer_id, company_name, country) values ('ALFKI', 'Alfreds Futterkiste', 'Germany');
    insert into orders (order_id, customer_id, order_date) values (10643, 'ALFKI', '1997-08-25');
    insert into order_details (order_id, product_id, unit_price, quantity, discount)
    values (10643, 1, 18, 10, 0), (10643, 2, 19, 5, 0.2)
"""
# By source its sales: order, line, product, customer, gross, net.
SALES = {
    "mall": [("1", "1", "Hammer", "Mallory", 700, 690)],
    "northwind": [
        ("10643", "1", "Chai", "Alfreds Futterkiste", 180, 180),
        ("10643", "2", "Chang", "Alfreds Futterkiste", 95, 76),
    ],
    "shop": [("1", "1", "Hammer", "Ana", 200, 190)],
}


@dataclass
class Company:
    """A warehouse and three sources of it: the shop, Northwind, and the mall, which the user has declared."""

    warehouse: Pipeline
    environment: dict[str, str]
    urls: dict[str, str]

    def start(self, *arguments: str, **changes: str) -> command.Command:
        return command.start(*arguments, environment={**self.environment, **changes})

    def run(self, *arguments: str, **changes: str) -> tuple[int, str]:
        """Exit code, and stdout with stderr."""
        process = self.start(*arguments, **changes)
        output, errors = process.communicate(timeout=300)
        return process.wait(), output + errors

    def json(self, *arguments: str) -> Any:
        process = self.start(*arguments, "--json")
        output, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        return json.loads(output)

    def sales(self) -> dict[str, list[tuple[Any, ...]]]:
        """All sales, by source."""
        rows = self.warehouse.rows(
            """
            select fact.source_system, fact.order_id, fact.line_id, product.name, customer.name,
                fact.gross_amount::int, fact.net_amount::int
            from dwh.fact_order_item as fact
            join dwh.dim_product as product using (product_key)
            join dwh.dim_customer as customer using (customer_key)
            order by 1, 2, 3
            """
        )
        return {source: [row[1:] for row in rows if row[0] == source] for source in {row[0] for row in rows}}

    def states(self) -> dict[str, str]:
        """How the last run of each flow ended."""
        return dict(
            self.warehouse.warehouse.execute(
                "select distinct on (flow) flow, status from audit.run order by flow, run_id desc"
            ).fetchall()
        )

    def whole_mirrors(self) -> list[str]:
        """Sources of which every declared table is mirrored, row for row."""
        verified = self.warehouse.rows(
            "select source, count(*), bool_and(verdict = 'equal') from mart.capture_verification group by 1 order by 1"
        )
        tables = {name: len(read_source(name).tables) for name in ("northwind", "shop")}
        tables["mall"] = tables["shop"]
        return [source for source, count, equal in verified if equal and count == tables[source]]


@pytest.fixture
def company(
    pipeline: Pipeline,
    database: Callable[[str], str],
    shop_template: str,
    empty_database_url: Callable[[], str],
    tmp_path: Path,
) -> Iterator[Company]:
    pipeline.open_shop()
    pipeline.order(1, "2024-03-10")
    with closing(Pipeline(database(shop_template), pipeline.warehouse_url)) as mall:
        mall.open_shop()
        mall.shop.execute("update customer set name = 'Mallory'")
        mall.order(1, "2024-03-10", {"quantity": 7})
        northwind_url = empty_database_url()
        with connect(northwind_url, autocommit=True) as northwind:
            northwind.execute(NORTHWIND.read_bytes())
            northwind.execute(NORTHWIND_ROWS.encode())
        copy_of_shop("mall", tmp_path / "sources")
        landing = tmp_path / "lake" / "landing" / "weblogs"
        landing.mkdir(parents=True)
        (landing / "access.log").write_bytes(lines(1, 10))
        geoip.write(tmp_path / "home" / "geoip" / "demo.mmdb")
        urls = {"shop": pipeline.shop_url, "northwind": northwind_url, "mall": mall.shop_url}
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "DWH_"))
        }
        yield Company(
            pipeline,
            {
                **kept,
                **{f"DWH_{source.upper()}_URL": url for source, url in urls.items()},
                "DWH_WAREHOUSE_URL": pipeline.warehouse_url,
                "DWH_SOURCES": str(tmp_path / "sources"),
                "DWH_HOME": str(tmp_path / "home"),
                "DWH_LAKE": str(tmp_path / "lake"),
            },
            urls,
        )


def with_wrong_password(url: str) -> str:
    return make_conninfo(**{**conninfo_to_dict(url), "password": SECRET})


def test_three_sources_at_once_are_loaded_whole_and_one_with_a_wrong_password_is_named(
    company: Company,
) -> None:
    wrong = with_wrong_password(company.urls["mall"])
    runs = {
        source: company.start("run", source, **({"DWH_MALL_URL": wrong} if source == "mall" else {}))
        for source in SALES
    }
    outputs = {source: "".join(run.communicate(timeout=300)) for source, run in runs.items()}

    assert {source: run.returncode for source, run in runs.items()} == {"shop": 0, "northwind": 0, "mall": 2}
    assert "Source 'mall': Cannot connect to postgresql://" in outputs["mall"]
    assert "DWH_MALL_URL" in outputs["mall"]
    assert company.sales() == {source: SALES[source] for source in ("northwind", "shop")}
    assert company.whole_mirrors() == ["northwind", "shop"]
    assert company.states() == {
        "ingest-mall": "failed", "ingest-northwind": "succeeded", "ingest-shop": "succeeded",
    }  # fmt: skip
    audit = company.warehouse.rows(
        "select run::text from audit.run as run union all select mail::text from audit.outbox as mail"
    )
    assert SECRET not in "".join(outputs.values()) + str(audit)
    # With the right password its run loads what is its own.
    assert company.run("run", "mall")[0] == 0
    assert (company.sales(), company.whole_mirrors()) == (SALES, sorted(SALES))


def test_daily_loads_all_others_names_those_that_failed_and_ends_with_the_worst_exit_code(
    company: Company, tmp_path: Path
) -> None:
    code, output = company.run("run", "daily", DWH_MALL_URL=with_wrong_password(company.urls["mall"]))
    assert code == 1
    assert "1 of 5 steps failed: ingest-mall (Source 'mall': Cannot connect to" in output
    assert SECRET not in output
    assert company.states() == {
        "daily-warehouse": "failed",
        "ingest-mall": "failed",
        "ingest-northwind": "succeeded",
        "ingest-shop": "succeeded",
        "ingest-weblogs": "succeeded",
        "refresh-marts": "succeeded",
    }
    assert company.sales() == {source: SALES[source] for source in ("northwind", "shop")}
    # Corrected and run again, it repeats only what failed, and the marts.
    code, output = company.run("run", "daily")
    assert (code, company.sales()) == (0, SALES)
    assert "Resuming run 1 with ingest-mall, refresh-marts" in output

    # A threshold stops one source (3 alone), another's declaration is wrong: 1 is the worst. The third is loaded.
    company.warehouse.do("delete from order_item", "delete from sales_order")
    (tmp_path / "sources" / "mall" / "source.toml").write_text("[tables.customer]\n")
    with connect(company.urls["northwind"], autocommit=True) as northwind:
        northwind.execute("update customers set company_name = 'Alfreds'")
    code, output = company.run("run", "daily")
    assert code == 1
    assert "2 of 5 steps failed" in output and "ingest-mall (" in output and "ingest-shop (" in output
    assert "source.toml [tables.customer]: 'key' is missing" in output
    assert "Alfreds" in str(company.warehouse.rows("select name from dwh.dim_customer where is_current"))


def test_a_source_that_another_run_holds_comes_last_and_keeps_nobody_waiting(company: Company) -> None:
    with session_lock(company.warehouse.warehouse, "source mall"):
        day = company.start("run", "daily")
        company.warehouse.wait_for(LOCK_AWAITED)
        states = company.states()
    output, errors = day.communicate(timeout=300)
    assert (day.returncode, company.sales()) == (0, SALES), output + errors
    assert (states["ingest-shop"], states["ingest-northwind"]) == ("succeeded", "succeeded")


def test_every_command_knows_the_sources_by_name(company: Company) -> None:
    code, output = company.run("run", "--help")
    assert all(source in output for source in SALES)
    assert company.run("run", "daily")[0] == 0

    about = {row["about"] for row in json.loads(company.start("doctor", "--json").communicate()[0])}
    assert {f"source {source}" for source in SALES} <= about
    assert {table["source"] for table in company.json("status")["tables"]} >= SALES.keys()
    days = company.json("status", "--days", "3")["partitions"]
    assert {one["source"] for one in days} == {*SALES, "weblogs", "marts"}

    verdicts = company.json("reconcile")
    assert {(one["source"], one["verdict"]) for one in verdicts} >= {(source, "equal") for source in SALES}
    assert not [one for one in verdicts if one["verdict"] != "equal"]
    compared = {one["source"] for one in company.json("reconcile", "--source", "mall")}
    assert compared == {"mall", "calendar", "marts"}

    tree = company.json("explain", "customer", "1", "--source", "mall")
    assert "Mallory" in json.dumps(tree)

    ((run_id,),) = company.warehouse.rows("select run_id from audit.run where flow = 'ingest-mall'")
    code, output = company.run("undo", str(run_id), "--cascade")
    assert code == 0, output
    assert company.sales() == {source: SALES[source] for source in ("northwind", "shop")}
    assert company.run("run", "mall")[0] == 0
    assert company.sales() == SALES

    day = "2024-03-10"
    done = company.json("backfill", "--from", day, "--to", day)
    assert {(one["source"], one["rows"]) for one in done["days"]} == {
        ("mall", 1), ("northwind", 0), ("shop", 1), ("weblogs", 0),
    }  # fmt: skip
    path = Path(company.environment["DWH_HOME"]) / "report.html"
    assert company.run("report", "-o", str(path))[0] == 0
    assert all(f"ingest-{source}" in path.read_text() for source in SALES)


def test_watchdog_knows_when_each_source_is_late(company: Company) -> None:
    company.warehouse.warehouse.execute(
        """
        insert into audit.run (flow, launched_by, code_version, host, pid, status, started_at, ended_at)
        values ('ingest-shop', 'schedule', 'x', 'a', 1, 'succeeded', %s, now())
        """,
        [date(2026, 1, 1)],
    )
    late = {row["flow"] for row in company.json("watchdog")["found"]["late"]}
    assert {f"ingest-{source}" for source in SALES} <= late
